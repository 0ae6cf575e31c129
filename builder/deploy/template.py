"""Nodes of a chart's templates: expressions of Go's text/template where a manifest has a value.

`nindent @` is filled in when a file is written: only then is it known how deep a line stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from builder.deploy import yamltext

_DEPTH = re.compile(r"^( *)(.*\bnindent )@", re.MULTILINE)


@dataclass(frozen=True)
class Raw:
    """A scalar, or a key, that is an expression already."""

    text: str

    def entry(self, key: str) -> list[str]:
        return [f"{key}: {self.text}"]

    def item(self) -> list[str]:
        return [f"- {self.text}"]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Lines:
    """A collection that is made by these lines, each deeper than its key."""

    lines: tuple[str, ...]

    def entry(self, key: str) -> list[str]:
        return [f"{key}:", *(f"  {line}" for line in self.lines)]

    def item(self) -> list[str]:
        return list(self.lines)


@dataclass(frozen=True)
class When:
    """A key or an item that is there where a condition holds."""

    condition: str
    value: Any

    def entry(self, key: str) -> list[str]:
        return self._wrapped(yamltext.entry(key, self.value))

    def item(self) -> list[str]:
        return self._wrapped(yamltext.lines([self.value]))

    def _wrapped(self, lines: Iterable[str]) -> list[str]:
        return [f"{{{{- if {self.condition} }}}}", *lines, "{{- end }}"]


def text(path: str) -> Raw:
    """A text of the values."""
    return Raw(f"{{{{ .Values.{path} | quote }}}}")


def whole(expression: str) -> Raw:
    """A whole number; values are floats to Helm, and a large one would get an exponent."""
    return Raw(f"{{{{ {expression} | int }}}}")


def block(path: str) -> Lines:
    """A collection of the values as it is."""
    return Lines((f"{{{{- toYaml .Values.{path} | nindent @ }}}}",))


def fail_if(condition: str, says: str) -> str:
    """Nothing, or Helm ends with what is said."""
    return f'{{{{- if {condition} }}}}{{{{ fail "{says}" }}}}{{{{ end }}}}'


def needed(path: str, says: str) -> Lines:
    """A collection of the values that must hold something."""
    return Lines((fail_if(f"not .Values.{path}", f"{path}: {says}"), *block(path).lines))


def included(name: str) -> Lines:
    """What a named template makes."""
    return Lines((f'{{{{- include "{name}" . | nindent @ }}}}',))


def more(path: str) -> Lines:
    """Further items, or keys, where the values have some."""
    return Lines((f"{{{{- with .Values.{path} }}}}", "{{- toYaml . | nindent @ }}", "{{- end }}"))


def file(value: Any, condition: str = "") -> str:
    """A template's text; with a condition, of an object that may be absent."""
    written = "\n".join(yamltext.lines(value)) + "\n"
    if condition:
        written = f"{{{{- if {condition} }}}}\n{written}{{{{- end }}}}\n"
    return _DEPTH.sub(lambda found: f"{found[1]}{found[2]}{len(found[1])}", written)

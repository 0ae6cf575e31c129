"""Plain data as YAML: the same bytes each time, and every reader finds what was written.

PyYAML writes YAML 1.1 for itself: `1e3` and `0o17` go out unquoted, which Go's reader takes for
numbers. Here a text is quoted unless it can be nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

# A word, a path, a name with its domain; a server's option; an amount of memory. Nothing else that
# begins with a digit or a sign, no ': ' and no '#'.
_BARE = re.compile(
    r"^(?:[A-Za-z/]([A-Za-z0-9_./:@-]*[A-Za-z0-9_./-])?|--[a-z][a-z0-9_-]*|[1-9][0-9]*[KMGTP]i)\Z"
)
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}


@runtime_checkable
class Node(Protocol):
    """What writes itself: an expression of a chart's template in the place of a value."""

    def entry(self, key: str) -> list[str]:
        """Its lines below a key, at no indentation."""

    def item(self) -> list[str]:
        """Its lines in a list."""


class Block(str):
    """A text of several lines, which is written as such; its lines end without blanks."""

    __slots__ = ()

    def entry(self, key: str) -> list[str]:
        """Its lines below a key, at no indentation."""
        return [f"{key}: |", *(f"  {line}" for line in self.splitlines())]

    def item(self) -> list[str]:
        """Its lines in a list."""
        return ["- |", *(f"  {line}" for line in self.splitlines())]


def quoted(text: str) -> str:
    """A text as a YAML scalar of one line."""
    if _BARE.match(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(_escaped(sign) for sign in text) + '"'


def _escaped(sign: str) -> str:
    if sign in _ESCAPES:
        return _ESCAPES[sign]
    number = ord(sign)
    if sign.isprintable() and number not in (0xFEFF,):
        return sign
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def scalar(value: Any) -> str:
    """Of a text, number, boolean or nothing."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return quoted(value)
    raise TypeError(f"{type(value).__name__} is no scalar of a manifest")


def lines(value: Any) -> list[str]:
    """Block style; a list stands as deep as its key, as kubectl and Helm write it."""
    if isinstance(value, Mapping) and value:
        return [line for key, item in value.items() for line in entry(_key(key), item)]
    if isinstance(value, list) and value:
        return [line for item in value for line in _item(item)]
    return [empty(value)]


def empty(value: Any) -> str:
    """A scalar, or a collection that holds nothing."""
    if isinstance(value, Mapping):
        return "{}"
    return "[]" if isinstance(value, list) else scalar(value)


def _key(key: Any) -> str:
    return str(key) if isinstance(key, Node) else scalar(key)


def entry(key: str, value: Any) -> list[str]:
    """A key with its value, at no indentation."""
    if isinstance(value, Node):
        return value.entry(key)
    if isinstance(value, Mapping | list) and value:
        deeper = "  " if isinstance(value, Mapping) else ""
        return [f"{key}:", *(deeper + line for line in lines(value))]
    return [f"{key}: {empty(value)}"]


def _item(value: Any) -> list[str]:
    if isinstance(value, Node):
        return value.item()
    first, *rest = lines(value)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def text(value: Any, *, says: Iterable[str] = ()) -> str:
    """One document, below comments that say what it is."""
    comments = [f"# {line}".rstrip() for line in says]
    return "\n".join([*comments, *lines(value)]) + "\n"


def documents(values: Iterable[Any], *, says: Iterable[str] = ()) -> str:
    """Several in one stream."""
    comments = "".join(f"# {line}".rstrip() + "\n" for line in says)
    return comments + "---\n" + "---\n".join(text(value) for value in values)

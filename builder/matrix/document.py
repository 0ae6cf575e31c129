"""YAML with places: every value remembers the line it stands on.

PyYAML's own loader keeps the last of two equal keys and reads an unquoted 12.10 as the number
12.1; both are how version tables go wrong, so both are errors here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from builder.errors import Place, UserError, brief, nearest, quoted

Key = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + kind for kind in ("bool", "int", "null", "str", "timestamp")}


@dataclass(frozen=True)
class Document:
    """A YAML file as plain data, and the line (1-based) of every key path in it.

    `written` has each scalar as it stands in the file: YAML reads `no` as False.
    """

    file: Path
    data: Any
    lines: dict[Key, int] = field(repr=False)
    written: dict[Key, str] = field(repr=False)

    def place(self, path: Key) -> Place:
        """The line of `path`, or of the closest ancestor that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return Place(self.file, self.lines.get(path))


_QUOTED = re.compile(r"'([^']*)'")
_MOST = 200_000  # values in one file: aliases of aliases can make billions out of ten lines


def read(file: Path, numeric: Callable[[Key], bool] = lambda _path: False) -> Document:
    """Parse one YAML file.

    Raises UserError for a missing or unreadable file, bad syntax, a duplicate key, a recursive
    alias, or an unquoted number with a decimal point. `numeric` says of a key path that no text
    stands there: whoever asks judges such numbers itself.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = file.parent.glob("*.y*ml") if file.parent.is_dir() else ()
        close = nearest(file.name, [other.name for other in siblings])
        hint = close if close.startswith("did") else ""
        raise UserError("no such file", place=Place(file), hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot be read: {why}", place=Place(file)) from None
    document = Document(file, None, {}, {})
    try:
        root = _composed(text)
        if root is None:
            raise UserError("is empty", place=Place(file))
        return replace(document, data=_value(root, (), document, (), numeric))
    except yaml.MarkedYAMLError as error:
        problem = ": ".join(filter(None, (error.context, error.problem)))
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1 if mark else None)
        problem = _QUOTED.sub(lambda found: f"'{brief(found[1])}'", problem)
        raise UserError(f"not YAML: {problem}", place=place) from None
    except yaml.reader.ReaderError as error:
        place = Place(file, text.count("\n", 0, error.position) + 1)
        raise UserError(f"not YAML: {error.reason}", place=place) from None
    except RecursionError:
        raise UserError("not YAML: nested too deeply", place=Place(file)) from None


def _composed(text: str) -> Any:
    """The file's root node, by libyaml where PyYAML was built with it: ten times as fast.

    What it does not like is read once more by PyYAML itself, whose errors say more.
    """
    try:
        return yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return yaml.compose(text, Loader=yaml.SafeLoader)


def _value(
    node: yaml.Node,
    path: Key,
    document: Document,
    open_nodes: tuple[int, ...],
    numeric: Callable[[Key], bool],
) -> Any:
    file, lines = document.file, document.lines
    if len(lines) > _MOST:
        raise UserError("has too many values; are aliases nested in aliases?", place=Place(file))
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if id(node) in open_nodes:
        raise UserError("an alias refers to what it stands in", place=Place(file, line))
    inside = (*open_nodes, id(node))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _key(key_node, file)
            place = Place(file, key_node.start_mark.line + 1)
            if key in mapping:
                first = lines[(*path, key)]
                raise UserError(
                    f"duplicate key {quoted(key)}", place=place, hint=f"first given in line {first}"
                )
            lines[(*path, key)] = key_node.start_mark.line + 1
            mapping[key] = _value(value_node, (*path, key), document, inside, numeric)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return tuple(
            _value(item, (*path, index), document, inside, numeric)
            for index, item in enumerate(node.value)
        )
    document.written[path] = node.value
    if node.tag == _TAG + "float" and numeric(path):
        return math.nan  # no field is of that type, and `written` has what is shown
    return _scalar(node, file)


def _key(node: yaml.Node, file: Path) -> str:
    if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "str":
        return str(node.value)
    shown = brief(node.value) if isinstance(node, yaml.ScalarNode) else "this"
    raise UserError(
        f"the key {shown} is not text",
        place=Place(file, node.start_mark.line + 1),
        hint=f'quote it: "{shown}"' if isinstance(node, yaml.ScalarNode) else "",
    )


def _scalar(node: yaml.Node, file: Path) -> Hashable:
    place = Place(file, node.start_mark.line + 1)
    if node.tag == _TAG + "float":
        raise UserError(
            f"{brief(node.value)} without quotes is a number, and loses its last zero",
            place=place,
            hint=f'quote it: "{brief(node.value)}"',
        )
    if node.tag not in _SCALARS:
        raise UserError(f"unknown tag {quoted(node.tag)}", place=place)
    try:
        constructor = yaml.SafeLoader("")
        value: Hashable = constructor.construct_object(node)
    except ValueError as error:
        raise UserError(f"cannot be understood: {error}", place=place) from None
    except (AttributeError, LookupError):  # an explicit tag, as in `!!bool maybe`
        kind = node.tag.removeprefix(_TAG)
        raise UserError(f"{quoted(node.value)} is not a YAML {kind}", place=place) from None
    return value

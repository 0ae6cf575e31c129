"""matrix.yaml -> Matrix, each error with its line and the nearest valid name."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from builder.errors import Place, UserError, brief, nearest, quoted
from builder.facts import Matrix
from builder.matrix import megabytes
from builder.matrix.document import Document, Key, read
from builder.matrix.misfits import budgets, misfits
from builder.matrix.select import cell, parse_id

_KINDS = {int: "a number", bool: "true or false", NoneType: "nothing"}

_NO = {"model_type": "mapping", "dict_type": "mapping", "tuple_type": "list"}
_UNQUOTE = "take the quotes away"
# pydantic's mistake -> texts that without quotes would be none.
_UNQUOTED = {"date_type": r"\d{4}-\d\d-\d\d", "int_type": r"-?\d{1,9}", "bool_type": "true|false"}


def load(file: Path) -> Matrix:
    """Read and check a whole matrix file; raises UserError with the line of the first mistake."""
    document = read(file, _numeric)
    if not isinstance(document.data, dict):
        raise UserError("is not a mapping", place=Place(file, 1))
    try:
        matrix = Matrix.model_validate(document.data)
    except ValidationError as error:
        raise _explain(error, document) from None
    for path, name, known in _references(matrix):
        if name not in known:
            raise UserError(
                f"{_spell(path)}: unknown name {quoted(name)}",
                place=document.place(path),
                hint=nearest(name, known),
            )
    for path, problem in misfits(matrix):
        raise UserError(f"{_spell(path)}{problem}", place=document.place(path))
    _check_cells(matrix, document)
    for path, problem in budgets(matrix):
        raise UserError(f"{_spell(path)}{problem}", place=document.place(path))
    return matrix


def _references(matrix: Matrix) -> Iterable[tuple[Key, str, Iterable[str]]]:
    """Each place where one table names a row of another."""
    for name, os in matrix.os.items():
        if os.bootstrap_as is not None:
            yield ("os", name, "bootstrap_as"), os.bootstrap_as, matrix.os
    for name, stack in matrix.stacks.items():
        yield ("stacks", name, "os"), stack.os, matrix.os
        for os_name in stack.bases:
            yield ("stacks", name, "bases", os_name), os_name, matrix.os
    for name, framework in matrix.frameworks.items():
        for i, release in enumerate(framework.releases):
            for j, build in enumerate(release.builds):
                path = ("frameworks", name, "releases", i, "builds", j)
                if build.wrap:
                    yield (*path, "wrap", "os"), build.wrap.os, matrix.os
                if build.torch_of:
                    yield (
                        (*path, "torch_of"),
                        build.torch_of,
                        [os for os, row in matrix.os.items() if row.brings],
                    )


def _check_cells(matrix: Matrix, document: Document) -> None:
    seen: dict[str, int] = {}
    for index, text in enumerate(matrix.cells):
        place = document.place(("cells", index))
        own_id = str(parse_id(matrix, text, place))
        if own_id in seen:
            first = document.place(("cells", seen[own_id])).line
            raise UserError(
                f"cell {quoted(text)} is listed twice", place=place, hint=f"line {first}"
            )
        seen[own_id] = index
        if text != own_id:
            hint = f"write {own_id!r}"
            raise UserError(f"cell {quoted(text)} names its stack's own OS", place=place, hint=hint)
        try:
            cell(matrix, text)
        except UserError as error:
            raise UserError(error.what, place=place, hint=error.hint) from None


def _explain(error: ValidationError, document: Document) -> UserError:
    """The first mistake, in the file's own order, as one line.

    A missing key has no line, and is often a misspelt one that has: so those come last.
    """
    mistakes = error.errors(include_url=False, include_context=True)

    def where(mistake: Any) -> tuple[bool, int, str]:
        place = document.place(_key_path(mistake["loc"]))
        return (mistake["type"] == "missing", place.line or 0, str(mistake["loc"]))

    mistake = min(mistakes, key=where)
    what, hint = _of_budget(mistake, document) or _phrase(mistake, document)
    return UserError(what, place=document.place(_key_path(mistake["loc"])), hint=hint)


def _phrase(mistake: Any, document: Document) -> tuple[str, str]:
    """pydantic's words for one mistake in ours: what is wrong, and a hint or ""."""
    path, given = _key_path(mistake["loc"]), mistake.get("input")
    name = _spell(path)
    phrase = f"{name}: {mistake['msg'].lower()}", ""
    match mistake["type"]:
        case "extra_forbidden":
            within = f" in {_spell(path[:-1])}" if path[:-1] else ""
            known = _fields_at(Matrix, path[:-1])
            phrase = f"unknown key {quoted(str(path[-1]))}{within}", nearest(str(path[-1]), known)
        case "missing":
            within = _spell(path[:-1]) or "the file"
            phrase = f"{within} lacks the key {str(path[-1])!r}", ""
        case "enum" | "literal_error":
            expected = mistake["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
            hint = nearest(str(given), expected.split(", "))
            if str(given) == expected:
                hint = _UNQUOTE
            phrase = f"{name}: unknown value {quoted(given)}", hint
        case "string_type" if written := document.written.get(path):
            kind = _KINDS.get(type(given), "a date")
            shown = brief(written)
            phrase = f"{name}: {shown} without quotes is {kind}", f'quote it: "{shown}"'
        case "string_type" | "too_short" if not given:
            phrase = f"{name} is empty", ""
        case "date_type" | "int_type" | "bool_type" as kind if _is_quoted(kind, given):
            phrase = f"{name}: {given!r} in quotes is text", _UNQUOTE
        case "string_pattern_mismatch":
            phrase = f"{name}: {quoted(given)} is not a valid name or version", ""
        case kind if kind in _NO:
            phrase = f"{name} is not a {_NO[kind]}", ""
    return phrase


def _of_budget(mistake: Any, document: Document) -> tuple[str, str] | None:
    """The same for a size that is no number of megabytes; None for other mistakes."""
    path, kind = _key_path(mistake["loc"]), mistake["type"]
    ours = path[0] == "budgets" and kind in {"int_type", "greater_than"}
    if not ours or (kind == "int_type" and _is_quoted(kind, mistake["input"])):
        return None
    written = document.written.get(path, "a list or a mapping")
    what = f"{_spell(path)}: {brief(written) or 'nothing'} is no whole number above 0"
    return what, megabytes.hint(written)


def _is_quoted(mistake: str, given: object) -> bool:
    """Whether quotes are all that is wrong with a value."""
    return isinstance(given, str) and re.fullmatch(_UNQUOTED[mistake], given) is not None


def _key_path(loc: tuple[int | str, ...]) -> Key:
    """pydantic's location without the parts that it adds for keys of mappings ("[key]")."""
    return tuple(part for part in loc if part != "[key]")


def _spell(path: Key) -> str:
    """("os", "debian12", "cells", 0) -> "os.debian12.cells[0]"."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else "." * bool(text) + brief(part)
    return text


def _numeric(path: Key) -> bool:
    """Whether the schema has a whole number there."""
    annotation: Any = Matrix
    for part in path:
        annotation = _child(annotation, part)
    return int in (annotation, *get_args(annotation))


def _fields_at(model: Any, path: Key) -> list[str]:
    """The keys that may stand at `path`, found by walking the schema's own types."""
    annotation: Any = model
    for part in path:
        annotation = _child(annotation, part)
    for candidate in _alternatives(annotation):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return [field.alias or name for name, field in candidate.model_fields.items()]
    return []


def _child(annotation: Any, part: str | int) -> Any:
    for candidate in _alternatives(annotation):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            for name, field in candidate.model_fields.items():
                if part in (name, field.alias):
                    return field.annotation
        elif get_origin(candidate) is dict:
            return get_args(candidate)[1]
        elif get_origin(candidate) is tuple:
            return get_args(candidate)[0]
    return None


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (UnionType, typing.Union):
        return get_args(annotation)
    return (annotation,)

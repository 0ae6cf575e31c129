"""Values of a chart: values.yaml, and the schema by which Helm refuses what is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from builder.deploy import yamltext

QUANTITY = {"type": "string", "pattern": r"^[1-9][0-9]*(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"}
NUMBER = {"type": "integer", "minimum": 1}
TEXT = {"type": "string", "minLength": 1}
MAYBE = {"type": "string"}
FLAG = {"type": "boolean"}
MAP = {"type": "object"}
LIST = {"type": "array"}


@dataclass(frozen=True)
class Row:
    """A value of the chart: where it stands, what it is now, what it is for, what it may be."""

    path: str
    value: Any
    says: str
    schema: dict[str, Any]


def values_text(rows: list[Row]) -> str:
    """values.yaml, each with what it is for."""
    lines = ["# Values of this chart; values.schema.json says what each may be."]
    group = ""
    for row in sorted(rows, key=_group_first(rows)):
        first, dot, rest = row.path.partition(".")
        indent = "  " if dot else ""
        if dot and first != group:
            lines += ["", f"{first}:"]
        elif not dot:
            lines.append("")
        group = first
        lines.append(f"{indent}# {row.says}")
        lines += [
            indent + line for line in yamltext.entry(yamltext.scalar(rest or first), row.value)
        ]
    return "\n".join(lines) + "\n"


def _group_first(rows: list[Row]) -> Callable[[Row], int]:
    """Rows of a group stand together, where its first stands."""
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        first.setdefault(row.path.partition(".")[0], number)
    return lambda row: first[row.path.partition(".")[0]]


def schema(rows: list[Row]) -> dict[str, Any]:
    """values.schema.json: a misspelt value is refused instead of ignored."""
    properties: dict[str, Any] = {}
    for row in rows:
        first, dot, rest = row.path.partition(".")
        described = {"description": row.says, **row.schema}
        if dot:
            group = properties.setdefault(first, _object({}))
            group["properties"][rest] = described
        else:
            properties[first] = described
    others: dict[str, Any] = {
        "fullnameOverride": {"description": "Instead of the release's name.", **MAYBE},
        "global": {"description": "Helm's own, of charts that contain this one.", **MAP},
    }
    made = _object({**properties, **others})
    return {"$schema": "http://json-schema.org/draft-07/schema#", **made}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}

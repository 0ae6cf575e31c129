"""Values of a chart: values.yaml, and the schema by which Helm refuses what is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from builder.deploy import checked, yamltext

# What Helm checks before anything is asked of a cluster. The names and keys are Kubernetes' own, as
# in checked.py, in the syntax that Go's and JavaScript's readers of expressions share.
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_OBJECT = rf"{_LABEL}(\.{_LABEL})*"
QUANTITY = {"type": "string", "pattern": r"^[1-9][0-9]*(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"}
NUMBER = {"type": "integer", "minimum": 1}
SECONDS = {**NUMBER, "maximum": checked.LONGEST}
TEXT = {"type": "string", "minLength": 1}
WORD = {"type": "string", "pattern": r"^\S+$"}
OBJECT = {"type": "string", "pattern": f"^{_OBJECT}$"}
MAYBE = {"type": "string", "pattern": f"^({_OBJECT})?$"}
KEY = {"type": "string", "pattern": r"^[A-Za-z0-9._-]+$"}
RESOURCE = {"type": "string", "pattern": f"^{_OBJECT}/[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$"}
# api/v1 Duration of the Prometheus Operator.
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))+$"}
FLAG = {"type": "boolean"}
MAP = {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
LIST_OF_TEXTS = {"type": "array", "items": {"type": "string"}}
LIST = {"type": "array", "items": MAP}
NAMED = {
    "type": "array",
    "items": {"type": "object", "required": ["name"], "properties": {"name": OBJECT}},
}
VARIABLES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            "value": {"type": "string"},
            "valueFrom": MAP,
        },
    },
}


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
    """values.schema.json: what is misspelt, or taken away and cannot be, is refused."""
    properties: dict[str, Any] = {}
    for row in rows:
        first, dot, rest = row.path.partition(".")
        described = {"description": row.says, **row.schema}
        if dot:
            properties.setdefault(first, {})[rest] = described
        else:
            properties[first] = described
    groups = {row.path.partition(".")[0] for row in rows if "." in row.path}
    made = {name: _object(one) if name in groups else one for name, one in properties.items()}
    needed = _needed(made)
    made["fullnameOverride"] = {"description": "Instead of the release's name.", "type": "string"}
    made["global"] = {"description": "Helm's own, of charts that contain this one.", **MAP}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_object(made, needed)}


def _object(properties: dict[str, Any], needed: list[str] | None = None) -> dict[str, Any]:
    needed = _needed(properties) if needed is None else needed
    made: dict[str, Any] = {"type": "object", "additionalProperties": False}
    return {**made, **({"required": needed} if needed else {}), "properties": properties}


def _needed(properties: dict[str, Any]) -> list[str]:
    """A scalar cannot be taken away with `null`; a map or a list can, and is then left out."""
    return [
        name
        for name, one in properties.items()
        if "required" in one or one.get("type") not in ("object", "array")
    ]

"""Decisions and advice in words, for who asks why."""

from __future__ import annotations

from .decide import OFF, REFUSED, SET, YOURS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence

    Row = Dict[str, Any]


def lines(decisions: Sequence[Row], advised: Sequence[Row]) -> List[str]:
    """What was decided and what the host could do, a line each."""
    made = []
    for row in decisions:
        source = f" [{row['source']}]" if row.get("source") else ""
        effect = f"; effect: {row['effect']}" if row.get("effect") else ""
        if row["status"] == SET:
            made.append(f"set {row['name']}={row['value']}: {row['why']}{effect}{source}")
        elif row["status"] == YOURS:
            made.append(f"left {row['name']}={row['value']}: you have set it")
        elif row["status"] == REFUSED:
            made.append(f"not set {row['name']}={row['value']}: {row['why']}")
        elif row["status"] == OFF:
            made.append(f"off {row['name']}: {row['why']}{effect}{source}")
    for a in advised:
        where = a.get("where", "On the host")
        made.append(f"host: {a['what']}: {a['why']}. {where}: {a['command']}")
    return made or ["nothing to set here"]

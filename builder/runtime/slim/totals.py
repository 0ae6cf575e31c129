"""Reports of files as one: which of them are told, and totals."""

from __future__ import annotations

import time

from . import one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    Report = Dict[str, Any]


def summed(
    path: str,
    reports: List[Report],
    options: one.Options,
    *,
    seen: int,
    start: float,
    dry: bool = False,
) -> Report:
    """Reports of files as one; `start` is when work began, on the monotonic clock."""
    return {
        "path": path,
        "sms": list(options.sms),
        "mode": options.mode,
        "dry_run": dry,
        "files": [report for report in reports if _worth(report)],
        "total": _total(reports, seen),
        "seconds": round(time.monotonic() - start, 3),
    }


def changed(report: Report) -> bool:
    """Whether a file has become another one."""
    return not report["refused"] and bool(report["changed"])


def _worth(report: Report) -> bool:
    """Whether a report says more than that a file is an ELF file."""
    return bool(report["refused"] or report["containers"] or changed(report))


def _total(reports: List[Report], seen: int) -> Report:
    total: Report = {
        "files": seen,
        "elf": len(reports),
        "changed": sum(map(changed, reports)),
        "refused": sum(bool(report["refused"]) for report in reports),
    }
    read = [report for report in reports if not report["refused"]]
    for key in ("before", "after"):
        total[key] = sum(report[key] for report in reports)
    for key in ("debug", "containers"):
        total[key] = sum(report[key] for report in read)
    for key in ("kept", "removed", "strange"):
        total[key] = _added(report[key] for report in read)
    sms = sorted({sm for report in read for sm in report["uncovered"]}, key=int)
    total["uncovered"] = {
        sm: _added(report["uncovered"].get(sm, {}) for report in read) for sm in sms
    }
    return total


def _added(counts: Any) -> Dict[str, int]:
    out: Dict[str, int] = {}
    for each in counts:
        for name, number in each.items():
            out[name] = out.get(name, 0) + number
    return dict(sorted(out.items()))

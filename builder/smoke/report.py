"""What a smoke found out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """A check that did not run is skipped and says why; it never counts as passed."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing tried; `seconds` is wall time."""

    name: str
    status: Status
    detail: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SmokeReport:
    """All checks of one image."""

    cell_id: str
    image: str
    engine: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Something passed and nothing failed."""
        statuses = {check.status for check in self.checks}
        return Status.PASSED in statuses and Status.FAILED not in statuses

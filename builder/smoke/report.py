"""What a smoke found out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from builder.engines.base import UnsupportedError
from builder.errors import BuildError

# What is tried: it returns what it saw, and fails by raising BuildError.
Probe = Callable[[], str]
OnCheck = Callable[[str], None]


class Skip(Exception):  # noqa: N818 - not an error
    """A check that cannot run here, with the reason."""


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


def checked(name: str, probe: Probe) -> Check:
    """Try one thing, and time it."""
    start = time.monotonic()
    try:
        status, detail = Status.PASSED, probe()
    except (Skip, UnsupportedError) as reason:
        status, detail = Status.SKIPPED, str(reason)
    except BuildError as error:
        status, detail = Status.FAILED, told(error)
    seconds = round(time.monotonic() - start, 2)
    return Check(name=name, status=status, detail=detail, seconds=seconds)


def told(error: BuildError) -> str:
    """A failure with the end of its log."""
    return "\n".join([str(error), *error.tail])


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

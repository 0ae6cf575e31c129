"""Where pushing and pulling report to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from builder.engines.base import OnLine


@dataclass(frozen=True)
class Progress:
    """The step that begins, and how it comes along."""

    step: Callable[[str], None]
    line: OnLine

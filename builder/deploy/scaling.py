"""Replicas by load: between how many, and by which of the server's gauges."""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder.deploy import checked
from builder.deploy.served import Served
from builder.errors import UserError, quoted

TARGET = 5  # requests that wait at a replica, by which it is scaled where nothing else is said
_LARGEST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Between how many replicas, and at which load a replica."""

    least: int
    most: int
    target: int  # of the server's gauge, a replica


def parse(
    served: Served, text: str | None, target: int | None, replicas: int | None
) -> Scaling | None:
    """`MIN:MAX`; None where nobody asked for it. Raises UserError."""
    if text is None:
        return None
    if replicas is not None:
        raise UserError(
            "--replicas with --autoscale: the autoscaler says how many there are",
            hint="--autoscale MIN:MAX alone",
        )
    needs_metrics(served, "--autoscale", wanted=True)
    found = re.match(r"^([0-9]{1,5}):([0-9]{1,5})\Z", text)
    least, most = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= least <= most:
        raise UserError(
            f"--autoscale: {quoted(text)} is no range",
            hint="MIN:MAX as 1:4; no cluster scales to 0 so",
        )
    load = TARGET if target is None else target
    if not 1 <= load <= _LARGEST:
        raise UserError(f"--target: {load} is no load", hint=f"1 to {_LARGEST}")
    return Scaling(least=least, most=checked.replicas(most, "--autoscale"), target=load)


def needs_metrics(served: Served, option: str, *, wanted: bool) -> None:
    """Raises UserError where a server's metrics are asked for and nobody knows them."""
    if wanted and served.metrics is None:
        raise UserError(f"{option}: of {served.title}'s metrics nothing is known")

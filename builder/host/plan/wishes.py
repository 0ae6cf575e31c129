"""What a user asks for beside the rows' advice; raises UserError for what cannot be."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from builder.errors import UserError, nearest, quoted
from builder.host.mig import commands, layout
from builder.host.mig.layout import Layout

_PAGES = re.compile(r"(2M|1G)=(\d{1,9})", re.IGNORECASE | re.ASCII)
_BYTES = {"2M": 2 << 20, "1G": 1 << 30}


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """All that may be wished."""

    rows: frozenset[str] | None = None  # only these; None: all
    pages: tuple[tuple[str, int], ...] = ()  # "2M" or "1G" -> how many
    power: int | None = None  # watts of each GPU
    toolkit: str = ""  # of CUDA, as "13.0"
    mig: Layout | None = None
    devices: str = "0"  # of which GPUs MIG is


def rows(text: str | None, known: Collection[str]) -> frozenset[str] | None:
    """Names of rows, separated by commas."""
    if text is None:
        return None
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"--rows: no row {quoted(name)}", hint=nearest(name, known))
    return frozenset(names)


def pages(text: str | None) -> tuple[tuple[str, int], ...]:
    """As "2M=1024,1G=8"."""
    found: dict[str, int] = {}
    for part in text.split(",") if text is not None else ():
        match = _PAGES.fullmatch(part.strip())
        if match is None or int(match[2]) == 0:
            raise UserError(
                f"--hugepages: {quoted(part.strip())} is no SIZE=COUNT",
                hint="write for example 2M=1024, 1G=8, or 2M=1024,1G=8",
            )
        if match[1].upper() in found:
            raise UserError(f"--hugepages: {match[1].upper()} is there twice", hint="say it once")
        found[match[1].upper()] = int(match[2])
    return tuple(sorted(found.items()))


def size(wanted: tuple[tuple[str, int], ...]) -> int:
    """Bytes of huge pages."""
    return sum(_BYTES[unit] * count for unit, count in wanted)


def toolkit(text: str | None) -> str:
    """A release of CUDA as packages are named by it."""
    if text is None:
        return ""
    # 11 is the first whose toolkit is a package of that name in repositories of today.
    if not re.fullmatch(r"1[1-9]\.\d", text, re.ASCII):
        raise UserError(
            f"--cuda-toolkit: {quoted(text)} is no release of CUDA", hint="write for example 13.0"
        )
    return text


def mig(gpu: str | None, wanted: str | None, devices: str | None) -> tuple[Layout | None, str]:
    """A layout that fits on the card, and the GPUs that it is for; without any the first."""
    if wanted is None:
        for option, value in (("--gpu", gpu), ("--devices", devices)):
            if value is not None:
                raise UserError(f"{option} says nothing without --mig", hint="leave it out")
        return None, "0"
    if gpu is None:
        raise UserError("--mig: of which card?", hint="add for example --gpu h100")
    return layout.choose(gpu, wanted), commands.devices_of(devices if devices is not None else "0")

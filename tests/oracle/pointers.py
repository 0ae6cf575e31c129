"""Where what points to something in a library points in another that was made of it."""

from __future__ import annotations

import re
import subprocess
from array import array
from collections.abc import Mapping
from pathlib import Path

from tests.oracle.memory import Memory

_LARGE = re.compile(r"\] \.l(?:ro)?data +PROGBITS ")
_RELOCATIONS = re.compile(r"\] \.rela\.dyn +RELA +([0-9a-f]+) [0-9a-f]+ ([0-9a-f]+) ")
_GOT = re.compile(r"\(PLTGOT\) +(0x[0-9a-f]+)")


def may_move(path: Path) -> bool:
    """Whether the library has sections that code reaches by 64 bits only."""
    return bool(_LARGE.search(_readelf("-SW", path)))


def followed(
    whole: Memory, path: Path, slimmed: Memory, sizes: Mapping[int, int]
) -> dict[int, int]:
    """Old address -> new one, of those that something points to.

    `path`: of the whole one; `sizes`: bytes of what may move, by its old address.

    Pointers stand in the first segment: addends of .rela.dyn that are an address, and 64 bits of a
    MOV that are its distance from the global offset table. All else of that segment that is
    nothing of these must be what it was: raises AssertionError.
    """
    told = _GOT.search(_readelf("-dW", path))
    assert told
    away = -int(told[1], 16)
    table = _RELOCATIONS.search(_readelf("-SW", path))
    assert table
    start, size = (int(one, 16) for one in table.groups())
    first = whole.loads[0]
    old, new = (bytearray(one.read(first.vaddr, first.filesz)) for one in (whole, slimmed))

    spots = [(at, 0) for at in range(start - first.vaddr + 16, start - first.vaddr + size, 24)]
    coded = {address + away for address in sizes}
    for shift in range(8):
        stop = (len(old) - shift) // 8 * 8 + shift
        for index, value in enumerate(array("q", bytes(old[shift:stop]))):
            at = shift + 8 * index
            if value in coded and old[at - 2] in b"\x48\x49" and old[at - 1] >> 3 == 0xB8 >> 3:
                spots.append((at, away))
    out: dict[int, int] = {}
    for at, base in spots:
        was, now = (int.from_bytes(one[at : at + 8], "little", signed=True) for one in (old, new))
        if was - base in sizes:
            assert out.setdefault(was - base, now - base) == now - base, "pointers to one differ"
            old[at : at + 8] = new[at : at + 8] = bytes(8)
    for at, size in ((0, 64 + 56 * 16), *((key - first.vaddr, sizes[key]) for key in sizes)):
        inside = slice(min(at, len(old)), min(at + size, len(old)))
        old[inside] = new[inside] = bytes(len(old[inside]))
    assert old == new, "other bytes of the code changed"
    return out


def _readelf(option: str, path: Path) -> str:
    return subprocess.run(
        ["readelf", option, path], capture_output=True, text=True, check=True, timeout=600
    ).stdout

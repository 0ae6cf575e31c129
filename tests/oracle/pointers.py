"""Where what points to something in a library points in another that was made of it."""

from __future__ import annotations

import re
import subprocess
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.oracle.memory import Memory

_LARGE = re.compile(r"\] \.l(?:ro)?data +PROGBITS ")
_RELOCATIONS = re.compile(r"\] \.rela\.dyn +RELA +([0-9a-f]+) [0-9a-f]+ ([0-9a-f]+) ")
_GOT = re.compile(r"\(PLTGOT\) +(0x[0-9a-f]+)")


def followed(
    whole: Memory, path: Path, slimmed: Memory, sizes: Mapping[int, int]
) -> dict[int, int]:
    """Old address -> new one, of those that something points to.

    `path`: of the whole one; `sizes`: bytes of what may move, by its old address. Pointers are
    addends of .rela.dyn that are an address and, in a library with large sections, 64 bits of a MOV
    that are its distance from the global offset table. All else of the segments that hold code or
    relocations, and is nothing of these, must be what it was: raises AssertionError.
    """
    sections = _readelf("-SW", path)
    got = _GOT.search(_readelf("-dW", path))
    table = _RELOCATIONS.search(sections)
    start, size = (int(one, 16) for one in table.groups()) if table else (0, 0)
    out: dict[int, int] = {}
    for load in whole.loads:
        relocations = range(start + 16 - load.vaddr, start + size - load.vaddr, 24)
        held = load.vaddr <= start < load.vaddr + load.filesz
        if not (load.flags & 1 or held):
            continue
        old, new = (bytearray(one.read(load.vaddr, load.filesz)) for one in (whole, slimmed))
        spots = [(at, 0) for at in relocations if held]
        if got and load.flags & 1 and _LARGE.search(sections):
            spots += [(at, -int(got[1], 16)) for at in _coded(bytes(old), -int(got[1], 16), sizes)]
        for at, base in spots:
            was, now = (
                int.from_bytes(one[at : at + 8], "little", signed=True) - base for one in (old, new)
            )
            if was in sizes:
                assert out.setdefault(was, now) == now, "pointers to one thing differ"
                old[at : at + 8] = new[at : at + 8] = bytes(8)
        headers = (0, 64 + 56 * 16) if not load.offset else (0, 0)
        for at, length in (headers, *((key - load.vaddr, sizes[key]) for key in sizes)):
            if 0 <= at < len(old):
                old[at : at + length] = new[at : at + length] = bytes(len(old[at : at + length]))
        assert old == new, "other bytes than GPU code and pointers changed"
    return out


def _coded(code: bytes, away: int, sizes: Mapping[int, int]) -> Iterator[int]:
    """Where the 64 bits of a MOV are `away` from one of these addresses."""
    wanted = {address + away for address in sizes}
    for shift in range(8):
        stop = (len(code) - shift) // 8 * 8 + shift
        for index, value in enumerate(array("q", bytes(code[shift:stop]))):
            at = shift + 8 * index
            if value in wanted and code[at - 2] in b"\x48\x49" and code[at - 1] >> 3 == 0xB8 >> 3:
                yield at


def _readelf(option: str, path: Path) -> str:
    return subprocess.run(
        ["readelf", option, path], capture_output=True, text=True, check=True, timeout=600
    ).stdout

"""What a library's fatbin containers hold, and what of it a GPU takes; written without the slimmer.

The format, little endian, as measured on CUDA 12 and 13 wheels: a container begins with u32
0xBA55ED50, u16 version 1, u16 header size 16, u64 size of what follows. Entries stand back to back:
u16 kind, u16, u32 header size, u64 payload size; the SM is the u32 at +28, flags the u64 at +40.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

MAGIC = struct.pack("<I", 0xBA55ED50)
CUBIN = 2
KINDS = {1: "ptx", 2: "elf", 8: "nvvm"}  # as cuobjdump calls them
_VARIANTS = {1 << 20: "a", 1 << 21: "f"}
_TEGRA = {53, 62, 72, 87, 101, 110}  # their machine code and that of other chips do not mix


class Entry(NamedTuple):
    """One compilation."""

    kind: str
    sm: int
    variant: str
    digest: str  # of its header and its payload, as stored
    empty: bool  # whether it has no payload

    @property
    def arch(self) -> str:
        """As cuobjdump spells it."""
        return f"sm_{self.sm}{self.variant}"


def sms(file: Path) -> set[str]:
    """Compute capabilities of the machine code in a file, as {"8.0", "9.0"}."""
    if not file.stat().st_size:
        return set()
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as data:
        found = {
            struct.unpack_from("<HHIQIIII", data, at)[7]
            for _, entries in places(data)
            for at, _ in entries
            if struct.unpack_from("<H", data, at)[0] == CUBIN
        }
        return {f"{sm // 10}.{sm % 10}" for sm in found}


def places(data: mmap | bytes) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Where each container stands, and its entries; bytes that only look like one are passed."""
    at = data.find(MAGIC)
    while at >= 0:
        end = at + 4
        if at + 16 <= len(data):
            version, header, size = struct.unpack_from("<HHQ", data, at + 4)
            if version == 1 and header == 16 and at + 16 + size <= len(data):
                entries = list(_within(data, at + 16, at + 16 + size))
                if (entries[-1][1] if entries else at + 16) == at + 16 + size:
                    end = at + 16 + size
                    yield at, entries
        at = data.find(MAGIC, end)


def _within(data: mmap | bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
    while at + 48 <= end:
        header, payload = struct.unpack_from("<IQ", data, at + 4)
        if header < 48 or at + header + payload > end:
            return
        yield at, at + header + payload
        at += header + payload


def entry(raw: bytes) -> Entry:
    """What an entry's bytes say."""
    kind, _, header, payload, _, _, _, sm = struct.unpack_from("<HHIQIIII", raw)
    (flags,) = struct.unpack_from("<Q", raw, 40)
    assert len(raw) == header + payload
    variant = "".join(letter for bit, letter in _VARIANTS.items() if flags & bit)
    digest = hashlib.sha256(raw).hexdigest()
    return Entry(KINDS.get(kind, str(kind)), sm, variant, digest, payload == 0)


def taken(entries: Iterable[Entry], sm: int, *, linked: bool = False) -> list[int]:
    """Which of a container's entries a GPU of this SM takes, by their numbers.

    Machine code of its major version, the highest minor not above its own; without any, the
    highest PTX. Code for a chip or a family beside code for all counts as taken, too. So do, in a
    library that links at run time (`linked`), LTO IR, PTX beside it, and PTX that is not for newer
    GPUs, which no link for this one can take.
    """
    there = [(number, one) for number, one in enumerate(entries) if not one.empty]
    cubins = _highest([(n, one) for n, one in there if one.kind == "elf" and _runs(one, sm)])
    texts = _highest([(n, one) for n, one in there if one.kind == "ptx" and _compiles(one, sm)])
    also: set[int] = set()
    if linked:
        beside = any(one.kind == "nvvm" for _, one in there)
        also = {
            number
            for number, one in there
            if one.kind != "elf" and (one.kind != "ptx" or beside or one.sm <= sm)
        }
    return sorted((cubins or texts) | also)


def _highest(found: list[tuple[int, Entry]]) -> set[int]:
    best = {
        variant: max(one.sm for _, one in found if one.variant == variant)
        for variant in {one.variant for _, one in found}
    }
    return {number for number, one in found if one.sm == best[one.variant]}


def _runs(one: Entry, sm: int) -> bool:
    if one.sm == sm:
        return True
    kin = one.sm // 10 == sm // 10 and one.sm < sm and "a" not in one.variant
    return kin and (one.sm in _TEGRA) == (sm in _TEGRA)


def _compiles(one: Entry, sm: int) -> bool:
    if "a" in one.variant:
        return one.sm == sm
    return one.sm <= sm and (not one.variant or one.sm // 10 == sm // 10)

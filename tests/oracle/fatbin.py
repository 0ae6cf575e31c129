"""Which SMs a library holds machine code for, read from its fatbin containers.

The format, little endian, as measured on CUDA 12 and 13 wheels: a container begins with u32
0xBA55ED50, u16 version 1, u16 header size 16, u64 size of what follows. Entries stand back to back:
u16 kind (1 PTX, 2 cubin), u16, u32 header size, u64 payload size; the SM is the u32 at +28.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)
CUBIN = 2


def sms(file: Path) -> set[str]:
    """Compute capabilities of the machine code in a file, as {"8.0", "9.0"}."""
    if not file.stat().st_size:
        return set()
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as data:
        return {f"{sm // 10}.{sm % 10}" for kind, sm in _entries(data) if kind == CUBIN}


def _entries(data: mmap) -> Iterator[tuple[int, int]]:
    """Kind and SM of each entry; bytes that only look like a container are passed over."""
    at = data.find(MAGIC)
    while at >= 0:
        end = at + 4
        if at + 16 <= len(data):
            version, header, size = struct.unpack_from("<HHQ", data, at + 4)
            if version == 1 and header == 16 and at + 16 + size <= len(data):
                end = at + 16 + size
                yield from _within(data, at + 16, end)
        at = data.find(MAGIC, end)


def _within(data: mmap, at: int, end: int) -> Iterator[tuple[int, int]]:
    while at + 32 <= end:
        kind, _, header, payload = struct.unpack_from("<HHIQ", data, at)
        if header < 32 or at + header + payload > end:
            return
        yield kind, struct.unpack_from("<I", data, at + 28)[0]
        at += header + payload

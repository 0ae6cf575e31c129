"""Machine code that stands in a library as zstd frames, in no container of GPU code.

builder/runtime/slim/frames.py says where such code is found and how its ELF header names the SM; a
test compares the two. Here imgbuild's own libzstd unpacks, so that a host needs none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from builder import zstd
from builder.runtime.slim import elf
from builder.runtime.slim.fatbin import Container
from builder.runtime.slim.frames import Frame

_MAGIC = re.compile(re.escape(zstd.MAGIC))
_CUDA = 190  # e_machine (EM_CUDA)
_SHIFT = {0x33: 0, 0x41: 8}  # EI_OSABI -> where e_flags have the SM
_SMS = range(30, 200)
_BLOCK = 1 << 18  # bytes: more than a frame's head and its first block
_SIZES = (1 << 20, 1 << 26)  # bytes that are looked through for a frame's end
_MOST_ASTRAY = 10_000  # magic numbers of no cubin


def found(data: bytes, containers: Sequence[Container], stop: int) -> list[Frame]:
    """Those in a file's first `stop` bytes (also of an mmap), in order.

    Raises Refused for a file that is made of what only looks so.
    """
    frames: list[Frame] = []
    astray = 0
    for at in _places(data, containers, stop):
        if frames and at < frames[-1].end:
            continue
        if one := _frame(data, at, stop):
            frames.append(one)
            continue
        astray += 1
        if astray > _MOST_ASTRAY:
            raise elf.Refused("too much in it looks like zstd frames of GPU code and is none")
    return frames


def _places(data: bytes, containers: Sequence[Container], stop: int) -> Iterator[int]:
    start = 0
    for at, end in [*((one.at, one.end) for one in containers), (stop, stop)]:
        for match in _MAGIC.finditer(data, start, at):
            yield match.start()
        start = end


def _frame(data: bytes, at: int, stop: int) -> Frame | None:
    head = zstd.head(data[at : min(at + _BLOCK, stop)], elf.HEADER)
    whole = len(head) == elf.HEADER and elf.is_elf(head)
    sm = sm_of(head) if whole else None
    if sm is None:
        return None
    sizes = (zstd.frame_size(data[at : min(at + most, stop)]) for most in _SIZES)
    size = next(filter(None, sizes), None)
    return Frame(at, at + size, sm) if size else None


def sm_of(head: bytes) -> int | None:
    """90 for 9.0, by the ELF header of a cubin; None for other files, and for no SM that is."""
    if int.from_bytes(head[18:20], "little") != _CUDA or head[7] not in _SHIFT:
        return None
    sm = int.from_bytes(head[48:52], "little") >> _SHIFT[head[7]] & 0xFF
    return sm if sm in _SMS else None

"""What a process sees of a shared object: its segments as the dynamic loader maps them.

Written without the slimmer, to judge it: headers are read anew, and every address is asked.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import NamedTuple


class Load(NamedTuple):
    """A PT_LOAD."""

    vaddr: int
    memsz: int
    offset: int
    filesz: int
    flags: int


class Memory:
    """The image of one file's bytes, at the addresses that its headers name."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        (phoff,) = struct.unpack_from("<Q", data, 32)
        (number,) = struct.unpack_from("<H", data, 56)
        self.loads: list[Load] = []
        for index in range(number):
            kind, flags, offset, vaddr, _, filesz, memsz, align = struct.unpack_from(
                "<IIQQQQQQ", data, phoff + 56 * index
            )
            if kind == 1:
                # What glibc refuses: elf/dl-load.c, _dl_map_object_from_fd.
                assert align % 4096 == 0
                assert not align or (vaddr - offset) % align == 0
                assert offset + filesz <= len(data)
                assert not self.loads or vaddr >= self.loads[-1].vaddr + self.loads[-1].memsz
                self.loads.append(Load(vaddr, memsz, offset, filesz, flags))
        self._starts = [one.vaddr for one in self.loads]

    def spans(self) -> list[tuple[int, int, int]]:
        """Where something is mapped: address, end, permissions; neighbours alike are one."""
        out: list[tuple[int, int, int]] = []
        for one in self.loads:
            if out and out[-1][1:] == (one.vaddr, one.flags):
                out[-1] = (out[-1][0], one.vaddr + one.memsz, one.flags)
            else:
                out.append((one.vaddr, one.vaddr + one.memsz, one.flags))
        return out

    def read(self, address: int, size: int) -> bytes:
        """Bytes as a program reads them."""
        out = bytearray()
        while size:
            one = self.loads[bisect_right(self._starts, address) - 1]
            at = address - one.vaddr
            assert 0 <= at < one.memsz, f"{address:#x} is not mapped"
            step = min(size, one.memsz - at)
            stored = max(0, min(step, one.filesz - at))
            out += self.data[one.offset + at : one.offset + at + stored] + bytes(step - stored)
            address += step
            size -= step
        return bytes(out)

    def address(self, offset: int) -> int:
        """Of a byte of the file."""
        one = next(one for one in self.loads if 0 <= offset - one.offset < one.filesz)
        return one.vaddr + offset - one.offset


def entries(memory: Memory, address: int) -> list[bytes]:
    """Each entry's bytes, header and payload, of the container that stands there."""
    magic, _, _, size = struct.unpack("<IHHQ", memory.read(address, 16))
    assert magic == 0xBA55ED50
    data = memory.read(address + 16, size)
    out = []
    at = 0
    while at < size:
        header, payload = struct.unpack_from("<IQ", data, at + 4)
        out.append(data[at : at + header + payload])
        at += header + payload
    assert at == size
    return out

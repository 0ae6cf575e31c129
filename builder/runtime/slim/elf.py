"""ELF64, little endian: headers as they stand, checked before anything relies on them.

Source: System V ABI, chapters 4 and 5; elf.h of glibc.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

REL, EXEC, DYN = 1, 2, 3  # e_type
LOAD, DYNAMIC, INTERP, PHDR = 1, 2, 3, 6  # p_type
EXECUTE = 1  # p_flags
NULL, PROGBITS, SYMTAB, STRTAB, RELA, NOBITS, RELOCATIONS, DYNSYM = (
    0,
    1,
    2,
    3,
    4,
    8,
    9,
    11,
)  # sh_type
ALLOC, EXECUTED, INFO_LINK = 0x2, 0x4, 0x40  # sh_flags
HEADER = 64  # bytes of the file's header, and of one of a section
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENTS = 4096  # no linker writes half as many, and we less
_MOST = 1 << 47  # where an x86-64 or AArch64 process ends


class Refused(Exception):  # noqa: N818 - no fault of the program
    """A file is not what we know how to rewrite; the text says what of it."""


class Segment(NamedTuple):
    """A program header, in the table's order."""

    kind: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int

    @property
    def end(self) -> int:
        """Where its bytes end in the file."""
        return self.offset + self.filesz

    def packed(self) -> bytes:
        """As it stands in a file, 56 bytes."""
        return _SEGMENT.pack(*self)


class Section(NamedTuple):
    """A section header, in the table's order."""

    name: int
    kind: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int

    @property
    def stored(self) -> int:
        """Bytes that it takes in the file."""
        return 0 if self.kind in {NULL, NOBITS} else self.size

    @property
    def end(self) -> int:
        """Where its bytes end in the file."""
        return self.offset + self.stored

    def packed(self) -> bytes:
        """As it stands in a file, 64 bytes."""
        return _SECTION.pack(*self)


class Elf(NamedTuple):
    """What a file's headers say."""

    kind: int
    machine: int
    phoff: int
    shoff: int
    shstrndx: int
    segments: List[Segment]
    sections: List[Section]
    names: List[bytes]  # of the sections
    size: int  # bytes of the whole file

    @property
    def loads(self) -> List[Segment]:
        """Segments that the loader maps and that have bytes in the file."""
        return [one for one in self.segments if one.kind == LOAD and one.filesz]

    @property
    def head(self) -> int:
        """Where the last mapped byte ends in the file: what follows, no program address reaches."""
        return max((one.end for one in self.loads), default=0)

    @property
    def library(self) -> bool:
        """Whether the dynamic loader maps it, and not the kernel."""
        return self.kind == DYN and all(one.kind != INTERP for one in self.segments)


def is_elf(head: bytes) -> bool:
    """Whether a file that begins so is ELF64 and little endian."""
    return head[:6] == b"\x7fELF\x02\x01"


def kind_of(head: bytes) -> int:
    """e_type of a file that begins so, 0 where that is too short."""
    return int.from_bytes(head[16:18], "little")


def read(data: bytes) -> Elf:
    """Headers of a file's bytes (also an mmap). Raises Refused."""
    size = len(data)
    if size < HEADER or not is_elf(data[:6]):
        raise Refused("no ELF64 header")
    kind, machine = struct.unpack_from("<HH", data, 16)
    phoff, shoff = struct.unpack_from("<QQ", data, 32)
    own, phentsize, phnum, shentsize, shnum, shstrndx = struct.unpack_from(
        "<6H",
        data,
        52,
    )
    if own != HEADER or not 0 < phnum < _SEGMENTS or phentsize != _SEGMENT.size:
        raise Refused("a program header table of an unknown form")
    if phoff < HEADER or phoff + phnum * phentsize > size:
        raise Refused("program headers lie outside the file")
    segments = [
        Segment(*_SEGMENT.unpack_from(data, phoff + index * phentsize)) for index in range(phnum)
    ]
    sections = _sections(data, shoff, shentsize, shnum, size)
    elf = Elf(
        kind, machine, phoff, shoff, shstrndx, segments, sections,
        _names(data, sections, shstrndx), size,
    )  # fmt: skip
    _check(elf)
    return elf


def _sections(data: bytes, shoff: int, shentsize: int, shnum: int, size: int) -> List[Section]:
    if not shoff and not shnum:
        return []
    if not shnum or shentsize != _SECTION.size:
        raise Refused("a section header table of an unknown form")
    if shoff < HEADER or shoff + shnum * shentsize > size:
        raise Refused("section headers lie outside the file")
    return [
        Section(*_SECTION.unpack_from(data, shoff + index * shentsize)) for index in range(shnum)
    ]


def _names(data: bytes, sections: List[Section], shstrndx: int) -> List[bytes]:
    if not sections:
        return []
    if not 0 < shstrndx < len(sections) or sections[shstrndx].kind != STRTAB:
        raise Refused("sections without names")
    table = sections[shstrndx]
    if table.end > len(data):
        raise Refused("a section reaches beyond the file's end")
    text = bytes(data[table.offset : table.end])
    if any(one.name >= len(text) for one in sections):
        raise Refused("a section's name lies outside their table")
    return [text[one.name : max(text.find(b"\0", one.name), one.name)] for one in sections]


def _check(elf: Elf) -> None:
    _check_memory([one for one in elf.segments if one.kind == LOAD])
    offset = 0
    for one in sorted(elf.loads, key=lambda one: one.offset):
        if one.offset < offset:
            raise Refused("segments share bytes of the file")
        offset = one.end
    if any(one.end > elf.size for one in elf.segments if one.filesz):
        raise Refused("a segment reaches beyond the file's end")
    if any(one.end > elf.size for one in elf.sections):
        raise Refused("a section reaches beyond the file's end")
    if any(one.align & (one.align - 1) for one in elf.sections):
        raise Refused("a section's alignment is no power of two")


def _check_memory(loads: List[Segment]) -> None:
    if not loads:
        raise Refused("nothing that would be loaded")
    end = 0
    for one in loads:
        if one.filesz > one.memsz or one.vaddr + one.memsz > _MOST:
            raise Refused("a segment reaches beyond the address space")
        if one.vaddr < end:
            raise Refused("segments overlap or are out of order")
        end = one.vaddr + one.memsz
        if one.align & (one.align - 1) or (one.align > 1 and (one.vaddr - one.offset) % one.align):
            raise Refused("a segment is not aligned as it says")

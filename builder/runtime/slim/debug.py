"""Sections that only debuggers and profilers read."""

from __future__ import annotations

from . import elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Set

_DEBUG = (b".debug_", b".zdebug_", b".gdb_index", b".gnu_debugdata", b".stab")


def sections(file: elf.Elf) -> Set[int]:
    """Indexes of section headers that can go, with their bytes.

    Only those behind all that is mapped, in the file and in the table: symbols of .dynsym name
    sections by their index, so these have to stand.
    """
    head = file.head
    last = max((i for i, one in enumerate(file.sections) if one.flags & elf.ALLOC), default=0)
    loose = {
        index
        for index, one in enumerate(file.sections)
        if index > last and one.offset >= head and not one.flags & elf.ALLOC
        and one.kind not in {elf.NULL, elf.NOBITS} and index != file.shstrndx
    }  # fmt: skip
    gone = {index for index in loose if file.names[index].startswith(_DEBUG)}
    for index in loose - gone:  # ld --emit-relocs
        one = file.sections[index]
        if one.kind in {elf.RELA, elf.RELOCATIONS} and one.info in gone:
            gone.add(index)
    for index in sorted(loose - gone):
        if file.sections[index].kind == elf.SYMTAB and not _linked(file, index, gone):
            gone.add(index)
            names = file.sections[index].link
            if names in loose and file.sections[names].kind == elf.STRTAB:
                if not _linked(file, names, gone):
                    gone.add(names)
    # A string table may be the last that .stab and its like refer to; what refers must not dangle.
    for index, one in enumerate(file.sections):
        if index not in gone and one.link in gone:
            return set()
    return gone


def _linked(file: elf.Elf, index: int, gone: Set[int]) -> bool:
    return any(one.link == index for i, one in enumerate(file.sections) if i not in gone)

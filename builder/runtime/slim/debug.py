"""Sections that only debuggers and profilers read."""

from __future__ import annotations

from . import elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Set

_DEBUG = (b".debug_", b".zdebug_", b".gdb_index", b".gnu_debugdata", b".stab")


def sections(file: elf.Elf) -> Set[int]:
    """Indexes of section headers whose bytes can go: nothing of them is mapped."""
    mapped = [(one.offset, one.end) for one in file.segments if one.filesz]
    loose = {
        index
        for index, one in enumerate(file.sections)
        if one.stored and not one.flags & elf.ALLOC and index != file.shstrndx
        and not any(at < one.end and one.offset < end for at, end in mapped)
    }  # fmt: skip
    linkers: Dict[int, Set[int]] = {}
    for index, one in enumerate(file.sections):
        linkers.setdefault(one.link, set()).add(index)
    gone = {index for index in loose if file.names[index].startswith(_DEBUG)}
    for index in loose - gone:  # ld --emit-relocs
        one = file.sections[index]
        if one.kind in {elf.RELA, elf.RELOCATIONS} and one.info in gone:
            gone.add(index)
    for index in sorted(loose - gone):
        if file.sections[index].kind == elf.SYMTAB and linkers.get(index, set()) <= gone:
            gone.add(index)
            names = file.sections[index].link
            if names in loose and file.sections[names].kind == elf.STRTAB:
                gone |= {names} if linkers.get(names, set()) <= gone else set()
    # What refers to a string table that would go, as .stab does, keeps all of them.
    dangling = any(one.link in gone for i, one in enumerate(file.sections) if i not in gone)
    return set() if dangling else gone

"""What of a library's relocations, symbols and code leads to which address.

Written without the slimmer's own search for pointers, to judge what it made of them: tables are
read at their addresses, as the loader reads them, and every byte of code is asked.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from builder.runtime.slim import elf
from tests.oracle.memory import Memory

_X86_64, _RELATIVE = 62, 8
_PLTGOT, _SYMTAB, _RELA, _RELASZ, _REL, _RELR = 3, 6, 7, 8, 17, 36
_MOVE = re.compile(rb"(?=[\x48\x49][\xb8-\xbf](.{8}))", re.DOTALL)
_LEA = re.compile(rb"(?=[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](.{4}))", re.DOTALL)
_WRAP = 1 << 64


class Reach:
    """Of one file. `known` says whether its relocations are all of the form that is read here."""

    def __init__(self, data: bytes, file: elf.Elf, memory: Memory, gone: Iterable[int]) -> None:
        self._memory = memory
        self.places: dict[int, list[tuple[int, int]]] = {}  # address -> where 64 bits say so, less
        self.fixed: set[int] = set()  # what is reached otherwise
        tags = self._tags(file) if file.machine == _X86_64 else {}
        needed = {_PLTGOT, _SYMTAB, _RELA, _RELASZ}
        self.known = needed <= tags.keys() and not {_REL, _RELR} & tags.keys()
        if self.known:
            self._relocations(tags, len(data))
            self._code(data, file, tags[_PLTGOT])
            self.fixed |= set(_symbols(data, file, set(gone)))
        self._all = sorted(self.fixed | self.places.keys())

    def only_by_pointers(self, address: int, size: int) -> bool:
        """Whether what stands there is found by pointers to its begin and by nothing else."""
        found = self.known and address in self.places and address not in self.fixed
        return found and not self.within(address + 1, address + size)

    def within(self, begin: int, end: int) -> bool:
        """Whether anything leads to one of these addresses."""
        return bisect_left(self._all, begin) < bisect_left(self._all, end)

    def _tags(self, file: elf.Elf) -> dict[int, int]:
        """The loader reads them up to the first that is zero; empty if it would find no end."""
        tables = [one for one in file.segments if one.kind == elf.DYNAMIC]
        out: dict[int, int] = {}
        try:
            for at in range(tables[-1].vaddr, _WRAP, 16) if tables else ():
                tag, value = struct.unpack("<QQ", self._memory.read(at, 16))
                if not tag:
                    return out
                out[tag] = value
        except AssertionError:
            pass
        return {}

    def _relocations(self, tags: dict[int, int], most: int) -> None:
        size = tags[_RELASZ]
        try:
            table = self._memory.read(tags[_RELA], size) if size <= most else None
        except AssertionError:
            table = None
        if table is None or size % 24:
            self.known = False
            return
        for index, (offset, info, addend) in enumerate(struct.iter_unpack("<QQQ", table)):
            self.fixed.add(offset)
            kind, symbol = info % (1 << 32), info >> 32
            if info == _RELATIVE:
                place = tags[_RELA] + 24 * index + 16
                self.places.setdefault(addend, []).append((place, 0))
            elif kind == _RELATIVE or not symbol:
                self.fixed.add(addend)
            if symbol:
                self._symbol(tags[_SYMTAB] + 24 * symbol + 8, addend)

    def _symbol(self, at: int, addend: int) -> None:
        try:
            (value,) = struct.unpack("<Q", self._memory.read(at, 8))
        except AssertionError:
            return  # the loader crashes
        self.fixed.add((value + addend) % _WRAP)

    def _code(self, data: bytes, file: elf.Elf, got: int) -> None:
        seen: set[int] = set()
        for one in file.sections:
            if one.kind != elf.PROGBITS or not one.flags & elf.EXECUTED:
                continue
            text = data[one.offset : one.end]
            for found in _MOVE.finditer(text):
                place = self._mapped(one.offset + found.start(1), 8)
                target = (int.from_bytes(found[1], "little") + got) % _WRAP
                if place is not None and place not in seen:
                    seen.add(place)
                    self.places.setdefault(target, []).append((place, got))
            for found in _LEA.finditer(text):
                place = self._mapped(one.offset + found.start(1), 4)
                if place is not None:
                    away = int.from_bytes(found[1], "little", signed=True)
                    self.fixed.add(place + 4 + away)

    def _mapped(self, offset: int, size: int) -> int | None:
        """The address of these bytes of the file; None: they are not mapped as a whole."""
        for load in self._memory.loads:
            if load.offset <= offset and offset + size <= load.offset + load.filesz:
                return load.vaddr + offset - load.offset
        return None


def _symbols(data: bytes, file: elf.Elf, gone: set[int]) -> Iterator[int]:
    for index, one in enumerate(file.sections):
        if one.kind in {elf.SYMTAB, elf.DYNSYM} and index not in gone:
            table = data[one.offset : one.end - one.size % 24]
            yield from (symbol[4] for symbol in struct.iter_unpack("<IBBHQQ", table))

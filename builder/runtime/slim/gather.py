"""GPU code moved together within a section, so that whole pages between become free.

Tens of thousands of small containers, as cuFFT has them, each lose less than a page, and nothing of
that can leave the file. A container moves if all that finds it is known and can be made to find it
elsewhere: relocations that the loader applies, and instructions that hold 64 bits of an address. In
a section that is marked as large there is no third way for code to reach it, since displacements of
32 bits are not for such sections. What is reached otherwise, or by nothing that we see, stays, and
so does all that stands between containers.

Source: System V ABI, AMD64 supplement: "Large Code Model", "Medium position independent code
model (PIC)", SHF_X86_64_LARGE; Intel's manual, MOV: no other instruction has an immediate of 64
bits.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_left
from typing import NamedTuple

from . import elf
from .layout import size_of
from .rewrite import Edit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, List, Sequence, Set

    from .fatbin import Container
    from .layout import Piece

# Bytes that have to become free for it to be worth other addresses.
LEAST = 1 << 22
_NEAR = 1 << 12  # bytes
_X86_64 = 62
_LARGE = 0x10000000  # SHF_X86_64_LARGE
_NAMES = (b".ldata", b".lrodata")
_RELATIVE = 8  # R_X86_64_RELATIVE
_PLTGOT, _RELA, _RELASZ, _REL, _RELR = 3, 7, 8, 17, 36  # d_tag
_RELOCATION = 24  # bytes of an Elf64_Rela
_SYMBOL = struct.Struct("<IBBHQQ")
_MOVE = re.compile(rb"[\x48\x49][\xb8-\xbf]")  # REX.W and the register; then come the 64 bits
# LEA of what is 32 bits away: code is not to reach large sections so, and what it does reach stays.
_LEA = re.compile(rb"[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d]")


def gathered(
    file: elf.Elf,
    data: bytes,
    found: Sequence[Container],
    edits: Sequence[Edit],
    gone: Set[int],
    *,
    least: int = LEAST,
) -> List[Edit]:
    """The edits, with those that bring a section's containers together, if `least` bytes get free.

    `gone`: sections that leave, whose symbols nobody reads.
    """
    new = {one.at: one for one in edits}
    tables = _dynamic(file, data) if file.machine == _X86_64 else None
    if tables is None:
        return list(edits)
    pointers: Dict[int, int] = {}
    for section, name in zip(file.sections, file.names):
        inside = [one for one in found if section.offset <= one.at and one.end <= section.end]
        freed = sum(one.size - sum(map(size_of, _pieces(one, new))) for one in inside)
        if not _is_large(section, name) or freed < least:
            continue
        known = _Known(file, data, section, tables, gone)
        for run in _runs(data, section, [one for one in inside if known.moves(one)], known):
            edit = _moved(run, section, new, known, pointers)
            for one in run:
                new.pop(one.at, None)
            new[edit.at] = edit
    together = [*new.values(), *_repointed(data, pointers)]
    return together if _apart(together) else list(edits)


def _is_large(section: elf.Section, name: bytes) -> bool:
    # Linkers lose the flag where a section of that name comes without it, too.
    marked = section.flags & _LARGE or name in _NAMES
    return section.kind == elf.PROGBITS and bool(section.flags & elf.ALLOC and marked)


def _pieces(one: Container, new: Dict[int, Edit]) -> Sequence[Piece]:
    return new[one.at].pieces if one.at in new else ((one.at, one.end),)


class _Tables(NamedTuple):
    """Of what the loader reads."""

    got: int  # the address that code adds its 64 bits to
    at: int  # relocations, bytes from the file's start
    end: int


def _dynamic(file: elf.Elf, data: bytes) -> _Tables | None:
    """None where relocations come in a form that is not known here."""
    table = next((one for one in file.segments if one.kind == elf.DYNAMIC), None)
    if table is None or table.filesz % 16:
        return None
    tags: Dict[int, int] = {}
    for tag, value in struct.iter_unpack("<QQ", data[table.offset : table.end]):
        if not tag:
            break
        tags[tag] = value
    if not {_PLTGOT, _RELA, _RELASZ} <= tags.keys() or {_REL, _RELR} & tags.keys():
        return None
    size = tags[_RELASZ]
    for one in file.loads:
        at = tags[_RELA] - one.vaddr + one.offset
        if one.offset <= at and at + size <= one.end and not size % _RELOCATION:
            return _Tables(tags[_PLTGOT], at, at + size)
    return None


class _Known:
    """All of a section that relocations, symbols and instructions speak of, as the file's bytes."""

    def __init__(
        self,
        file: elf.Elf,
        data: bytes,
        section: elf.Section,
        tables: _Tables,
        gone: Set[int],
    ) -> None:
        self._addresses = range(section.addr, section.addr + section.size)
        self._shift = section.offset - section.addr
        self._got = tables.got
        # Where the pointers to something stand, each of eight bytes.
        self.relocated: Dict[int, List[int]] = {}
        self.coded: Dict[int, List[int]] = {}
        self._fixed = {at for index in range(len(file.sections)) if index not in gone
                       for at in self._symbols(data, file.sections[index])}  # fmt: skip
        self._relocations(data, tables)
        self._instructions(file, data)
        self._all = sorted({*self._fixed, *self.relocated, *self.coded})

    def moves(self, one: Container) -> bool:
        """Whether all that finds it can be made to find it elsewhere."""
        reached = one.at in self.relocated or one.at in self.coded
        return reached and one.at not in self._fixed and not self.speak_of(one.at + 1, one.end)

    def speak_of(self, at: int, end: int) -> bool:
        """Whether any of these bytes is reached."""
        return bisect_left(self._all, at) != bisect_left(self._all, end)

    def value(self, at: int, *, coded: bool) -> int:
        """What a pointer to these bytes holds."""
        return at - self._shift - (self._got if coded else 0)

    def _symbols(self, data: bytes, section: elf.Section) -> Iterator[int]:
        if section.kind not in {elf.SYMTAB, elf.DYNSYM}:
            return
        end = section.end - section.size % _SYMBOL.size
        for symbol in _SYMBOL.iter_unpack(data[section.offset : end]):
            if symbol[4] in self._addresses:
                yield symbol[4] + self._shift

    def _relocations(self, data: bytes, tables: _Tables) -> None:
        words = array("Q", bytes(data[tables.at : tables.end]))
        for index, address in enumerate(words[2::3]):
            if address in self._addresses and words[3 * index + 1] == _RELATIVE:
                at = tables.at + index * _RELOCATION + 16
                self.relocated.setdefault(address + self._shift, []).append(at)
            elif address in self._addresses:
                self._fixed.add(address + self._shift)
        # What the loader writes to is no GPU code, whatever it looks like.
        self._fixed |= {address + self._shift for address in words[::3]
                        if address in self._addresses}  # fmt: skip

    def _instructions(self, file: elf.Elf, data: bytes) -> None:
        for load in file.loads:
            if not load.flags & elf.EXECUTE:
                continue
            for found in _LEA.finditer(data, load.offset, load.end - 4):
                end = found.end() + 4
                away = int.from_bytes(data[found.end() : end], "little", signed=True)
                reached = end - load.offset + load.vaddr + away
                if reached in self._addresses:
                    self._fixed.add(reached + self._shift)
            for found in _MOVE.finditer(data, load.offset, load.end - 8):
                at = found.end()
                away = int.from_bytes(data[at : at + 8], "little", signed=True)
                if away + self._got in self._addresses:
                    place = away + self._got + self._shift
                    self.coded.setdefault(place, []).append(at)


def _runs(
    data: bytes, section: elf.Section, moving: Sequence[Container], known: _Known
) -> Iterator[List[Container]]:
    """Containers with nothing but what aligns them between: zeros that nothing speaks of."""
    run: List[Container] = []
    for one in moving:
        gap = (run[-1].end, one.at) if run else (one.at, one.at)
        padded = gap[1] - gap[0] < max(section.align, 1) and not any(data[gap[0] : gap[1]])
        if not padded or known.speak_of(*gap):
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def _moved(
    run: List[Container],
    section: elf.Section,
    new: Dict[int, Edit],
    known: _Known,
    pointers: Dict[int, int],
) -> Edit:
    """A run's containers from its begin on, aligned as they were; `pointers` gets what changes."""
    pieces: List[Piece] = []
    place = run[0].at
    for one in run:
        address = one.at - section.offset + section.addr
        # As far as the section's own alignment says that there is any.
        step = min(address & -address, section.align) or 1
        gap = (one.at - place) % step
        if gap:
            pieces.append(gap)
        place += gap
        for at in known.relocated.get(one.at, ()) if place != one.at else ():
            pointers[at] = known.value(place, coded=False)
        for at in known.coded.get(one.at, ()) if place != one.at else ():
            pointers[at] = known.value(place, coded=True)
        own = _pieces(one, new)
        pieces += own
        place += sum(map(size_of, own))
    return Edit(run[0].at, run[-1].end, tuple(pieces))


def _repointed(data: bytes, pointers: Dict[int, int]) -> Iterator[Edit]:
    """One edit for pointers that stand near each other."""
    near: List[int] = []
    for at in [*sorted(pointers), len(data) + _NEAR]:
        if near and at - near[-1] >= _NEAR:
            text = bytearray(data[near[0] : near[-1] + 8])
            for one in near:
                struct.pack_into("<q", text, one - near[0], pointers[one])
            yield Edit(near[0], near[-1] + 8, (bytes(text),))
            near = []
        near.append(at)


def _apart(edits: Sequence[Edit]) -> bool:
    """Whether no two share bytes."""
    ordered = sorted(edits)
    return all(one.end <= other.at for one, other in zip(ordered, ordered[1:]))  # noqa: RUF007 - Python 3.9

"""GPU code moved together within a section, so that whole pages between become free.

Containers that lose less than some pages each, as the 23,984 of cuFFT do, leave nothing that can be
cut out of the file. A container moves if all that finds it is known and can be made to find it
elsewhere: relocations that the loader applies, and instructions that hold 64 bits of an address,
as code of the medium and large models does. What is reached otherwise - by a symbol, by an
instruction with 32 bits, or by nothing that we see - stays, and so does all that stands between
containers.

Source: System V ABI, AMD64 supplement: "Position-Independent Function and Data Access", "Medium
position independent code model (PIC)".
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

from . import elf, instructions
from .layout import size_of
from .rewrite import HOLE, Edit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, Iterator, List, Sequence, Set, Tuple

    from .fatbin import Container
    from .layout import Piece

# Bytes that have to become free for it to be worth other addresses.
LEAST = 1 << 20
_NEAR = 1 << 12  # bytes
_X86_64 = 62
_RELATIVE = 8  # R_X86_64_RELATIVE
_PLTGOT, _SYMTAB, _RELA, _RELASZ, _REL, _RELR = 3, 6, 7, 8, 17, 36  # d_tag
_ADDRESS = (1 << 64) - 1
_MOST = 1 << 47  # addresses
_RELOCATION = 24  # bytes of an Elf64_Rela
_SYMBOL = struct.Struct("<IBBHQQ")


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
    inside = {
        section: some
        for section in file.sections
        if section.kind == elf.PROGBITS and section.flags & elf.ALLOC and _mapped(file, section)
        for some in [[one for one in found if section.offset <= one.at and one.end <= section.end]]
        if sum(_wasted(one, new) for one in some) >= least
    }
    apart = _apart((one.offset, one.end) for one in inside)
    sound = inside and file.machine == _X86_64 and apart and _code_stands(file)
    tables = _dynamic(file, data) if sound else None
    if tables is None:
        return list(edits)
    known = _Known(file, data, list(inside), tables, gone)
    pointers: Dict[int, int] = {}
    for section, some in inside.items():
        for run in _runs(data, section, [one for one in some if known.moves(one)], known):
            edit = _moved(run, section, new, known, pointers)
            for one in run:
                new.pop(one.at, None)
            new[edit.at] = edit
    together = [*new.values(), *_repointed(data, pointers)]
    return together if _apart((one.at, one.end) for one in together) else list(edits)


def _code_stands(file: elf.Elf) -> bool:
    """Whether all instructions are at the addresses that their sections say."""
    return all(_mapped(file, one) for one in file.sections if _executed(file, one))


def _executed(file: elf.Elf, one: elf.Section) -> bool:
    """What is not mapped is not."""
    here = one.stored and one.offset < file.head
    return bool(here and one.kind == elf.PROGBITS and one.flags & elf.EXECUTED)


def _mapped(file: elf.Elf, one: elf.Section) -> bool:
    """Whether a segment brings it to its addresses: else these say nothing about the file."""
    return any(
        load.offset <= one.offset and one.end <= load.end
        and load.vaddr - load.offset == one.addr - one.offset
        for load in file.loads
    )  # fmt: skip


def _wasted(one: Container, new: Dict[int, Edit]) -> int:
    """Bytes that it loses and that cannot leave the file where it stands."""
    freed = one.size - sum(map(size_of, _pieces(one, new)))
    return freed if freed < HOLE else 0


def _pieces(one: Container, new: Dict[int, Edit]) -> Sequence[Piece]:
    return new[one.at].pieces if one.at in new else ((one.at, one.end),)


class _Tables(NamedTuple):
    """Of what the loader reads."""

    got: int  # the address to which code adds its 64 bits
    at: int  # relocations, bytes from the file's start
    end: int
    symbols: int  # those that relocations name, bytes from the file's start


def _dynamic(file: elf.Elf, data: bytes) -> _Tables | None:
    """None where relocations come in a form that is not known here."""
    found = [one for one in file.segments if one.kind == elf.DYNAMIC]
    if len(found) != 1 or found[0].filesz % 16:
        return None
    (table,) = found
    if _offset(file, table.vaddr, table.filesz) != table.offset:
        return None
    tags: Dict[int, int] = {}
    for tag, value in struct.iter_unpack("<QQ", data[table.offset : table.end]):
        if not tag:
            break
        tags[tag] = value
    else:
        return None  # the loader reads on
    if not {_PLTGOT, _SYMTAB, _RELA, _RELASZ} <= tags.keys() or {_REL, _RELR} & tags.keys():
        return None
    size = tags[_RELASZ]
    at, symbols = _offset(file, tags[_RELA], size), _offset(file, tags[_SYMTAB], _SYMBOL.size)
    if at < 0 or symbols < 0 or size % _RELOCATION or tags[_PLTGOT] >= _MOST:
        return None
    return _Tables(tags[_PLTGOT], at, at + size, symbols)


def _offset(file: elf.Elf, address: int, size: int) -> int:
    """Where bytes of these addresses stand in the file, -1: not as a whole."""
    for one in file.loads:
        at = address - one.vaddr + one.offset
        if one.offset <= at and at + size <= one.end:
            return at
    return -1


class _Known:
    """All of some sections that relocations, symbols and instructions speak of.

    By the offsets in the file of what is spoken of.
    """

    def __init__(
        self,
        file: elf.Elf,
        data: bytes,
        sections: Sequence[elf.Section],
        tables: _Tables,
        gone: Set[int],
    ) -> None:
        self._sections = sorted(sections, key=lambda one: one.addr)
        self._starts = [one.addr for one in self._sections]
        self._low = self._starts[0]
        self._high = max(one.addr + one.size for one in self._sections)
        self.got = tables.got
        # Where the pointers to something stand, each of eight bytes.
        self.relocated: Dict[int, List[int]] = {}
        self.coded: Dict[int, List[int]] = {}
        self._fixed: Set[int] = set()
        for index, one in enumerate(file.sections):
            if one.kind in {elf.SYMTAB, elf.DYNSYM} and index not in gone:
                self._symbols(data[one.offset : one.end - one.size % _SYMBOL.size])
            if _executed(file, one):
                self._instructions(data, one)
        self._relocations(data, tables)
        self._fixed.discard(-1)
        self._all = sorted({*self._fixed, *self.relocated, *self.coded})

    def moves(self, one: Container) -> bool:
        """Whether all that finds it can be made to find it elsewhere."""
        reached = one.at in self.relocated or one.at in self.coded
        return reached and one.at not in self._fixed and not self.speak_of(one.at + 1, one.end)

    def speak_of(self, at: int, end: int) -> bool:
        """Whether any of these bytes is reached."""
        return bisect_left(self._all, at) != bisect_left(self._all, end)

    def _place(self, address: int) -> int:
        """Where an address of these sections stands in the file, -1: in none of them."""
        if not self._low <= address < self._high:
            return -1
        section = self._sections[bisect_right(self._starts, address) - 1]
        inside = address - section.addr < section.size
        return address - section.addr + section.offset if inside else -1

    def _symbols(self, table: bytes) -> None:
        self._fixed |= {self._place(symbol[4]) for symbol in _SYMBOL.iter_unpack(table)}

    def _relocations(self, data: bytes, tables: _Tables) -> None:
        words = array("Q", bytes(data[tables.at : tables.end]))
        low, high = self._low, self._high
        for index in [n for n, address in enumerate(words[2::3]) if low <= address < high]:
            place = self._place(words[3 * index + 2])
            if place >= 0 and words[3 * index + 1] == _RELATIVE:
                at = tables.at + index * _RELOCATION + 16
                self.relocated.setdefault(place, []).append(at)
            elif place >= 0:
                self._fixed.add(place)
        for index, info in enumerate(words[1::3]):
            if info >> 32:  # a symbol's address, and so far behind it
                at = tables.symbols + (info >> 32) * _SYMBOL.size
                if at + _SYMBOL.size <= len(data):
                    value = _SYMBOL.unpack_from(data, at)[4] + words[3 * index + 2]
                    self._fixed.add(self._place(value & _ADDRESS))
        # What the loader writes to is no GPU code, whatever it looks like.
        self._fixed |= {self._place(address) for address in words[::3] if low <= address < high}

    def _instructions(self, data: bytes, code: elf.Section) -> None:
        spans = [range(one.addr, one.addr + one.size) for one in self._sections]
        behind = [range(one.start - self.got, one.stop - self.got) for one in spans]
        for at, away in instructions.moves(data, code, behind):
            place = self._place(away + self.got)
            if place >= 0:
                self.coded.setdefault(place, []).append(at)
        self._fixed |= {self._place(address) for address in instructions.leas(data, code, spans)}


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
        if place != one.at:
            moved = place - section.offset + section.addr
            pointers.update(dict.fromkeys(known.relocated.get(one.at, ()), moved))
            pointers.update(dict.fromkeys(known.coded.get(one.at, ()), moved - known.got))
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


def _apart(spans: Iterable[Tuple[int, int]]) -> bool:
    """Whether no two share bytes."""
    ordered = sorted(spans)
    return all(one[1] <= other[0] for one, other in zip(ordered, ordered[1:]))  # noqa: RUF007 - Python 3.9

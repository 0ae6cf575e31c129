"""Section headers of a new file, and the bytes that only these speak of."""

from __future__ import annotations

from . import elf
from .elf import Refused
from .layout import Hole, size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Sequence, Set, Tuple

    from .layout import Offsets, Piece

_NO_SECTION = elf.Section(0, elf.NULL, 0, 0, 0, 0, 0, 0, 0, 0)


def renumbered(file: elf.Elf, gone: Set[int]) -> Dict[int, int]:
    """Old indexes of section headers to new ones. Symbols name mapped sections: these stand."""
    last = max((i for i, one in enumerate(file.sections) if one.flags & elf.ALLOC), default=0)
    stay = [index for index in range(len(file.sections)) if index <= last or index not in gone]
    return {old: index for index, old in enumerate(stay)}


def tail(
    file: elf.Elf, data: bytes, holes: Sequence[Hole], new: Offsets, gone: Set[int]
) -> Tuple[List[Piece], List[elf.Section], int]:
    """What follows the mapped part, the section headers, and where these begin."""
    _no_strangers(file, data)
    out: List[Piece] = []
    at = new(file.head)
    moved: Dict[int, int] = {}
    for index in sorted(range(len(file.sections)), key=lambda i: file.sections[i].offset):
        one = file.sections[index]
        if one.stored and one.offset >= file.head and index not in gone:
            if one.flags & elf.ALLOC:
                raise Refused("a mapped section lies outside all segments")
            gap = -at % max(one.align, 1)
            out += [part for part in (gap, (one.offset, one.end)) if size_of(part)]
            moved[index] = at + gap
            at += gap + one.size
    sections = _headers(file, holes, new, gone, moved)
    if not sections:
        return out, [], 0
    gap = -at % 8
    return [*out, gap] if gap else out, sections, at + gap


def _headers(
    file: elf.Elf,
    holes: Sequence[Hole],
    new: Offsets,
    gone: Set[int],
    moved: Dict[int, int],
) -> List[elf.Section]:
    """All section headers. Those that a hole adds come last: symbols name the others by number."""
    numbers = renumbered(file, gone)
    first: List[elf.Section] = []
    more: List[elf.Section] = []
    for index in numbers:
        one = file.sections[index]
        linked = one._replace(link=numbers.get(one.link, 0))
        if one.flags & elf.INFO_LINK or one.kind in {elf.RELA, elf.RELOCATIONS}:
            linked = linked._replace(info=numbers.get(one.info, 0))
        if index in gone:
            first.append(_NO_SECTION)
        elif index in moved:
            first.append(linked._replace(offset=moved[index]))
        else:
            parts = _parts(linked, holes, new, file.head)
            first.append(parts[0])
            more += parts[1:]
    if len(first) + len(more) >= 0xFF00:
        raise Refused("too many sections")
    return first + more


def _parts(one: elf.Section, holes: Sequence[Hole], new: Offsets, head: int) -> List[elf.Section]:
    """A section as what is left of it: a header for each part between holes."""
    within = [hole for hole in holes if one.offset < hole.end and hole.at < one.end]
    if not within:
        return [one._replace(offset=new(one.offset) if one.offset <= head else new(head))]
    if one.kind != elf.PROGBITS or not one.flags & elf.ALLOC:
        raise Refused("GPU code in a section of another kind")
    out: List[elf.Section] = []
    at = one.offset
    for hole in [*within, Hole(one.end, one.end, 0)]:
        if hole.at > at:
            # Only the first is where the linker aligned it.
            align = one.align if not out else 1
            out.append(one._replace(addr=one.addr + at - one.offset, offset=new(at),
                                    size=min(hole.at, one.end) - at, align=align))  # fmt: skip
        at = hole.end
    if not out:
        raise Refused("a section would be empty")
    return out


def _no_strangers(file: elf.Elf, data: bytes) -> None:
    """Behind the mapped part there must be nothing that no header speaks of: it could not move."""
    spans = [(one.offset, one.end) for one in file.sections if one.stored and one.end > file.head]
    if any(start < file.head for start, _ in spans):
        raise Refused("a section lies half within a segment")
    if file.sections and file.shoff + elf.HEADER * len(file.sections) > file.head:
        if file.shoff < file.head:
            raise Refused("section headers lie half within a segment")
        spans.append((file.shoff, file.shoff + elf.HEADER * len(file.sections)))
    at = file.head
    for start, end in sorted(spans):
        if start < at:
            raise Refused("sections share bytes of the file")
        if any(data[at:start]):
            raise Refused("bytes between sections that no header speaks of")
        at = end
    if any(data[at : file.size]):
        raise Refused("data behind the ELF file's own, which may say where it stands")

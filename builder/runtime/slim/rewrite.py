"""A smaller file with the same memory image: spans become zeros, and whole pages of these leave.

Nothing moves in memory, so no pointer is patched. Where pages leave the file, the segment that had
them is split: the part before maps its bytes, and anonymous zero pages follow (p_memsz >
p_filesz). That needs more program headers. Their table goes into the first page that was to leave:
it is mapped there, read-only where the code was, at an address that the library owns already, so
l_phdr points into memory and no segment has to be found for it (glibc elf/dl-load.c; patchelf adds
a segment for the same end). Sections are split likewise.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import NamedTuple

from . import elf, sections
from .elf import Refused
from .layout import Hole, Offsets, size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Sequence, Set, Tuple

    from .layout import Piece

# The loader maps whole pages, and AArch64 has kernels with pages of 64 KiB.
PAGES = {62: 0x1000, 183: 0x10000}  # e_machine: x86-64, AArch64
# A hole costs a program header (56 bytes), a section header (64) and two areas in the kernel's list
# of mappings, of which a process has 65530 by default.
HOLE = 1 << 16
MOST_HOLES = 1000
_SEGMENT = 56  # bytes


class Edit(NamedTuple):
    """What stands at `at` up to `end` instead of what stood there; zeros fill the rest."""

    at: int
    end: int
    pieces: Tuple[Piece, ...]


def compose(
    file: elf.Elf,
    data: bytes,
    edits: Sequence[Edit],
    gone: Set[int],
    *,
    split: bool,
    least: int = HOLE,
) -> List[Piece]:
    """The new file, in order. `gone` are the sections that leave; `split`: whether segments may be.

    Edits are in order and each lies within one mapped segment. Raises Refused.
    """
    table = (file.phoff, _SEGMENT * len(file.segments))
    if any((one.offset, one.filesz) != table for one in file.segments if one.kind == elf.PHDR):
        raise Refused("the program headers are elsewhere than their own segment says")
    edits = sorted([*edits, *_gaps(file, gone)])
    stream = _edited(edits, file.head)
    holes = _holes(file, stream, least if split else file.size) if edits else []
    within = [hole for hole in holes if hole.headers]
    spot = 0
    if within:
        size = _SEGMENT * (len(file.segments) + sum(hole.headers for hole in within))
        room = -(-size // _page(file)) * _page(file)
        host = next((hole for hole in within if hole.end - hole.at > room), None)
        if host is None:
            holes = [hole for hole in holes if not hole.headers]
        else:
            spot = host.at
            stream = _overlaid(stream, spot, room)
            holes[holes.index(host)] = host._replace(at=spot + room)
    if not holes and not gone:
        return [*stream, (file.head, file.size)] if file.size > file.head else stream
    return _laid_out(file, data, gone, stream, _Layout(holes, spot))


class _Layout(NamedTuple):
    """Which pages leave, and the old offset where the program headers go, 0: they stay."""

    holes: List[Hole]
    spot: int


def _laid_out(
    file: elf.Elf, data: bytes, gone: Set[int], stream: List[Piece], layout: _Layout
) -> List[Piece]:
    new = Offsets(layout.holes)
    segments = _segments(file, layout, new)
    phoff = new(layout.spot or file.phoff)
    if file.phoff + _SEGMENT * len(file.segments) > file.head:
        raise Refused("program headers stand behind all segments")
    out = _without(stream, layout.holes)
    _overlay(out, phoff, b"".join(one.packed() for one in segments))
    tail, headers, shoff = sections.tail(file, data, layout.holes, new, gone)
    out += tail
    out += [one.packed() for one in headers]
    header = bytearray(data[: elf.HEADER])
    struct.pack_into("<QQ", header, 32, phoff, shoff)
    struct.pack_into("<H", header, 56, len(segments))
    shstrndx = sections.renumbered(file, gone).get(file.shstrndx, 0)
    struct.pack_into("<HH", header, 60, len(headers), shstrndx)
    _overlay(out, 0, bytes(header))
    return out


def _gaps(file: elf.Elf, gone: Set[int]) -> List[Edit]:
    """Sections that leave from between segments, as zeros: what patchelf appends stands behind."""
    edits = [
        Edit(one.offset, one.end, ())
        for one in (file.sections[index] for index in gone)
        if one.offset < file.head and one.stored
    ]
    others = [(one.offset, one.end) for i, one in enumerate(file.sections) if i not in gone]
    others += [(0, elf.HEADER), (file.phoff, file.phoff + _SEGMENT * len(file.segments))]
    others += [(one.offset, one.end) for one in file.segments if one.filesz]
    ends = {True: 0, False: 0}
    for at, end, leaves in sorted(
        [(one.at, one.end, True) for one in edits] + [(*one, False) for one in others]
    ):
        if end > at and at < (max(ends.values()) if leaves else ends[True]):
            raise Refused("debug sections share bytes with others")
        ends[leaves] = max(ends[leaves], end)
    return edits


# --- the mapped part ---


def _edited(edits: Sequence[Edit], head: int) -> List[Piece]:
    out: List[Piece] = []
    at = 0
    for edit in edits:
        if edit.at < at:
            raise Refused("what would leave shares bytes")
        if edit.at > at:
            out.append((at, edit.at))
        out += edit.pieces
        rest = edit.end - edit.at - sum(map(size_of, edit.pieces))
        if rest:
            out.append(rest)
        at = edit.end
    if head > at:
        out.append((at, head))
    return out


def page_of(file: elf.Elf) -> int:
    """Bytes of the machine's largest pages. Raises Refused."""
    if file.machine not in PAGES:
        raise Refused(f"machine {file.machine}: the size of its pages is not known")
    return PAGES[file.machine]


def _page(file: elf.Elf) -> int:
    """Smallest step in which bytes may leave: every later section keeps its alignment."""
    return max([page_of(file), *(one.align for one in file.sections if one.flags & elf.ALLOC)])


def _holes(file: elf.Elf, stream: List[Piece], least: int) -> List[Hole]:
    """In order, none at a segment's start. `least`: bytes of the smallest within a segment."""
    page = _page(file)
    segments = sorted(file.loads, key=lambda one: one.offset)
    starts = [one.offset for one in segments]
    within: List[Hole] = []
    between: List[Hole] = []
    at = 0
    for piece in stream:
        end = at + size_of(piece)
        if isinstance(piece, int):
            segment = segments[max(bisect_right(starts, at) - 1, 0)]
            inside = segment.offset <= at < segment.end
            shift = segment.vaddr - segment.offset if inside else 0
            first = -(-(at + shift) // page) * page - shift
            last = (end + shift) // page * page - shift
            if not inside and last > first:
                between.append(Hole(first, last, 0))
            # Loaders map nothing that stands otherwise within its page.
            elif last - first >= least and first > segment.offset and not shift % page_of(file):
                within.append(Hole(first, last, 1 + (segment.flags & elf.EXECUTE)))
        at = end
    within.sort(key=lambda hole: hole.at - hole.end)
    return sorted([*within[:MOST_HOLES], *between])


def _segments(file: elf.Elf, layout: _Layout, new: Offsets) -> List[elf.Segment]:
    out: List[elf.Segment] = []
    for one in file.segments:
        within = [hole for hole in layout.holes if one.offset < hole.end and hole.at < one.end]
        if one.kind == elf.LOAD:
            out += _split(one, within, new, page_of(file))
        elif one.kind == elf.PHDR and layout.spot:
            added = sum(hole.headers for hole in layout.holes)
            out.append(_table(file, layout.spot, new)._replace(flags=one.flags, align=one.align))
            size = _SEGMENT * (len(file.segments) + added)
            out[-1] = out[-1]._replace(filesz=size, memsz=size)
        elif within:
            raise Refused("a segment that is not loaded has GPU code")
        elif one.filesz and one.end > file.head:
            raise Refused("a segment lies behind those that are loaded")
        else:
            # One without bytes may say any offset; some linkers say one beyond the file.
            out.append(one._replace(offset=new(one.offset) if one.offset <= file.head else 0))
    return out


def _table(file: elf.Elf, spot: int, new: Offsets) -> elf.Segment:
    owner = next(load for load in file.loads if load.offset <= spot < load.end)
    vaddr, paddr = (start + spot - owner.offset for start in (owner.vaddr, owner.paddr))
    return elf.Segment(elf.PHDR, 0, new(spot), vaddr, paddr, 0, 0, 0)


def _split(whole: elf.Segment, holes: Sequence[Hole], new: Offsets, page: int) -> List[elf.Segment]:
    """A part for what stands before each hole, which is that part's zero pages, and the rest.

    Zero pages where code was are a segment of their own, which nobody may execute: SELinux calls
    anonymous pages that are executable `execmem`, and sites forbid it.
    """
    out: List[elf.Segment] = []

    def add(at: int, end: int, stop: int, flags: int) -> None:
        moved = at - whole.offset
        part = whole._replace(
            flags=flags, offset=new(at), vaddr=whole.vaddr + moved, paddr=whole.paddr + moved,
            filesz=end - at, memsz=stop - at,
        )  # fmt: skip
        out.append(_aligned(part, page))

    at = whole.offset
    code = whole.flags & elf.EXECUTE
    for hole in holes:
        add(at, hole.at, hole.at if code else hole.end, whole.flags)
        if code:
            add(hole.at, hole.at, hole.end, whole.flags & ~elf.EXECUTE)
        at = hole.end
    if whole.offset + whole.memsz > at or not holes:
        add(at, whole.end, whole.offset + whole.memsz, whole.flags)
    return out


def _aligned(one: elf.Segment, page: int) -> elf.Segment:
    """With its alignment where it still has it, else that of a page, which all keep."""
    if one.align > page and (one.vaddr - one.offset) % one.align:
        return one._replace(align=page)
    return one


def _without(stream: List[Piece], holes: Sequence[Hole]) -> List[Piece]:
    """The stream less its holes; each lies in one piece of zeros."""
    out: List[Piece] = []
    left = list(reversed(holes))
    at = 0
    for piece in stream:
        size = size_of(piece)
        if left and isinstance(piece, int) and at <= left[-1].at < at + size:
            hole = left.pop()
            piece = size - (hole.end - hole.at)  # noqa: PLW2901 - what is left of it
        if size_of(piece):
            out.append(piece)
        at += size
    return out


def _overlaid(stream: List[Piece], at: int, size: int) -> List[Piece]:
    """The stream with `size` bytes set aside at `at`, within a piece of zeros."""
    out: List[Piece] = []
    place = 0
    for piece in stream:
        length = size_of(piece)
        if isinstance(piece, int) and place <= at < place + length:
            out += [one for one in (at - place, bytes(size)) if size_of(one)]
            out.append(place + length - at - size)
        else:
            out.append(piece)
        place += length
    return out


def _overlay(out: List[Piece], at: int, text: bytes) -> None:
    """Put `text` over what stands at `at`, which one piece holds."""
    place = 0
    for index, piece in enumerate(out):
        size = size_of(piece)
        if place <= at and at + len(text) <= place + size:
            before, after = at - place, size - (at - place) - len(text)
            parts: List[Piece]
            if isinstance(piece, tuple):
                parts = [(piece[0], piece[0] + before), text, (piece[1] - after, piece[1])]
            elif isinstance(piece, int):
                parts = [before, text, after]
            else:
                parts = [piece[:before], text, piece[before + len(text) :]]
            out[index : index + 1] = [part for part in parts if size_of(part)]
            return
        place += size
    raise Refused("headers and GPU code share bytes")

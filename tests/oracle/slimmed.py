"""Whether a process sees the same of a library and of what the slimmer made of it.

But for headers, for GPU code that leaves, and for containers of it that stand elsewhere: these must
be found there by all that found them. Which did move, their pointers say.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from builder.runtime.slim import debug, elf, fatbin, frames, one, targets
from tests.oracle.memory import Load, Memory
from tests.oracle.reach import Reach

_HEADER, _SEGMENT = 64, 56  # bytes
_ZEROS = 1 << 16  # bytes that are read of those behind a segment's own, of which some say terabytes
_WRAP = 1 << 64

_Span = tuple[int, int]


class Defect(AssertionError):  # noqa: N818 - of the slimmer, and none of this program
    """What a slimmed library must not be."""


class _Code(NamedTuple):
    """A container of the old file, by addresses."""

    was: fatbin.Container
    at: int
    now: int  # where it stands in the new memory
    size: int  # bytes that it takes there
    loose: bool  # whether only pointers find it, so that it may stand elsewhere
    places: list[int]  # of its pointers, those in GPU code or headers aside

    @property
    def end(self) -> int:
        return self.at + self.was.size


def compare(old: bytes, new: bytes, options: one.Options) -> int:
    """The number of containers that stand elsewhere. Raises Defect."""
    file = elf.read(old)
    elf.read(new)
    try:
        before = Memory(old)
    except AssertionError:
        return 0  # the loader takes neither
    after = Memory(new)
    if _mapped(before) != _mapped(after):
        raise Defect("other addresses are mapped")
    headers = [(0, _HEADER), (file.phoff, file.phoff + _SEGMENT * len(file.segments))]
    found = fatbin.containers(old, file.head)
    packed = frames.found(old, found, file.head) or []
    gone = debug.sections(file) if options.strip else set()
    reach = Reach(old, file, before, gone)
    hidden = [*headers, *((each.at, each.end) for each in found)]
    hidden = _addressed(before, [*hidden, *((each.at, each.end) for each in packed)])
    code = [
        _standing(old, each, load, (before, after), reach, hidden, options)
        for each in found
        for load in before.loads
        if _holds(load, each)
    ]
    may_differ = _addressed(before, headers)
    may_differ += _moved(file, (before, after), reach, code)
    may_differ += _compare_frames(packed, (before, after), options)
    for load in before.loads:
        size = min(load.memsz, load.filesz + _ZEROS)
        texts = [bytearray(memory.read(load.vaddr, size)) for memory in (before, after)]
        for at, end in may_differ:
            for text in texts:
                _blank(text, at - load.vaddr, min(end - load.vaddr, load.filesz))
        if texts[0] != texts[1]:
            raise Defect(f"what is at {load.vaddr:#x} in memory is not what it was")
    return sum(each.now != each.at for each in code)


def _mapped(memory: Memory) -> list[_Span]:
    """Addresses; whatever may be done there: zero pages of code may not be executed."""
    out: list[_Span] = []
    for begin, end, _ in memory.spans():
        at = out.pop()[0] if out and out[-1][1] == begin else begin
        out.append((at, end))
    return out


def _addressed(memory: Memory, spans: Sequence[_Span]) -> list[_Span]:
    """Where spans of the file are mapped."""
    return [
        (load.vaddr + max(at - load.offset, 0), load.vaddr + min(end - load.offset, load.filesz))
        for load in memory.loads
        for at, end in spans
        if at < load.offset + load.filesz and load.offset < end
    ]


def _holds(load: Load, what: fatbin.Container | frames.Frame) -> bool:
    """Whether the whole of it is mapped there; what spans segments has to stay."""
    return load.offset <= what.at and what.end <= load.offset + load.filesz


def _standing(
    old: bytes,
    was: fatbin.Container,
    load: Load,
    memories: tuple[Memory, Memory],
    reach: Reach,
    hidden: Sequence[_Span],
    options: one.Options,
) -> _Code:
    """Where a container stands now, by its pointers; raises Defect if it is not found there."""
    _, after = memories
    address = load.vaddr + was.at - load.offset
    places = [
        (place, less)
        for place, less in reach.places.get(address, ())
        if not any(at < place + 8 and place < end for at, end in hidden)
    ]
    led = {
        (int.from_bytes(after.read(place, 8), "little") + less) % _WRAP for place, less in places
    }
    if len(led) > 1:
        raise Defect(f"pointers to {address:#x} lead to different places")
    now = led.pop() if led else address
    loose = reach.only_by_pointers(address, was.size)
    if now != address and not loose:
        raise Defect(f"what is at {address:#x} is reached otherwise than by pointers, and moved")
    if not load.vaddr <= now <= load.vaddr + load.filesz - fatbin.HEADER:
        raise Defect(f"pointers to {address:#x} lead out of its segment")
    size = fatbin.HEADER + int.from_bytes(after.read(now + 8, 8), "little")
    if size > was.size or now + size > load.vaddr + load.filesz:
        raise Defect("a container's head lies")
    text = _less_table(after, now, size)
    if was.strange and text != old[was.at : was.end]:
        raise Defect("GPU code that is not known is not what it was")
    if not was.strange:
        _compare_container(old, was, text, options)
    return _Code(was, address, now, size, loose, [place for place, _ in places])


def _moved(
    file: elf.Elf, memories: tuple[Memory, Memory], reach: Reach, code: Sequence[_Code]
) -> list[_Span]:
    """Where memory differs for them. Raises Defect where one stands in what is not theirs."""
    before, after = memories
    runs = _runs(file, before, reach, code)
    for each in code:
        if each.now == each.at:
            continue
        step = min([each.at & -each.at or 1, *_steps(file, each.was.at, each.was.end)])
        if not any(at <= each.at < end and at <= each.now and each.now + each.size <= end
                   for at, end in runs):  # fmt: skip
            raise Defect(f"what was at {each.at:#x} stands where other things were")
        if each.now % step:
            raise Defect(f"what was at {each.at:#x} is not aligned")
    stand = sorted((each.now, each.now + each.size) for each in code)
    if any(one[1] > other[0] for one, other in pairwise(stand)):
        raise Defect("two containers share bytes")
    theirs = [*runs, *((each.at, each.end) for each in code)]
    for begin, stop in theirs:
        left = bytearray(_less_table(after, begin, stop - begin))
        for at, end in stand:
            _blank(left, at - begin, end - begin)
        if any(left):
            raise Defect("something is left where GPU code was")
    pointers = [(place, place + 8) for each in code if each.now != each.at for place in each.places]
    return [*theirs, *pointers]


def _runs(file: elf.Elf, before: Memory, reach: Reach, code: Sequence[_Code]) -> list[_Span]:
    """Addresses of containers that may change places: nothing but what aligns them is between."""
    out: list[_Span] = []
    last: _Code | None = None
    for each in sorted((each for each in code if each.loose), key=lambda each: each.at):
        if last and _follows(last, each, file, before) and not reach.within(last.end, each.at):
            out[-1] = (out[-1][0], each.end)
        else:
            out.append((each.at, each.end))
        last = each
    return out


def _follows(one: _Code, other: _Code, file: elf.Elf, before: Memory) -> bool:
    """Whether only zeros that align it stand before the other in a section that has both."""
    gap = other.at - one.end
    steps = _steps(file, one.was.at, other.was.end)
    alike = other.at - one.at == other.was.at - one.was.at  # else another segment is between
    return alike and 0 <= gap < max(steps, default=0) and not any(before.read(one.end, gap))


def _steps(file: elf.Elf, begin: int, end: int) -> list[int]:
    """To what the sections are aligned that have these bytes; headers of some files name many."""
    return [
        max(each.align, 1)
        for each in file.sections
        if each.kind == elf.PROGBITS and each.flags & elf.ALLOC
        if each.offset <= begin and end <= each.end
    ]


def _compare_frames(
    packed: Sequence[frames.Frame], memories: tuple[Memory, Memory], options: one.Options
) -> list[_Span]:
    """Where frames of GPU code have left, which they must have left whole."""
    before, after = memories
    may_differ: list[_Span] = []
    for each in packed:
        if any(targets.may_run(each.sm, sm) for sm in options.sms):
            continue
        for load in before.loads:
            if _holds(load, each):
                at = load.vaddr + each.at - load.offset
                if any(_less_table(after, at, each.end - each.at)):
                    raise Defect("something is left of a frame for other GPUs")
                may_differ.append((at, at + each.end - each.at))
    return may_differ


def _less_table(memory: Memory, address: int, size: int) -> bytes:
    """What is there, without the program headers: these may stand where GPU code was."""
    out = bytearray(memory.read(address, size))
    (at,) = struct.unpack_from("<Q", memory.data, 32)
    (number,) = struct.unpack_from("<H", memory.data, 56)
    for load in memory.loads:
        if load.offset <= at < load.offset + load.filesz:
            begin = load.vaddr + at - load.offset - address
            _blank(out, begin, begin + _SEGMENT * number)
    return bytes(out)


def _blank(text: bytearray, begin: int, end: int) -> None:
    """Zeros for what of these bytes is there."""
    begin, end = max(begin, 0), min(end, len(text))
    if end > begin:
        text[begin:end] = bytes(end - begin)


def _compare_container(old: bytes, was: fatbin.Container, new: bytes, options: one.Options) -> None:
    """Raises Defect where one in memory has what is no entry of the old one, byte for byte, or not
    all that a GPU takes. An entry that leaves may leave its header, and zeros.
    """
    if new[:8] != old[was.at : was.at + 8]:
        raise Defect("a container's head lies")
    left = iter(was.entries)
    whole: set[fatbin.Entry] = set()
    at, end = fatbin.HEADER, len(new)
    while at < end:
        header, payload = struct.unpack_from("<IQ", new.ljust(at + 16, b"\0"), at + 4)
        raw = new[at : at + header + payload]
        for each in left:
            head = old[each.at : each.at + each.header]
            if raw == old[each.at : each.end]:
                whole.add(each)
                break
            if raw in (head + bytes(each.payload), head[:8] + bytes(8) + head[16:]):
                break
        else:
            raise Defect("GPU code that stays is not what it was")
        at += len(raw)
    for sm in options.sms:
        if targets.serving(was.entries, sm) - whole:
            raise Defect(f"GPU code for sm_{sm} is gone")

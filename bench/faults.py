"""Faults of a library with GPU code, each of one kind; they are made at random."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from tests.unit.elves import CUBIN, Library, container, entry, frame

SMS = (75, 80, 86, 87, 89, 90, 100, 101, 103, 110, 120)
_EDGES = (0, 1, 8, 0x40, 0xFFF, 0x1000, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)
_MAGIC = struct.pack("<I", 0xBA55ED50)
_FRAME = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
_HEADER, _SEGMENT, _SECTION = 64, 56, 64  # bytes
# Where numbers stand, and their bytes: sizes, offsets, counts.
_IN_HEADER = [(32, 8), (40, 8), (52, 2), (54, 2), (56, 2), (58, 2), (60, 2), (62, 2)]
_IN_SEGMENT = [(0, 4), (8, 8), (16, 8), (32, 8), (40, 8), (48, 8)]
_IN_SECTION = [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8)]
_IN_CONTAINER = [(4, 2), (6, 2), (8, 8)]
_IN_ENTRY = [(0, 2), (4, 4), (8, 8), (16, 4), (28, 4), (40, 8)]


class Parts:
    """Where a sound library's headers and containers stand."""

    def __init__(self, data: bytearray) -> None:
        (phoff, shoff) = struct.unpack_from("<QQ", data, 32)
        (segments,) = struct.unpack_from("<H", data, 56)
        (sections,) = struct.unpack_from("<H", data, 60)
        self.segments = [phoff + _SEGMENT * index for index in range(segments)]
        self.sections = [shoff + _SECTION * index for index in range(1, sections)]
        self.containers: list[tuple[int, int]] = []
        self.entries: list[tuple[int, int]] = []
        at = data.find(_MAGIC)
        while at >= 0:
            end = at + 16 + int(struct.unpack_from("<Q", data, at + 8)[0])
            self.containers.append((at, end))
            place = at + 16
            while place < end:
                header, payload = struct.unpack_from("<IQ", data, place + 4)
                self.entries.append((place, place + header + payload))
                place += header + payload
            at = data.find(_MAGIC, end)
        self.frames: list[tuple[int, int]] = []
        at = data.find(_FRAME)
        while at >= 0:
            self.frames.append((at, _frame_end(data, at)))
            at = data.find(_FRAME, at + 4)

    def section(self, data: bytearray, kind: int, flags: int = 0) -> range:
        """Where the first of this kind and these flags stands."""
        for header in self.sections:
            own, has, _, at, size = struct.unpack_from("<IQQQQ", data, header + 4)
            if own == kind and has & flags == flags:
                return range(at, at + size)
        return range(0)

    def addresses(self, data: bytearray) -> list[int]:
        """Of its containers, in the segment that is mapped last."""
        loads = [one for one in self.segments if data[one] == 1]
        offset, vaddr = struct.unpack_from("<QQ", data, loads[-1] + 8)
        return [vaddr + at - offset for at, _ in self.containers]


def _frame_end(data: bytearray, at: int) -> int:
    """Of a sound frame of raw blocks."""
    place, last = at + 6, 0
    while not last:
        head = int.from_bytes(data[place : place + 3], "little")
        place, last = place + 3 + (head >> 3), head & 1
    return place


Fault = Callable[[bytearray, Parts, random.Random], None]


def _lie(data: bytearray, at: int, size: int, chance: random.Random) -> None:
    (old,) = struct.unpack_from({2: "<H", 4: "<I", 8: "<Q"}[size], data, at)
    near = old + chance.choice((-4096, -64, -8, -1, 1, 8, 16, 64, 4096))
    new = chance.choice((near, near, chance.choice(_EDGES), chance.getrandbits(20)))
    data[at : at + size] = (new % (1 << (8 * size))).to_bytes(size, "little")


def _elf_cut(data: bytearray, parts: Parts, chance: random.Random) -> None:
    edges = [_HEADER, *parts.segments, *parts.sections, *(at for at, _ in parts.containers)]
    near = chance.choice(edges) + chance.randint(-9, 70)
    del data[chance.choice((near, chance.randrange(len(data)))) :]


def _elf_lie(data: bytearray, parts: Parts, chance: random.Random) -> None:
    tables = [([0], _IN_HEADER), (parts.segments, _IN_SEGMENT), (parts.sections, _IN_SECTION)]
    for _ in range(chance.randint(1, 3)):
        places, fields = chance.choice(tables)
        offset, size = chance.choice(fields)
        _lie(data, chance.choice(places) + offset, size, chance)


def _spans(parts: Parts, chance: random.Random) -> tuple[int, int, int]:
    """Where two headers of a table say where their bytes are, and how far behind, how many."""
    table, offset, size = chance.choice([(parts.segments, 8, 32), (parts.sections, 24, 32)])
    first, second = chance.choice(table), chance.choice(table)
    return first + offset, second + offset, size - offset


def _elf_overlap(data: bytearray, parts: Parts, chance: random.Random) -> None:
    first, second, size = _spans(parts, chance)
    at, length = (int.from_bytes(data[first + n : first + n + 8], "little") for n in (0, size))
    struct.pack_into("<Q", data, second, at + chance.choice((0, length // 2, max(length - 1, 0))))


def _elf_nest(data: bytearray, parts: Parts, chance: random.Random) -> None:
    first, second, size = _spans(parts, chance)
    at, length = (int.from_bytes(data[first + n : first + n + 8], "little") for n in (0, size))
    within = length // 4
    struct.pack_into("<Q", data, second, at + within)
    struct.pack_into("<Q", data, second + size, chance.randint(0, length - within))


def _elf_alike(data: bytearray, parts: Parts, chance: random.Random) -> None:
    """Two headers of a table speak of the same bytes, but for what one of them says otherwise."""
    table, fields, size = chance.choice(
        [(parts.segments, _IN_SEGMENT, _SEGMENT), *[(parts.sections, _IN_SECTION, _SECTION)] * 3]
    )
    first, second = chance.choice(table), chance.choice(table)
    data[second : second + size] = data[first : first + size]
    if chance.random() < 0.5:
        offset, width = chance.choice(fields)
        _lie(data, second + offset, width, chance)


def _fatbin_cut(data: bytearray, parts: Parts, chance: random.Random) -> None:
    """What follows moves up, or the container says that it ends before."""
    at, end = chance.choice(parts.containers)
    stop = chance.randint(at, end)
    if chance.random() < 0.5:
        data[stop:end] = bytes(end - stop)
    else:
        struct.pack_into("<Q", data, at + 8, max(stop - at - 16, 0))


def _fatbin_lie(data: bytearray, parts: Parts, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 3)):
        table, fields = chance.choice(
            [(parts.containers, _IN_CONTAINER), (parts.entries, _IN_ENTRY)]
        )
        if table:
            offset, size = chance.choice(fields)
            _lie(data, chance.choice(table)[0] + offset, size, chance)


def _fatbin_overlap(data: bytearray, parts: Parts, chance: random.Random) -> None:
    """A container that begins within another and ends behind it."""
    at, end = chance.choice(parts.containers)
    begin = chance.randrange(at, end) & ~7
    further = min(end + chance.choice((0, 8, 24, 4096)), len(data))
    head = entry(CUBIN, chance.choice(SMS), 0)
    size = max(further - begin - 16, 0)
    new = struct.pack("<4sHHQ", _MAGIC, 1, 16, size) + head[:8]
    new += struct.pack("<Q", max(size - len(head), 0)) + head[16:]
    data[begin : begin + len(new)] = new[: len(data) - begin]


def _fatbin_nest(data: bytearray, parts: Parts, chance: random.Random) -> None:
    """A sound container, or a whole library, in a payload; or many heads of containers there."""
    at, end = chance.choice(parts.entries or parts.containers)
    begin = min(at + chance.choice((16, 64, 112, 200)), end)
    inner = container(*(entry(CUBIN, chance.choice(SMS), 64) for _ in range(chance.randint(0, 3))))
    many = struct.pack("<4sHHQ", _MAGIC, 1, 16, end - begin) * 500
    new = chance.choice((inner, Library([inner]).made(), many))[: end - begin]
    data[begin : begin + len(new)] = new


def _frame_of(data: bytearray, parts: Parts, chance: random.Random) -> tuple[int, int]:
    """One of its frames; where it has none, one that takes its first container's place."""
    if parts.frames:
        return chance.choice(parts.frames)
    at, end = parts.containers[0]
    made = frame(chance.choice(SMS), max(end - at - 100, 0))[: end - at]
    data[at:end] = made.ljust(end - at, b"\0")
    return at, at + len(made)


def _frame_cut(data: bytearray, parts: Parts, chance: random.Random) -> None:
    at, end = _frame_of(data, parts, chance)
    stop = chance.choice((chance.randint(at, end), min(at + chance.randint(0, 80), end)))
    data[stop:end] = bytes(end - stop)


def _frame_lie(data: bytearray, parts: Parts, chance: random.Random) -> None:
    """Of its descriptor, its blocks' heads, or the ELF header in it."""
    at, _ = _frame_of(data, parts, chance)
    for _ in range(chance.randint(1, 3)):
        place = at + chance.choice((4, 5, 6, 7, 8, 9 + 7, 9 + 16, 9 + 18, 9 + 48, 9 + 49))
        data[place] = chance.choice((data[place] ^ 1 << chance.randrange(8), chance.randrange(256)))


def _frame_overlap(data: bytearray, parts: Parts, chance: random.Random) -> None:
    """A frame that begins within another, or in a container, and ends behind it."""
    at, end = chance.choice((_frame_of(data, parts, chance), chance.choice(parts.containers)))
    begin = chance.randrange(at, max(end, at + 1))
    new = frame(chance.choice(SMS), end - begin + chance.choice((0, 8, 4096)))
    data[begin : begin + len(new)] = new[: len(data) - begin]


def _frame_nest(data: bytearray, parts: Parts, chance: random.Random) -> None:
    """A frame, a container, or many heads of frames in one."""
    at, end = _frame_of(data, parts, chance)
    begin = min(at + chance.choice((6, 9, 73, 200)), end)
    inner = (frame(chance.choice(SMS), 64), container(entry(CUBIN, chance.choice(SMS), 64)))
    new = chance.choice((*inner, _FRAME * 500, frame(80, 0)[:73] * 20))[: end - begin]
    data[begin : begin + len(new)] = new


def _any_flip(data: bytearray, parts: Parts, chance: random.Random) -> None:
    places = [(0, 64 + 400), *parts.containers, *parts.frames, (0, len(data))]
    for _ in range(chance.randint(1, 6)):
        low, high = chance.choice(places)
        data[chance.randrange(low, min(high, len(data)))] ^= 1 << chance.randrange(8)


# --- of what leads to GPU code, in a library of which some may move ---


def _aim(old: int, parts: Parts, data: bytearray, chance: random.Random) -> int:
    """An address instead of another: near it, at, in or behind a container, or anything."""
    near = old + chance.choice((-4096, -32, -8, -1, 1, 4, 8, 16, 32, 4096))
    place = chance.choice(parts.addresses(data) or [old])
    place += chance.choice((-8, -4, -1, 0, 0, 0, 0, 1, 8, 16, 80, 1000))
    return chance.choice((near, place, place, chance.choice(_EDGES))) % (1 << 64)


def _pointers_lie(data: bytearray, parts: Parts, chance: random.Random) -> None:
    """Of relocations: where they write, their type, their symbol, or what they write."""
    rows = parts.section(data, 4)
    for _ in range(chance.randint(1, 4) if rows else 0):
        at = chance.choice(rows[::24])
        offset, size = chance.choice(((0, 8), (8, 4), (12, 4), (16, 8), (16, 8)))
        (old,) = struct.unpack_from({4: "<I", 8: "<Q"}[size], data, at + offset)
        new = _aim(old, parts, data, chance)
        if size == 4:
            new = chance.choice((0, 1, 2, 5, 6, 7, 8, 24, 37, 38, chance.getrandbits(20)))
        data[at + offset : at + offset + size] = new.to_bytes(size, "little")
    if not rows:
        _dynamic_lies(data, parts, chance)


def _code_lies(data: bytearray, parts: Parts, chance: random.Random) -> None:
    """Instructions hold other addresses, are others, or begin within one another."""
    code, (got,) = parts.section(data, 1, 4), _tags(data, parts, 3)
    for _ in range(chance.randint(1, 4)):
        at = code.start + 16 * chance.randrange(len(code) // 16) + chance.choice((0, 0, 0, 3, 9))
        (old,) = struct.unpack_from("<Q", data, at + 2)
        new = _aim(old + got, parts, data, chance)
        away = (new - got) % (1 << 64)
        near = (new - at - 7) % (1 << 32)
        move = bytes((chance.choice((0x48, 0x49)), chance.randrange(0xB8, 0xC0)))
        lea = bytes((chance.choice((0x48, 0x4C)), 0x8D, 5 | chance.randrange(8) << 3))
        text = chance.choice((
            move, move + struct.pack("<Q", away), move + struct.pack("<Q", away),
            lea + struct.pack("<I", near), b"\xb8" + struct.pack("<I", new % (1 << 32)),
        ))  # fmt: skip
        text = text[: max(code.stop - at, 0)]
        data[at : at + len(text)] = text


def _tags(data: bytearray, parts: Parts, wanted: int) -> list[int]:
    """The values of one tag of .dynamic."""
    table = parts.section(data, 6)
    pairs = struct.iter_unpack("<QQ", data[table.start : table.stop])
    return [value for tag, value in pairs if tag == wanted]


def _dynamic_lies(data: bytearray, parts: Parts, chance: random.Random) -> None:
    """Tags are others, or say that tables stand elsewhere and are longer or shorter."""
    rows = parts.section(data, 6)[::16]
    for _ in range(chance.randint(1, 2)):
        at = chance.choice(rows)
        if chance.random() < 0.25:
            tag = chance.choice((0, 3, 6, 7, 8, 9, 17, 23, 36))
            struct.pack_into("<Q", data, at, tag)
            continue
        (old,) = struct.unpack_from("<Q", data, at + 8)
        near = (old + chance.choice((-24, -16, -8, 8, 24, 48, 0x200000))) % (1 << 64)
        new = chance.choice((near, near, _aim(old, parts, data, chance), chance.choice(_EDGES)))
        struct.pack_into("<Q", data, at + 8, new)


def _symbols_lie(data: bytearray, parts: Parts, chance: random.Random) -> None:
    """Their values, or where their table is said to stand."""
    rows = parts.section(data, 11)
    for _ in range(chance.randint(1, 3)):
        if rows and chance.random() < 0.7:
            at = chance.choice(rows[::24]) + 8
            (old,) = struct.unpack_from("<Q", data, at)
            struct.pack_into("<Q", data, at, _aim(old, parts, data, chance))
        else:
            header = chance.choice(parts.sections)
            offset, size = chance.choice(_IN_SECTION)
            struct.pack_into("<I", data, header + 4, chance.choice((2, 11)))
            _lie(data, header + offset, size, chance)


def _sections_twice(data: bytearray, parts: Parts, chance: random.Random) -> None:
    """GPU code is in a second section, as a whole or in part; or there is code that nobody maps."""
    *others, own, _ = parts.sections
    header = chance.choice(others)
    if chance.random() < 0.3:
        code = parts.section(data, 1, 4)
        struct.pack_into("<IQQQQ", data, header + 4, 1, 4, 0, len(data), len(code))
        data += data[code.start : code.stop]
        return
    data[header + 4 : header + _SECTION] = data[own + 4 : own + _SECTION]
    address, offset, size = struct.unpack_from("<QQQ", data, own + 16)
    begin = chance.choice((0, 0, size // 2, size // 4))
    rest = chance.choice((size - begin, size - begin, (size - begin) // 2))
    struct.pack_into("<QQQ", data, header + 16, address + begin, offset + begin, rest)


# Those that take a library whose GPU code may move.
POINTERS: dict[str, Fault] = {
    "relocations lie": _pointers_lie,
    "instructions lie": _code_lies,
    ".dynamic lies": _dynamic_lies,
    "symbols lie": _symbols_lie,
    "sections twice": _sections_twice,
}
FAULTS: dict[str, Fault] = {
    "ELF cut short": _elf_cut,
    "ELF sizes lie": _elf_lie,
    "ELF parts overlap": _elf_overlap,
    "ELF parts nested": _elf_nest,
    "ELF parts alike": _elf_alike,
    "fatbin cut short": _fatbin_cut,
    "fatbin sizes lie": _fatbin_lie,
    "fatbin overlap": _fatbin_overlap,
    "fatbin nested": _fatbin_nest,
    "frame cut short": _frame_cut,
    "frame sizes lie": _frame_lie,
    "frame overlaps": _frame_overlap,
    "frame nested": _frame_nest,
    "bits flipped": _any_flip,
    **POINTERS,
}

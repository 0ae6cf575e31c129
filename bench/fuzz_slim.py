"""Breaks libraries with GPU code at random and slims them: nothing may be raised but a refusal.

    python -m bench.fuzz_slim [--count 10000] [--seed 1] [--minutes 10]

Each mutant has faults of one kind, in its ELF headers or in its fatbin containers: it is cut short,
its sizes lie, its parts overlap, or stand in one another. It is slimmed on a disk, beside another
file. What is refused, or has nothing to lose, must be the same file with the same bytes afterwards;
what is rewritten must have exactly the bytes that were announced, be an ELF file whose memory is
what it was but for GPU code, and be what it is when it is slimmed a second time; nothing else may
be there, or have changed. Prints what became of each kind, and each defect with the number by which
--seed makes it again; exit code 1 for a defect.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import random
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from builder.runtime.slim import elf, fatbin, layout, one
from tests.oracle.memory import Memory
from tests.oracle.pieces import joined
from tests.unit.elves import CUBIN, LTO, PTX, Library, container, entry

_KINDS = (PTX, CUBIN, CUBIN, CUBIN, LTO, 16)
_SMS = (75, 80, 86, 87, 89, 90, 100, 101, 103, 110, 120)
_SLOW = 2.0  # seconds that no file of a megabyte may take
_EDGES = (0, 1, 8, 0x40, 0xFFF, 0x1000, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)
_ZEROS = 1 << 16  # bytes that are read of those behind a segment's own, of which some say terabytes
_MAGIC = struct.pack("<I", 0xBA55ED50)
_HEADER, _SEGMENT, _SECTION = 64, 56, 64  # bytes
# Where numbers stand, and their bytes: sizes, offsets, counts.
_IN_HEADER = [(32, 8), (40, 8), (52, 2), (54, 2), (56, 2), (58, 2), (60, 2), (62, 2)]
_IN_SEGMENT = [(0, 4), (8, 8), (16, 8), (32, 8), (40, 8), (48, 8)]
_IN_SECTION = [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8)]
_IN_CONTAINER = [(4, 2), (6, 2), (8, 8)]
_IN_ENTRY = [(0, 2), (4, 4), (8, 8), (16, 4), (28, 4), (40, 8)]


class Defect(AssertionError):  # noqa: N818 - of the slimmer, and none of this program
    """What a slimmed mutant must not be."""


def library(chance: random.Random) -> bytearray:
    """A sound one."""
    containers = [
        container(*(
            entry(chance.choice(_KINDS), chance.choice(_SMS),
                  chance.choice((8, 900, 20_000, 80_000)), chance.choice(("", "", "a", "f")),
                  chance.choice((64, 112)))
            for _ in range(chance.randint(0, 4))))
        for _ in range(chance.randint(1, 4))
    ]  # fmt: skip
    return bytearray(Library(
        containers,
        debug=chance.choice((0, 4000)),
        between=chance.choice((0, 9000)),
        phdr=chance.random() < 0.3,
        flags=chance.choice((4, 4, 5, 6)),
        program=chance.random() < 0.2,
        machine=chance.choice((62, 62, 62, 62, 62, 62, 183, 183, 190)),
        overlay=chance.choice((b"", b"", b"", b"PK")),
    ).made())  # fmt: skip


# --- faults ---


class _Parts:
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


_Fault = Callable[[bytearray, _Parts, random.Random], None]


def _lie(data: bytearray, at: int, size: int, chance: random.Random) -> None:
    (old,) = struct.unpack_from({2: "<H", 4: "<I", 8: "<Q"}[size], data, at)
    near = old + chance.choice((-4096, -64, -8, -1, 1, 8, 16, 64, 4096))
    new = chance.choice((near, near, chance.choice(_EDGES), chance.getrandbits(20)))
    data[at : at + size] = (new % (1 << (8 * size))).to_bytes(size, "little")


def _elf_cut(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    edges = [_HEADER, *parts.segments, *parts.sections, *(at for at, _ in parts.containers)]
    near = chance.choice(edges) + chance.randint(-9, 70)
    del data[chance.choice((near, chance.randrange(len(data)))) :]


def _elf_lie(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    tables = [([0], _IN_HEADER), (parts.segments, _IN_SEGMENT), (parts.sections, _IN_SECTION)]
    for _ in range(chance.randint(1, 3)):
        places, fields = chance.choice(tables)
        offset, size = chance.choice(fields)
        _lie(data, chance.choice(places) + offset, size, chance)


def _spans(parts: _Parts, chance: random.Random) -> tuple[int, int, int]:
    """Where two headers of a table say where their bytes are, and how far behind, how many."""
    table, offset, size = chance.choice([(parts.segments, 8, 32), (parts.sections, 24, 32)])
    first, second = chance.choice(table), chance.choice(table)
    return first + offset, second + offset, size - offset


def _elf_overlap(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    first, second, size = _spans(parts, chance)
    at, length = (int.from_bytes(data[first + n : first + n + 8], "little") for n in (0, size))
    struct.pack_into("<Q", data, second, at + chance.choice((0, length // 2, max(length - 1, 0))))


def _elf_nest(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    first, second, size = _spans(parts, chance)
    at, length = (int.from_bytes(data[first + n : first + n + 8], "little") for n in (0, size))
    within = length // 4
    struct.pack_into("<Q", data, second, at + within)
    struct.pack_into("<Q", data, second + size, chance.randint(0, length - within))


def _fatbin_cut(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    """What follows moves up, or the container says that it ends before."""
    at, end = chance.choice(parts.containers)
    stop = chance.randint(at, end)
    if chance.random() < 0.5:
        data[stop:end] = bytes(end - stop)
    else:
        struct.pack_into("<Q", data, at + 8, max(stop - at - 16, 0))


def _fatbin_lie(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 3)):
        table, fields = chance.choice(
            [(parts.containers, _IN_CONTAINER), (parts.entries, _IN_ENTRY)]
        )
        if table:
            offset, size = chance.choice(fields)
            _lie(data, chance.choice(table)[0] + offset, size, chance)


def _fatbin_overlap(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    """A container that begins within another and ends behind it."""
    at, end = chance.choice(parts.containers)
    begin = chance.randrange(at, end) & ~7
    further = min(end + chance.choice((0, 8, 24, 4096)), len(data))
    head = entry(CUBIN, chance.choice(_SMS), 0)
    size = max(further - begin - 16, 0)
    new = struct.pack("<4sHHQ", _MAGIC, 1, 16, size) + head[:8]
    new += struct.pack("<Q", max(size - len(head), 0)) + head[16:]
    data[begin : begin + len(new)] = new[: len(data) - begin]


def _fatbin_nest(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    """A sound container, or a whole library, in a payload; or many heads of containers there."""
    at, end = chance.choice(parts.entries or parts.containers)
    begin = min(at + chance.choice((16, 64, 112, 200)), end)
    inner = container(*(entry(CUBIN, chance.choice(_SMS), 64) for _ in range(chance.randint(0, 3))))
    many = struct.pack("<4sHHQ", _MAGIC, 1, 16, end - begin) * 500
    new = chance.choice((inner, Library([inner]).made(), many))[: end - begin]
    data[begin : begin + len(new)] = new


def _any_flip(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    places = [(0, 64 + 400), *parts.containers, (0, len(data))]
    for _ in range(chance.randint(1, 6)):
        low, high = chance.choice(places)
        data[chance.randrange(low, min(high, len(data)))] ^= 1 << chance.randrange(8)


FAULTS: dict[str, _Fault] = {
    "ELF cut short": _elf_cut,
    "ELF sizes lie": _elf_lie,
    "ELF parts overlap": _elf_overlap,
    "ELF parts nested": _elf_nest,
    "fatbin cut short": _fatbin_cut,
    "fatbin sizes lie": _fatbin_lie,
    "fatbin overlap": _fatbin_overlap,
    "fatbin nested": _fatbin_nest,
    "bits flipped": _any_flip,
}


# --- what becomes of them ---


class Disk:
    """A folder with a mutant and a neighbour, which nobody may touch."""

    _NEIGHBOUR = b"beside it"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "mutant.so"
        self._other = folder / "other"
        self._other.write_bytes(self._NEIGHBOUR)
        self._before = self._seen(self._other)

    def slimmed(self, data: bytes, options: one.Options) -> str:
        """What became of a file; raises Defect, or whatever another defect raises."""
        self._file.write_bytes(data)
        wanted, told = self._wanted(data, options)
        report = self._run(options)
        if report and report["after"] != len(wanted):
            raise Defect(f"{report['after']} bytes are announced, {len(wanted)} are meant")
        if self._file.read_bytes() != (wanted if report else data):
            raise Defect("other bytes are on the disk than are meant")
        if not report or wanted == data:
            return told if report else "(no library)"
        _compare(data, wanted)
        before = self._seen(self._file)
        self._run(options)
        if self._seen(self._file) != before:
            raise Defect("slimming twice is not slimming once")
        return told

    def _run(self, options: one.Options) -> one.Report:
        before = self._seen(self._file)
        report = one.slim(str(self._file), options)
        stays = not report or report["refused"] or not report["changed"]
        if stays and self._seen(self._file) != before:
            raise Defect("a file that stays was touched")
        if {path.name for path in self._folder.iterdir()} != {self._file.name, self._other.name}:
            raise Defect("something is left beside it")
        if (self._seen(self._other), self._other.read_bytes()) != (self._before, self._NEIGHBOUR):
            raise Defect("the file beside it was touched")
        return report

    @staticmethod
    def _wanted(data: bytes, options: one.Options) -> tuple[bytes, str]:
        """What the file is to be, put together apart from what writes it."""
        try:
            _, pieces = one.examine(data, options)
        except elf.Refused as refused:
            return data, str(refused)
        if pieces is None:
            return data, "(unchanged)"
        if sum(map(layout.size_of, pieces)) > 2 * len(data) + 100_000:
            raise Defect("it grows")
        return joined(data, pieces), "(rewritten)"

    @staticmethod
    def _seen(file: Path) -> tuple[int, ...]:
        info = file.stat()
        return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_mode


def _compare(old: bytes, new: bytes) -> None:
    """Raises Defect where a process does not see the same of both, but for GPU code and headers."""
    file = elf.read(old)
    elf.read(new)
    try:
        before = Memory(old)
    except AssertionError:
        return  # the loader takes neither
    after = Memory(new)
    may_differ = [(one.at, one.end) for one in fatbin.containers(old, file.head)]
    may_differ += [(0, _HEADER), (file.phoff, file.phoff + _SEGMENT * len(file.segments))]
    if _mapped(before) != _mapped(after):
        raise Defect("other addresses are mapped")
    for load in before.loads:
        size = min(load.memsz, load.filesz + _ZEROS)
        old_bytes, new_bytes = (
            bytearray(memory.read(load.vaddr, size)) for memory in (before, after)
        )
        for at, end in may_differ:
            first, last = (
                max(place - load.offset, 0) for place in (at, min(end, load.offset + load.filesz))
            )
            for memory in (old_bytes, new_bytes):
                memory[first:last] = bytes(max(last - first, 0))
        if old_bytes != new_bytes:
            raise Defect(f"what is at {load.vaddr:#x} in memory is not what it was")


def _mapped(memory: Memory) -> list[tuple[int, int]]:
    """Addresses; whatever may be done there: zero pages of code may not be executed."""
    out: list[tuple[int, int]] = []
    for begin, end, _ in memory.spans():
        at = out.pop()[0] if out and out[-1][1] == begin else begin
        out.append((at, end))
    return out


def mutant(seed: int, index: int) -> tuple[str, bytes, one.Options]:
    """Its fault, its bytes, and what is asked for; of the same numbers the same."""
    chance = random.Random(seed * 1_000_003 + index)  # noqa: S311
    data = library(chance)
    name = list(FAULTS)[index % len(FAULTS)]
    FAULTS[name](data, _Parts(data), chance)
    options = one.Options(
        tuple(sorted(chance.sample(_SMS, chance.randint(1, 2)))),
        chance.choice((one.COMPACT, one.COMPACT, one.ZERO)),
        chance.choice((one.KEEP, one.EMPTY)),
        strip=chance.random() < 0.8,
        least=chance.choice((0x1000, 0x10000)),
    )
    return name, bytes(data), options


def run(count: int, seed: int, *, until: float = float("inf")) -> Iterator[str]:
    """Try so many, or until then on the monotonic clock; lines of what came of it, and of defects.

    Raises Defect at the end if there was one.
    """
    told: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in FAULTS}
    defects = tried = 0
    slowest = 0.0
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-slim-") as folder:
        disk = Disk(Path(folder))
        for index in itertools.takewhile(lambda _: time.monotonic() < until, range(count)):
            name, data, options = mutant(seed, index)
            tried += 1
            began = time.monotonic()
            try:
                told[name][disk.slimmed(data, options)] += 1
            except Exception as error:
                defects += 1
                yield f"mutant {index}, {name}: {error!r}"
                disk = Disk(Path(tempfile.mkdtemp(dir=folder)))
            slowest = max(slowest, time.monotonic() - began)
    for name, counts in told.items():
        yield name
        yield from (f"{times:7} {what}" for what, times in counts.most_common())
    took = time.monotonic() - start
    yield f"{tried} mutants in {took:.0f} s, {defects} defects, slowest {slowest * 1000:.0f} ms"
    if defects or slowest > _SLOW:
        raise Defect(f"{defects} defects, slowest {slowest:.1f} s")


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.fuzz_slim", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of chance (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after these")
    given = parser.parse_args()
    if given.count < 1 or not given.minutes > 0:
        parser.error("--count and --minutes: above 0")
    try:
        for line in run(given.count, given.seed, until=time.monotonic() + 60 * given.minutes):
            sys.stdout.write(f"{line}\n")
    except Defect as defect:
        sys.stderr.write(f"fuzz_slim: {defect}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Breaks libraries with GPU code at random and slims them: nothing may be raised but a refusal.

    python -m bench.fuzz_slim [--count 10000] [--seed 1] [--minutes 10]

Each mutant has faults of one kind, in its ELF headers, in its fatbin containers or in its zstd
frames of GPU code: it is cut short, its sizes lie, its parts overlap, or stand in one another. It
is slimmed on a disk, beside another
file. What is refused, or has nothing to lose, must be the same file with the same bytes afterwards;
what is rewritten must have exactly the bytes that were announced, be an ELF file whose memory is
what it was but for GPU code that leaves, whose GPU code that stays is the old file's byte for byte,
and be what it is when it is slimmed a second time; nothing else may be there, or have changed; and
it must come to an end. Prints what became of each kind, and each defect with the number by which
--seed makes it again; exit code 1 for a defect. The run of `make fuzz` writes
bench/results/fuzz_slim.json: mutants by their fault and what became of them.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import random
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.stamp import ROOT, stamp
from builder.runtime.slim import elf, fatbin, frames, layout, one, targets
from tests.oracle.memory import Memory
from tests.oracle.pieces import joined
from tests.unit.elves import CUBIN, LTO, PTX, Library, container, entry, frame

_KINDS = (PTX, CUBIN, CUBIN, CUBIN, LTO, 16)
_SMS = (75, 80, 86, 87, 89, 90, 100, 101, 103, 110, 120)
_SLOW = 2.0  # CPU seconds that no file of a megabyte may take
_HANG = 60.0  # seconds after which a mutant is given up, on a busy machine, too
_COUNT, _SEED = 10_000, 1  # of `make fuzz`
_RESULT = ROOT / "bench/results/fuzz_slim.json"
_EDGES = (0, 1, 8, 0x40, 0xFFF, 0x1000, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)
_ZEROS = 1 << 16  # bytes that are read of those behind a segment's own, of which some say terabytes
_MAGIC = struct.pack("<I", 0xBA55ED50)
_FRAME = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
_HEADER, _SEGMENT, _SECTION = 64, 56, 64  # bytes
# Where numbers stand, and their bytes: sizes, offsets, counts.
_IN_HEADER = [(32, 8), (40, 8), (52, 2), (54, 2), (56, 2), (58, 2), (60, 2), (62, 2)]
_IN_SEGMENT = [(0, 4), (8, 8), (16, 8), (32, 8), (40, 8), (48, 8)]
_IN_SECTION = [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8)]
_IN_CONTAINER = [(4, 2), (6, 2), (8, 8)]
_IN_ENTRY = [(0, 2), (4, 4), (8, 8), (16, 4), (28, 4), (40, 8)]


class Defect(AssertionError):  # noqa: N818 - of the slimmer, and none of this program
    """What a slimmed mutant must not be."""


class Hang(BaseException):
    """A mutant took too long."""


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
    for _ in range(chance.choice((0, 0, 1, 3))):
        size = chance.choice((8, 900, 20_000, 80_000))
        made = frame(chance.choice(_SMS), size, new=chance.random() < 0.5)
        containers.insert(chance.randint(0, len(containers)), made)
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
        self.frames: list[tuple[int, int]] = []
        at = data.find(_FRAME)
        while at >= 0:
            self.frames.append((at, _frame_end(data, at)))
            at = data.find(_FRAME, at + 4)


def _frame_end(data: bytearray, at: int) -> int:
    """Of a sound frame of raw blocks."""
    place, last = at + 6, 0
    while not last:
        head = int.from_bytes(data[place : place + 3], "little")
        place, last = place + 3 + (head >> 3), head & 1
    return place


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


def _frame_of(data: bytearray, parts: _Parts, chance: random.Random) -> tuple[int, int]:
    """One of its frames; where it has none, one that takes its first container's place."""
    if parts.frames:
        return chance.choice(parts.frames)
    at, end = parts.containers[0]
    made = frame(chance.choice(_SMS), max(end - at - 100, 0))[: end - at]
    data[at:end] = made.ljust(end - at, b"\0")
    return at, at + len(made)


def _frame_cut(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    at, end = _frame_of(data, parts, chance)
    stop = chance.choice((chance.randint(at, end), min(at + chance.randint(0, 80), end)))
    data[stop:end] = bytes(end - stop)


def _frame_lie(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    """Of its descriptor, its blocks' heads, or the ELF header in it."""
    at, _ = _frame_of(data, parts, chance)
    for _ in range(chance.randint(1, 3)):
        place = at + chance.choice((4, 5, 6, 7, 8, 9 + 7, 9 + 16, 9 + 18, 9 + 48, 9 + 49))
        data[place] = chance.choice((data[place] ^ 1 << chance.randrange(8), chance.randrange(256)))


def _frame_overlap(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    """A frame that begins within another, or in a container, and ends behind it."""
    at, end = chance.choice((_frame_of(data, parts, chance), chance.choice(parts.containers)))
    begin = chance.randrange(at, max(end, at + 1))
    new = frame(chance.choice(_SMS), end - begin + chance.choice((0, 8, 4096)))
    data[begin : begin + len(new)] = new[: len(data) - begin]


def _frame_nest(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    """A frame, a container, or many heads of frames in one."""
    at, end = _frame_of(data, parts, chance)
    begin = min(at + chance.choice((6, 9, 73, 200)), end)
    inner = (frame(chance.choice(_SMS), 64), container(entry(CUBIN, chance.choice(_SMS), 64)))
    new = chance.choice((*inner, _FRAME * 500, frame(80, 0)[:73] * 20))[: end - begin]
    data[begin : begin + len(new)] = new


def _any_flip(data: bytearray, parts: _Parts, chance: random.Random) -> None:
    places = [(0, 64 + 400), *parts.containers, *parts.frames, (0, len(data))]
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
    "frame cut short": _frame_cut,
    "frame sizes lie": _frame_lie,
    "frame overlaps": _frame_overlap,
    "frame nested": _frame_nest,
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
        _compare(data, wanted, options)
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


def _compare(old: bytes, new: bytes, options: one.Options) -> None:
    """Raises Defect where a process does not see the same of both, but for headers and GPU code
    that leaves.
    """
    file = elf.read(old)
    elf.read(new)
    try:
        before = Memory(old)
    except AssertionError:
        return  # the loader takes neither
    after = Memory(new)
    if _mapped(before) != _mapped(after):
        raise Defect("other addresses are mapped")
    may_differ = [(0, _HEADER), (file.phoff, file.phoff + _SEGMENT * len(file.segments))]
    may_differ += _compare_code(old, file.head, (before, after), options)
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


def _compare_code(
    old: bytes, stop: int, memories: tuple[Memory, Memory], options: one.Options
) -> list[tuple[int, int]]:
    """Where GPU code may have left, as offsets in the old file; raises Defect for other changes."""
    before, after = memories
    may_differ: list[tuple[int, int]] = []
    found = fatbin.containers(old, stop)
    for each in found:
        for address in () if each.strange else _addresses(before, each):
            _compare_container(old, each, _less_table(after, address, each.size), options)
            may_differ.append((each.at, each.end))
    for packed in frames.found(old, found, stop) or ():
        stays = any(targets.may_run(packed.sm, sm) for sm in options.sms)
        for address in () if stays else _addresses(before, packed):
            if any(_less_table(after, address, packed.end - packed.at)):
                raise Defect("something is left of a frame for other GPUs")
            may_differ.append((packed.at, packed.end))
    return may_differ


def _addresses(memory: Memory, what: fatbin.Container | frames.Frame) -> list[int]:
    """Wherever the whole of it is mapped; what spans segments has to stay."""
    return [
        load.vaddr + what.at - load.offset
        for load in memory.loads
        if load.offset <= what.at and what.end <= load.offset + load.filesz
    ]


def _less_table(memory: Memory, address: int, size: int) -> bytes:
    """What is there, without the program headers: these may stand where GPU code was."""
    out = bytearray(memory.read(address, size))
    (at,) = struct.unpack_from("<Q", memory.data, 32)
    (number,) = struct.unpack_from("<H", memory.data, 56)
    for load in memory.loads:
        if load.offset <= at < load.offset + load.filesz:
            begin = max(load.vaddr + at - load.offset - address, 0)
            end = max(load.vaddr + at - load.offset + _SEGMENT * number - address, 0)
            out[begin:end] = bytes(len(out[begin:end]))
    return bytes(out)


def _compare_container(old: bytes, was: fatbin.Container, new: bytes, options: one.Options) -> None:
    """Raises Defect where one in memory has what is no entry of the old one, byte for byte, or not
    all that a GPU takes. An entry that leaves may leave its header, and zeros.
    """
    end = fatbin.HEADER + int.from_bytes(new[8:16], "little")
    if new[:8] != old[was.at : was.at + 8] or end > len(new) or any(new[end:]):
        raise Defect("a container's head lies")
    left = iter(was.entries)
    whole: set[fatbin.Entry] = set()
    at = fatbin.HEADER
    while at < end:
        header, payload = struct.unpack_from("<IQ", new, at + 4)
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
    if at != end:
        raise Defect("a container's head lies")
    for sm in options.sms:
        if targets.serving(was.entries, sm) - whole:
            raise Defect(f"GPU code for sm_{sm} is gone")


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


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raises Hang in a block that takes too long."""

    def ended(*_: object) -> None:
        raise Hang(f"no end after {_HANG:g} s")

    old = signal.signal(signal.SIGALRM, ended)
    signal.setitimer(signal.ITIMER_REAL, _HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def run(
    count: int, seed: int, *, until: float = float("inf"), output: Path | None = None
) -> Iterator[str]:
    """Try so many, or until then on the monotonic clock; lines of what came of it, and of defects.

    `output` gets the same as JSON. Raises Defect at the end if there was one.
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
            began = time.process_time()
            try:
                with _limited():
                    told[name][disk.slimmed(data, options)] += 1
            except (Exception, Hang) as error:
                defects += 1
                yield f"mutant {index}, {name}: {error!r}"
                disk = Disk(Path(tempfile.mkdtemp(dir=folder)))
            slowest = max(slowest, time.process_time() - began)
    for name, counts in told.items():
        yield name
        yield from (f"{times:7} {what}" for what, times in counts.most_common())
    took = time.monotonic() - start
    if output:
        result: dict[str, Any] = {
            **stamp(),
            "seed": seed,
            "mutants": tried,
            "defects": defects,
            "seconds": round(took, 1),
            "slowest_cpu_ms": round(slowest * 1000, 1),
            "faults": {name: dict(counts.most_common()) for name, counts in told.items()},
        }
        output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    yield f"{tried} mutants in {took:.0f} s, {defects} defects, slowest {slowest * 1000:.0f} ms"
    if defects or slowest > _SLOW:
        raise Defect(f"{defects} defects, slowest {slowest:.1f} s")


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.fuzz_slim", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=_COUNT, help="mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=_SEED, help="of chance (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after these")
    given = parser.parse_args()
    if given.count < 1 or not given.minutes > 0:
        parser.error("--count and --minutes: above 0")
    until = time.monotonic() + 60 * given.minutes
    usual = (given.count, given.seed, given.minutes) == (_COUNT, _SEED, float("inf"))
    try:
        for line in run(given.count, given.seed, until=until, output=_RESULT if usual else None):
            sys.stdout.write(f"{line}\n")
    except Defect as defect:
        sys.stderr.write(f"fuzz_slim: {defect}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

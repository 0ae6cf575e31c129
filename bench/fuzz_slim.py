"""Breaks libraries with GPU code at random and slims them: nothing may be raised but a refusal.

    python -m bench.fuzz_slim [NUMBER] [SEED]

Each broken file that is rewritten all the same must read as an ELF file again, and be what it is
when it is slimmed a second time. Prints how many were refused, and why; exit code 1 for a defect.
"""

from __future__ import annotations

import collections
import random
import struct
import sys
import time

from builder.runtime.slim import elf, layout, one
from tests.oracle.pieces import joined
from tests.unit.elves import CUBIN, LTO, PTX, Library, container, entry

_KINDS = (PTX, CUBIN, CUBIN, CUBIN, LTO, 16)
_SMS = (75, 80, 86, 87, 89, 90, 100, 103, 120)
_SLOW = 2.0  # seconds that no file of a megabyte may take
_EDGES = (0, 1, 8, 0x40, 0xFFF, 0x1000, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)


def library(chance: random.Random) -> bytearray:
    """A sound one."""
    containers = [
        container(*(
            entry(chance.choice(_KINDS), chance.choice(_SMS),
                  chance.choice((8, 900, 20_000, 80_000)), chance.choice(("", "", "a", "f")),
                  chance.choice((64, 112)))
            for _ in range(chance.randint(0, 4))))
        for _ in range(chance.randint(0, 4))
    ]  # fmt: skip
    return bytearray(Library(
        containers,
        debug=chance.choice((0, 4000)),
        between=chance.choice((0, 9000)),
        phdr=chance.random() < 0.3,
        flags=chance.choice((4, 4, 5, 6)),
        program=chance.random() < 0.2,
        machine=chance.choice((62, 62, 62, 183, 190)),
        overlay=chance.choice((b"", b"", b"", b"PK")),
    ).made())  # fmt: skip


def broken(data: bytearray, chance: random.Random) -> bytes:
    """The same with a few faults: cut short, flipped, with sizes that lie, with parts doubled."""
    (shoff,) = struct.unpack_from("<Q", data, 40)
    code = data.find(struct.pack("<I", 0xBA55ED50))
    regions = [(0, 64), (64, 500), (shoff, len(data)), (0, len(data))]
    if code >= 0:
        regions += [(code, code + 200)] * 2
    for _ in range(chance.randint(1, 4)):
        low, high = chance.choice(regions)
        at = chance.randrange(low, max(low + 1, min(high, len(data))))
        match chance.randrange(6):
            case 0:
                del data[max(at, 64) :]
            case 1:
                size = chance.choice((2, 4, 8))
                at -= at % size
                number = chance.choice(_EDGES) if chance.random() < 0.5 else chance.getrandbits(24)
                data[at : at + size] = (number % (1 << (8 * size))).to_bytes(size, "little")
            case 2 if code >= 0:
                data[at : at + 80] = data[code : code + 80]
            case 3:
                other = chance.randrange(len(data)) if data else 0
                data[at : at + 56] = data[other : other + 56]
            case _:
                if at < len(data):
                    data[at] ^= 1 << chance.randrange(8)
    return bytes(data)


def slimmed(data: bytes, options: one.Options) -> bytes:
    """What would be written."""
    _, pieces = one.examine(data, options)
    if pieces is None:
        return data
    size = sum(map(layout.size_of, pieces))
    if size > 2 * len(data) + 100_000:
        raise AssertionError("it grows")
    out = joined(data, pieces)
    if len(out) != size:
        raise AssertionError("it is not as long as was said")
    return out


def tried(data: bytes, options: one.Options) -> str:
    """What became of a file; raises whatever a defect raises."""
    try:
        new = slimmed(data, options)
    except elf.Refused as refused:
        return str(refused)
    if new == data:
        return "(unchanged)"
    elf.read(new)
    if slimmed(new, options) != new:
        raise AssertionError("slimming twice is not slimming once")
    return "(rewritten)"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main(number: int, seed: int) -> int:
    """Try so many; returns the exit code."""
    told: collections.Counter[str] = collections.Counter()
    defects = 0
    slowest = 0.0
    start = time.monotonic()
    for index in range(number):
        chance = random.Random(seed * 1_000_003 + index)  # noqa: S311
        data = broken(library(chance), chance)
        options = one.Options(
            tuple(sorted(chance.sample(_SMS, chance.randint(1, 2)))),
            chance.choice((one.COMPACT, one.COMPACT, one.ZERO)),
            chance.choice((one.KEEP, one.EMPTY)),
            least=chance.choice((0x1000, 0x10000)),
        )
        began = time.monotonic()
        try:
            told[tried(data, options)] += 1
        except Exception as error:
            defects += 1
            _say(f"file {index}: {error!r}")
        slowest = max(slowest, time.monotonic() - began)
    for what, times in told.most_common():
        _say(f"{times:7} {what}")
    _say(f"{number} files in {time.monotonic() - start:.0f} s, slowest {slowest * 1000:.0f} ms")
    return 1 if defects or slowest > _SLOW else 0


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(numbers + [10_000, 1][len(numbers) :])))

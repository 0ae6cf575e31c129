"""Libraries with GPU code that have a fault: of the same numbers the same.

A third of them is of those whose containers stand together behind pointers that are known, and is
slimmed so that containers move.
"""

from __future__ import annotations

import random
import struct

from bench.faults import FAULTS, POINTERS, SMS, Parts
from builder.runtime.slim import gather, one
from tests.unit.elves import CUBIN, LTO, PTX, Large, Library, container, entry, frame

_KINDS = (PTX, CUBIN, CUBIN, CUBIN, LTO, 16)
_LARGE = 0.1  # of those with a fault that any library may have
_SMALL = (8, 300, 900, 2500, 5000)  # bytes of an entry


def library(chance: random.Random) -> bytearray:
    """A sound one."""
    containers = [
        container(*(
            entry(chance.choice(_KINDS), chance.choice(SMS),
                  chance.choice((8, 900, 20_000, 80_000)), chance.choice(("", "", "a", "f")),
                  chance.choice((64, 112)))
            for _ in range(chance.randint(0, 4))))
        for _ in range(chance.randint(1, 4))
    ]  # fmt: skip
    for _ in range(chance.choice((0, 0, 1, 3))):
        size = chance.choice((8, 900, 20_000, 80_000))
        made = frame(chance.choice(SMS), size, new=chance.random() < 0.5)
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


def large(chance: random.Random) -> bytearray:
    """A sound one whose containers are small, and found by relocations and instructions."""
    number = chance.randint(4, 24)
    texts = [_small(chance) for _ in range(chance.choice((1, 2, number, number, number)))]
    texts = [texts[index % len(texts)] for index in range(number)]

    def some(share: float) -> list[int]:
        return [index for index in range(number) if chance.random() < share]

    coded = chance.choice((0.0, 0.5, 0.5, 1.0))
    symbols = some(chance.choice((0.0, 0.0, 0.1)))
    named = some(0.1) if len(symbols) > 1 else []
    data = bytearray(Large(
        texts,
        [chance.random() < coded for _ in texts],
        inside={index: chance.choice((8, 16, 40)) for index in some(chance.choice((0, 0, 0.1)))},
        plain=set(some(chance.choice((0.0, 0.1)))),
        symbols=symbols,
        named={index: chance.choice((0, 40)) for index in named},
        words={index: _word(chance) for index in some(chance.choice((0.0, 0.1)))},
        flags=chance.choice((0x10000003, 2)),
        got=chance.choice((0x2000, 1 << 40)),
    ).made())  # fmt: skip
    if chance.random() < 0.2:
        _reach_nearly(data, chance)
    return data


def _small(chance: random.Random) -> bytes:
    """A container of which nearly each GPU leaves something."""
    kinds = (PTX, CUBIN, CUBIN, CUBIN, CUBIN, CUBIN, CUBIN, chance.choice((CUBIN, *_KINDS)))
    return container(*(
        entry(chance.choice(kinds), chance.choice(SMS), chance.choice(_SMALL),
              chance.choice(("", "", "", "a", "f")), chance.choice((64, 112)))
        for _ in range(chance.randint(1, 4))))  # fmt: skip


def _word(chance: random.Random) -> bytes:
    """What stands between two containers."""
    return chance.choice((b"a word!!", bytes(8), bytes(32), frame(chance.choice(SMS), 900)))


def _reach_nearly(data: bytearray, chance: random.Random) -> None:
    """An instruction with 32 bits leads to a container, or into it."""
    parts = Parts(data)
    code = parts.section(data, 1, 4)
    address = chance.choice(parts.addresses(data)) + chance.choice((0, 0, 8, 100))
    data[code.start : code.start + 7] = b"\x48\x8d\x05" + struct.pack(
        "<i", address - code.start - 7
    )


def mutant(seed: int, index: int) -> tuple[str, bytes, one.Options]:
    """Its fault, its bytes, and what is asked for."""
    chance = random.Random(seed * 1_000_003 + index)  # noqa: S311
    name = list(FAULTS)[index % len(FAULTS)]
    together = name in POINTERS or chance.random() < _LARGE
    data = large(chance) if together else library(chance)
    FAULTS[name](data, Parts(data), chance)
    options = one.Options(
        tuple(sorted(chance.sample(SMS, chance.randint(1, 2)))),
        chance.choice((one.COMPACT, one.COMPACT, one.ZERO)),
        chance.choice((one.KEEP, one.EMPTY)),
        strip=chance.random() < 0.8,
        least=chance.choice((0x1000, 0x10000)),
        apart=chance.choice((1, 1 << 10, 1 << 14) if together else (1, gather.LEAST)),
    )
    return name, bytes(data), options

"""Addresses in instructions: what a slow reader of each byte finds, and nothing else."""

from __future__ import annotations

import random
import struct

from hypothesis import given
from hypothesis import strategies as st

from builder.runtime.slim import elf, instructions

_MOVES = {(rex, 0xB8 + register) for rex in (0x48, 0x49) for register in range(8)}
_LEAS = {(rex, 0x8D, 5 + 8 * register) for rex in (0x48, 0x4C) for register in range(8)}


def section(data: bytes, at: int, end: int, addr: int) -> elf.Section:
    return elf.Section(0, elf.PROGBITS, 6, addr, at, end - at, 0, 0, 16, 0)


def slow_moves(data: bytes, code: elf.Section, spans: list[range]) -> set[tuple[int, int]]:
    out = set()
    for at in range(code.offset + 2, code.end - 7):
        (value,) = struct.unpack_from("<q", data, at)
        if (data[at - 2], data[at - 1]) in _MOVES and any(value in span for span in spans):
            out.add((at, value))
    return out


def slow_leas(data: bytes, code: elf.Section, spans: list[range]) -> set[int]:
    out = set()
    for at in range(code.offset, code.end - 6):
        if tuple(data[at : at + 3]) in _LEAS:
            (away,) = struct.unpack_from("<i", data, at + 3)
            address = at + 7 - code.offset + code.addr + away
            out |= {address} & {address for span in spans if address in span}
    return out


_NEAR = st.sampled_from([0, 1, 0xFF, 1 << 24, (1 << 24) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, -1])
_SPANS = st.lists(
    st.builds(
        lambda middle, start, size: range(middle + start, middle + start + size),
        st.one_of(_NEAR, st.integers(-(1 << 40), 1 << 40)),
        st.integers(-300, 300),
        st.sampled_from([0, 1, 40, 1 << 20, 1 << 25]),
    ),
    min_size=1,
    max_size=3,
)


@given(_SPANS, st.integers(0, 2**32), st.sampled_from([0, 0x1000, 1 << 33]))
def test_any_bytes_are_read_as_a_slow_reader_does(spans: list[range], seed: int, addr: int) -> None:
    chance = random.Random(seed)
    held = [each for span in spans if span for each in (span[0], span[-1], span[len(span) // 2])]
    data = bytearray()
    for _ in range(chance.randint(0, 60)):
        value = chance.choice([*held, chance.randrange(-(1 << 35), 1 << 35)])
        place = addr - 8 + len(data)
        data += chance.choice(
            (
                bytes([chance.choice((0x48, 0x49, 0x4A)), chance.randrange(0xB7, 0xC1)])
                + struct.pack("<q", value),
                bytes([chance.choice((0x48, 0x4C, 0x49)), 0x8D, chance.randrange(64)])
                + struct.pack("<I", (value - place - 7) & 0xFFFFFFFF),
                bytes(
                    chance.choice((0, 0x48, 0xB8, 0x8D, 0xFF)) for _ in range(chance.randrange(9))
                ),
            )
        )
        # The next one begins within this one.
        del data[len(data) - chance.choice((0, 0, 0, min(4, len(data)), min(1, len(data)))) :]
    text = bytes(data)
    code = section(text, min(8, len(text)), max(len(text) - 3, min(8, len(text))), addr)
    assert set(instructions.moves(text, code, spans)) == slow_moves(text, code, spans)
    assert set(instructions.leas(text, code, spans)) == slow_leas(text, code, spans)


def test_two_that_share_bytes_are_both_found() -> None:
    text = b"\x48\xb8\x48\xb9\x00\x00\x00\x00\x00\x00\x00\x00"
    code = section(text, 0, len(text), 0)
    spans = [range(1 << 20)]
    assert set(instructions.moves(text, code, spans)) == {(2, 0xB948), (4, 0)}


def test_what_begins_before_the_code_is_none() -> None:
    text = b"\x48\xb8" + bytes(8) + b"\x48\x8d\x05" + bytes(4)
    assert list(instructions.moves(text, section(text, 1, len(text), 0), [range(1)])) == []
    assert list(instructions.leas(text, section(text, 11, len(text), 0), [range(99)])) == []
    assert list(instructions.leas(text, section(text, 10, len(text), 0), [range(99)])) == [7]

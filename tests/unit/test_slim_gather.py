"""Containers that are brought together: whoever points to one finds the same there."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.runtime.slim import elf, fatbin, layout, one
from tests.oracle.memory import Memory, entries
from tests.oracle.pieces import joined
from tests.unit.elves import CUBIN, PTX, Large, container, entry

KB = 1 << 10
_SMALL = 5000  # bytes of an entry: less than two pages


def slimmed(data: bytes, sm: int = 90, **options: int) -> bytes:
    given_options = one.Options((sm,), apart=options.pop("apart", 16 * KB), **options)  # type: ignore[arg-type]
    _, pieces = one.examine(data, given_options)
    if pieces is None:
        return data
    out = joined(data, pieces)
    assert len(out) == sum(map(layout.size_of, pieces))
    return out


def many(number: int = 60, **more: object) -> Large:
    """Each of them keeps a little, which is another in each."""
    texts = [
        container(entry(CUBIN, 80, _SMALL), entry(CUBIN, 90, 100 + index), entry(PTX, 75, _SMALL))
        for index in range(number)
    ]
    return Large(texts, [index % 3 > 0 for index in range(number)], **more)  # type: ignore[arg-type]


def pointers(data: bytes, large: Large) -> list[int]:
    """The addresses that relocations and instructions form, in order; read by the file's layout."""
    file = elf.read(data)
    by_name = dict(zip(file.names, file.sections, strict=True))
    table, code = by_name[b".rela.dyn"], by_name[b".text"]
    out = [struct.unpack_from("<q", data, at + 16)[0] for at in range(table.offset, table.end, 24)]
    text = data[code.offset + 16 : code.end]
    while text[:2] == b"\x48\xb8":
        out.append(struct.unpack_from("<q", text, 2)[0] + large.got)
        text = text[16:]
    return out


def found_by(data: bytes, large: Large) -> list[list[bytes]]:
    """What each pointer leads to: the entries that a GPU of SM 9.0 takes."""
    memory = Memory(data)
    out = []
    for address in pointers(data, large):
        size = struct.unpack("<Q", memory.read(address + 8, 8))[0]
        text = memory.read(address, 16 + size)
        (each,) = fatbin.containers(text, len(text))
        out.append([text[e.at : e.end] for e in each.entries if e.name == "sm_90 cubin"])
    return out


def test_small_ones_are_brought_together() -> None:
    large = many()
    old = large.made()
    new = slimmed(old)
    assert len(old) - len(new) > 0.9 * 60 * 2 * _SMALL
    assert len(old) - len(slimmed(old, apart=1 << 30)) == 0  # each less than a page
    assert found_by(new, large) == found_by(old, large)
    assert all(found_by(new, large))
    assert pointers(new, large) != pointers(old, large)
    assert all(address % 32 == 0 for address in pointers(new, large))
    assert slimmed(new) == new


def test_memory_is_as_large_as_it_was() -> None:
    old, new = many().made(), slimmed(many().made())
    before, after = Memory(old).spans(), Memory(new).spans()
    assert before[0] == after[0]
    assert (before[1][0], before[-1][1]) == (after[1][0], after[-1][1])


@pytest.mark.parametrize(
    "large",
    [
        many(flags=0x10000001),  # not mapped
        many(tags={36: 0x100}),  # relative relocations of the packed form
        many(tags={17: 0x100}),
        many(tags={8: 23}),
        many(tags={7: 1 << 40}),
        many(plain=set(range(60))),
        many(symbols=list(range(60))),
        many(tags={6: 1 << 40}),
        many(inside=dict.fromkeys(range(60), 16)),
    ],
)
def test_what_is_not_known_stays(large: Large) -> None:
    old = large.made()
    new = slimmed(old)
    assert pointers(new, large) == pointers(old, large)


@pytest.mark.parametrize("name", [b".nv_fatbin", b".cask_resource"])
def test_sections_of_any_name_are_looked_at(name: bytes) -> None:
    large = many(flags=2, name=name)
    assert len(slimmed(large.made())) < 0.3 * len(large.made())


def test_what_stands_between_stays() -> None:
    large = many(words={20: b"a word!!", 40: bytes(32)})
    old = large.made()
    new = slimmed(old)
    file = elf.read(old)
    section = file.sections[file.names.index(b".ldata")]
    for index in (20, 40):
        at = old.index(large.containers[index]) + len(large.containers[index])
        address = section.addr + at - section.offset
        size = len(large.words[index])
        assert Memory(new).read(address, size) == large.words[index]
        # The next one begins no earlier than what stands between ends.
        later = [a for a, b in zip(pointers(new, large), pointers(old, large), strict=True)
                 if b >= address]  # fmt: skip
        assert min(later) >= address + size
    assert found_by(new, large) == found_by(old, large)


def test_one_that_a_symbol_names_stays_and_others_move() -> None:
    large = many(symbols=[30])
    old = large.made()
    new = slimmed(old)
    file = elf.read(old)
    symbol = file.sections[file.names.index(b".dynsym")]
    address = struct.unpack_from("<Q", old, symbol.offset + 8)[0]
    assert struct.unpack_from("<Q", new, symbol.offset + 8)[0] == address
    assert address in pointers(new, large)
    assert len(new) < 0.4 * len(old)
    assert found_by(new, large) == found_by(old, large)


@pytest.mark.parametrize("behind", [0, 40])
def test_one_that_lies_so_far_behind_a_symbol_stays(behind: int) -> None:
    large = many(symbols=[0, 1], named={30: behind})
    old = large.made()
    new = slimmed(old)
    address = Memory(old).address(old.index(large.containers[30]))
    (kept,) = entries(Memory(new), address)
    assert kept in large.containers[30]
    assert len(new) < 0.4 * len(old)


def test_an_address_of_32_bits_is_left_what_it_reaches() -> None:
    large = many()
    data = bytearray(large.made())
    file = elf.read(bytes(data))
    code = file.sections[file.names.index(b".text")]
    target = pointers(bytes(data), large)[5]
    away = target - (code.addr + 7)
    data[code.offset : code.offset + 7] = b"\x48\x8d\x05" + struct.pack("<i", away)
    new = slimmed(bytes(data))
    assert pointers(new, large)[5] == target
    assert pointers(new, large) != pointers(bytes(data), large)
    assert found_by(new, large) == found_by(bytes(data), large)


@given(
    st.lists(st.sampled_from([40, 900, 5000, 70_000]), min_size=5, max_size=40),
    st.integers(0, 2**32),
    st.sampled_from([0x1000, 0x10000]),
)
def test_whoever_points_to_one_finds_the_same(sizes: list[int], seed: int, least: int) -> None:
    chance = random.Random(seed)
    texts = [
        container(
            *(
                entry(CUBIN, sm, size + chance.randrange(50))
                for sm in (80, 90, 120)
                if sm == 90 or chance.random() < 0.7
            )
        )
        for size in sizes
    ]
    few = [i for i in range(len(texts)) if chance.random() < 0.1]
    large = Large(
        texts,
        [chance.random() < 0.5 for _ in texts],
        plain={i for i in range(len(texts)) if chance.random() < 0.1},
        words={i: chance.choice((b"word", bytes(8))) for i in few},
        got=chance.choice((0x2000, 1 << 40)),
    )
    old = large.made()
    new = slimmed(old, apart=1, least=least)
    assert found_by(new, large) == found_by(old, large)
    assert len(new) <= len(old)
    assert slimmed(new, apart=1, least=least) == new


@given(st.integers(0, 2**32))
def test_broken_ones_are_refused_or_whole(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(many(20).made())
    for _ in range(chance.randint(1, 8)):
        at = chance.choice((chance.randrange(min(4 * KB, len(data))), chance.randrange(len(data))))
        data[at] = chance.randrange(256)
    old = bytes(data)
    try:
        new = slimmed(old, apart=1)
    except elf.Refused:
        return
    elf.read(new)
    assert len(new) <= len(old) + 64 * KB


def test_what_a_segment_brings_elsewhere_than_its_section_says_stays() -> None:
    text = container(*(entry(CUBIN, sm, _SMALL) for sm in (80, 90)))
    large = Large([text] * 60, [False] * 60)
    data = bytearray(large.made())
    file = elf.read(bytes(data))
    index = file.names.index(b".ldata")
    (shoff,) = struct.unpack_from("<Q", data, 40)
    stride = (len(text) + 31) & ~31  # so that each pointer would be taken for its neighbour's
    struct.pack_into("<Q", data, shoff + 64 * index + 16, file.sections[index].addr + stride)
    assert pointers(slimmed(bytes(data)), large) == pointers(bytes(data), large)


def edited(data: bytes, name: bytes, form: str, offset: int, *values: int) -> bytes:
    """With other numbers in the header of the section of this name."""
    out = bytearray(data)
    file = elf.read(data)
    struct.pack_into(form, out, file.shoff + 64 * file.names.index(name) + offset, *values)
    return bytes(out)


@pytest.mark.parametrize(("begin", "end"), [(0, 1), (0, 0.5), (0.5, 1), (0.25, 0.75)])
def test_a_section_that_stands_in_another_stays(begin: float, end: float) -> None:
    large = many()
    old = large.made()
    file = elf.read(old)
    own = file.sections[file.names.index(b".ldata")]
    at, size = (int(own.size * part) & -32 for part in (begin, end - begin))
    form, numbers = "<IQQQQ", (own.kind, own.flags, own.addr + at, own.offset + at, size)
    twice = edited(old, b".dynsym", form, 4, *numbers)
    new = slimmed(twice)
    assert found_by(new, large) == found_by(old, large)
    assert pointers(new, large) == pointers(old, large)


def test_a_dynamic_table_without_an_end_is_not_known() -> None:
    """The loader reads on, whatever the segment says: what follows may be relocations."""
    large = many()
    data = bytearray(large.made())
    file = elf.read(bytes(data))
    table = file.sections[file.names.index(b".dynamic")]
    struct.pack_into("<Q", data, table.end - 16, 24)
    assert pointers(slimmed(bytes(data)), large) == pointers(bytes(data), large)


@pytest.mark.parametrize(("index", "field"), [(2, 16), (3, 0)])
def test_a_dynamic_table_elsewhere_is_not_known(index: int, field: int) -> None:
    """The loader goes by addresses, and by the last such segment."""
    large = many()
    data = bytearray(large.made())
    form, value = ("<Q", 0x800) if field else ("<I", 2)
    struct.pack_into(form, data, 64 + 56 * index + field, value)
    assert pointers(slimmed(bytes(data)), large) == pointers(bytes(data), large)


def test_code_that_stands_elsewhere_than_its_section_says_is_not_known() -> None:
    large = many()
    data = large.made()
    file = elf.read(data)
    code = file.sections[file.names.index(b".text")]
    moved = edited(data, b".text", "<Q", 16, code.addr + 0x100)
    assert pointers(slimmed(moved), large) == pointers(moved, large)


def test_code_that_is_not_mapped_is_none() -> None:
    large = many()
    old = large.made()
    at = old.index(b"\x48\xb8")
    section = (1, 4, 0, len(old), 16)
    more = edited(old + old[at : at + 16], b".dynsym", "<IQQQQ", 4, *section)
    new = slimmed(more)
    assert found_by(new, large) == found_by(old, large)
    assert len(new) < 0.3 * len(old)
    file = elf.read(new)
    assert new[file.sections[1].offset :][:16] == old[at : at + 16]


def test_a_table_of_offsets_behind_all_addresses_is_not_known() -> None:
    """An instruction's 64 bits and it come around to an address again."""
    texts = many().containers
    large = Large(texts, [False] * len(texts), tags={3: (1 << 64) - 0x2000})
    data = bytearray(large.made())
    file = elf.read(bytes(data))
    code = file.sections[file.names.index(b".text")]
    target = pointers(bytes(data), large)[30]
    data[code.offset : code.offset + 10] = b"\x48\xb8" + struct.pack("<q", target + 0x2000)
    assert target in pointers(slimmed(bytes(data)), large)

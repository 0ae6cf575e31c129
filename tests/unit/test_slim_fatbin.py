"""Finding containers, and what only looks like one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.runtime.slim import elf, fatbin
from tests.unit.elves import CUBIN, LTO, PTX, container, entry

MAGIC = struct.pack("<I", 0xBA55ED50)


def found(data: bytes) -> list[fatbin.Container]:
    return fatbin.containers(data, len(data))


def test_entries_are_named() -> None:
    one = container(
        entry(PTX, 80, header=80), entry(CUBIN, 90, variant="a"), entry(CUBIN, 100, variant="f"),
        entry(LTO, 75, header=128, flags=0x12011), entry(CUBIN, 120, header=112, flags=0x1008011),
    )  # fmt: skip
    (read,) = found(b"\x7fELF" + MAGIC + one + MAGIC)
    names = ["sm_80 ptx", "sm_90a cubin", "sm_100f cubin", "sm_75 lto", "sm_120 cubin"]
    assert [each.name for each in read.entries] == names
    assert (read.at, read.end, read.strange) == (8, 8 + len(one), "")


def test_what_only_looks_like_one_is_passed_over() -> None:
    one = container(entry(CUBIN, 90))
    longer = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 1 << 40)
    untiled = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 200) + entry(CUBIN, 90, 100) + bytes(36)
    other = struct.pack("<IHHQ", 0xBA55ED50, 2, 16, len(one))
    data = longer + untiled + other + one
    assert [each.at for each in found(data)] == [len(data) - len(one)]


def test_one_within_anothers_payload_is_that_ones() -> None:
    inner = container(entry(CUBIN, 80))
    head = entry(CUBIN, 90, len(inner))[:64]
    assert [each.at for each in found(container(head + inner))] == [0]


def test_one_that_ends_behind_the_data_is_none() -> None:
    data = container(entry(CUBIN, 90))
    for size in range(len(data)):
        assert found(data[:size]) == []
        assert fatbin.containers(data, size) == []


def test_what_is_not_known_is_said() -> None:
    for strange in (
        entry(16, 90), entry(CUBIN, 90, flags=1 << 22), entry(CUBIN, 7),
        entry(CUBIN, 90, flags=3 << 20),
    ):  # fmt: skip
        (one,) = found(container(entry(CUBIN, 80), strange))
        assert one.strange.startswith("an entry ")


@given(st.lists(st.one_of(
    st.sampled_from([MAGIC, MAGIC + b"\x01\0\x10\0", container(entry(CUBIN, 90)), b"\0" * 9]),
    st.binary(max_size=40)), max_size=12))  # fmt: skip
def test_containers_never_overlap(parts: list[bytes]) -> None:
    data = b"".join(parts)
    end = 0
    for one in found(data):
        assert end <= one.at
        assert one.end <= len(data)
        assert sum(each.header + each.payload for each in one.entries) == one.size - 16
        end = one.end


def test_code_that_begins_with_zeros_is_not_zeroed() -> None:
    code = entry(CUBIN, 90, 64)
    begins = code[:64] + bytes(32) + code[96:]
    (one,) = found(container(begins, code[:64] + bytes(64)))
    assert [each.blank for each in one.entries] == [False, True]


def test_what_is_made_to_look_like_many_within_each_other_is_refused() -> None:
    """Walked from each of them, the entries of half a megabyte would be 35 million."""
    number = 8000
    size = 64 * number
    parts = []
    for index in range(number):
        head = struct.pack("<HHIQ", CUBIN, 0x101, 64, 0).ljust(48, b"\0")
        left = size - 64 * index - 64
        parts.append(head + struct.pack("<IHHQ", 0xBA55ED50, 1, 16, left))
    data = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, size) + b"".join(parts[:-1]) + bytes(64)
    with pytest.raises(elf.Refused, match="looks like GPU code and is none"):
        found(data)

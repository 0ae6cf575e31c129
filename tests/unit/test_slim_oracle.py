"""The readers that judge the slimmer: what cuobjdump prints, what a GPU takes."""

from __future__ import annotations

import pytest

from tests.oracle import cuobjdump, fatbin
from tests.oracle.cuobjdump import Seen
from tests.unit.elves import CUBIN, LTO, PTX, container, entry

# cuobjdump 13.5.37 -all, of a library and of cufft's link-time code, shortened.
DUMP = """
Fatbin elf code:
================
arch = sm_75
code version = [1,8]
host = linux
compile_size = 64bit
compressed

Fatbin elf code:
================
arch = sm_90a
code version = [1,8]
host = linux
compile_size = 64bit
compressed

Fatbin nvvm code:
=================
arch = sm_75
code version = [1,61]
host = linux
compile_size = 64bit
compressed
nvvmOptions = -ftz=0 -prec_div=1 -prec_sqrt=1 -fmad=1\x20

Fatbin elf code:
================
arch = sm_120f
code version = [1,8]
host = linux
compile_size = 64bit

Fatbin ptx code:
================
arch = sm_120
code version = [9,2]
host = linux
compile_size = 64bit
compressed
ptxasOptions = -maxrregcount=96 --compile-only\x20\x20
"""


def test_entries_are_numbered_as_what_is_extracted_is() -> None:
    assert cuobjdump.parse(DUMP) == [
        Seen("elf", "sm_75", 1),
        Seen("elf", "sm_90a", 2),
        Seen("nvvm", "sm_75", 1),
        Seen("elf", "sm_120f", 3),
        Seen("ptx", "sm_120", 1),
    ]
    assert cuobjdump.parse("") == []


def test_a_text_of_another_form_is_not_passed_over() -> None:
    with pytest.raises(cuobjdump.Unread):
        cuobjdump.parse(DUMP.replace("arch = sm_90a\n", ""))
    with pytest.raises(cuobjdump.Unread):
        cuobjdump.parse(DUMP + "\nFatbin new code:\n================\nfor = sm_90\n")


@pytest.mark.parametrize(
    ("held", "sm", "taken"),
    [
        ("75 80 86 90 p90", 80, "80"),
        ("75 80 86 90 p90", 89, "86"),
        ("75 80 86 90 p90", 90, "90"),
        ("80 90a p80", 90, "90a"),
        ("80 90 90a", 90, "90 90a"),
        ("80 90a p80 p90", 100, "p90"),
        ("75 p75 p80 p90 p90a", 89, "p80"),
        ("75 p75 p80 p90 p90a", 90, "p90 p90a"),
        ("80 86 87", 89, "86"),
        ("80 87", 87, "87"),
        ("87", 89, ""),
        ("100f", 103, "100f"),
        ("100a", 103, ""),
        ("86 p90", 80, ""),
        ("-80 p75", 80, "p75"),
        ("l75 p75 p80 80", 80, "80"),
    ],
)
def test_what_a_gpu_takes(held: str, sm: int, taken: str) -> None:
    words = held.split()
    read = [fatbin.entry(made(word)) for word in words]
    assert [words[number] for number in fatbin.taken(read, sm)] == taken.split()


def test_a_library_that_links_takes_all_that_is_linked() -> None:
    read = [fatbin.entry(made(word)) for word in ("l75", "p75", "p80", "86", "80", "-75")]
    assert fatbin.taken(read, 80, linked=True) == [0, 1, 2, 4]


def made(word: str) -> bytes:
    """p90a: PTX, l75: LTO IR, -80: machine code without a payload."""
    kind = {"p": PTX, "l": LTO}.get(word[0], CUBIN)
    digits = word.strip("pl-")
    sm = digits.rstrip("af")
    return entry(kind, int(sm), 0 if word[0] == "-" else 64, digits[len(sm) :])


def test_containers_are_found_and_what_only_looks_like_one_is_not() -> None:
    one = container(entry(CUBIN, 80), entry(PTX, 90, 100))
    fake = one[:8] + (len(one) - 16 + 5).to_bytes(8, "little") + one[16:]  # not filled by entries
    data = b"x" * 24 + one + bytes(8) + fake + one
    entries = [(16, 144), (144, 308)]
    starts = [24, 24 + len(one) + 8 + len(fake)]
    assert list(fatbin.places(data)) == [
        (at, [(at + start, at + end) for start, end in entries]) for at in starts
    ]
    read = fatbin.entry(data[24 + 16 : 24 + 144])
    assert (read.kind, read.arch, read.empty) == ("elf", "sm_80", False)

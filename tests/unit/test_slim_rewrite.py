"""What a rewritten file is in memory, and that it is written once and for all."""

from __future__ import annotations

import struct

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from builder.runtime.slim import elf, fatbin, layout, one, targets
from tests.oracle.memory import Memory, entries
from tests.oracle.pieces import joined
from tests.unit.elves import CUBIN, LTO, PTX, Library, container, entry

KB = 1 << 10


def slimmed(data: bytes, *sms: int, **options: object) -> bytes:
    _, pieces = one.examine(data, one.Options(sms, **options))  # type: ignore[arg-type]
    if pieces is None:
        return data
    out = joined(data, pieces)
    assert len(out) == sum(map(layout.size_of, pieces))
    return out


def code(data: bytes) -> dict[int, list[bytes]]:
    """Address of each container -> its entries."""
    memory = Memory(data)
    # Found by the file's bytes of the old file only: holes are not seen from there.
    found = fatbin.containers(data, len(data))
    return {at: entries(memory, at) for each in found for at in [memory.address(each.at)]}


def merged(spans: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Without permissions: where code was cut out, zero pages may not be executed."""
    out: list[tuple[int, int]] = []
    for begin, end, _ in spans:
        if out and out[-1][1] == begin:
            out[-1] = (out[-1][0], end)
        else:
            out.append((begin, end))
    return out


def same_but_for_code(old: bytes, new: bytes) -> None:
    """All else that a process sees stands where it stood."""
    before, after = Memory(old), Memory(new)
    assert merged(before.spans()) == merged(after.spans())
    assert all(one.filesz or not one.flags & 1 for one in after.loads)
    ranges = [
        (before.address(each.at), before.address(each.at) + each.size)
        for each in fatbin.containers(old, len(old))
    ]
    for begin, end, _ in before.spans():
        at = max(begin, 64 + 56 * 8)  # the headers
        for start, stop in [*ranges, (end, end)]:
            if begin <= start <= end:
                assert before.read(at, max(start - at, 0)) == after.read(at, max(start - at, 0))
                at = max(at, stop)


_ENTRY = st.builds(
    entry,
    st.sampled_from([PTX, CUBIN, CUBIN, CUBIN]),
    st.sampled_from([75, 80, 86, 87, 89, 90, 100, 103, 120]),
    st.sampled_from([8, 64, 3000, 70 * KB, 200 * KB]),
    st.sampled_from(["", "", "", "a", "f"]),
    st.sampled_from([64, 80, 112]),
)
_LIBRARY = st.builds(
    Library,
    containers=st.lists(
        st.lists(_ENTRY, min_size=1, max_size=5).map(lambda few: container(*few)), max_size=5
    ),
    debug=st.sampled_from([0, 5000]),
    between=st.sampled_from([0, 0, 9000]),
    align=st.sampled_from([0x1000, 0x1000, 0x200000]),
    phdr=st.booleans(),
    flags=st.sampled_from([4, 4, 5, 6]),
    program=st.booleans(),
)
_OPTIONS = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["compact", "compact", "zero"]),
        "uncovered": st.sampled_from(["keep", "empty"]),
        "strip": st.booleans(),
        "least": st.sampled_from([0x1000, 0x10000]),
    }
)
_SMS = st.lists(st.sampled_from([80, 86, 89, 90, 103, 121]), min_size=1, max_size=2, unique=True)


def made(library: Library) -> bytes:
    # With 2 MiB between segments' addresses and offsets nothing of that alignment would be right.
    return library.made() if library.align == 0x1000 else _far(library)


def _far(library: Library) -> bytes:
    """As ld lays out for pages of 2 MiB: each later segment lies that much higher."""
    library.align = 0x1000
    data = bytearray(library.made())
    library.align = 0x200000
    moved = 0
    file = elf.read(bytes(data))
    for index, each in enumerate(file.segments):
        if each.kind != elf.LOAD:
            continue
        at = 64 + 56 * index
        struct.pack_into("<QQ", data, at + 16, each.vaddr + moved, each.paddr + moved)
        struct.pack_into("<Q", data, at + 48, 0x200000)
        moved += 0x200000
    return bytes(data)


@given(_LIBRARY, _OPTIONS, _SMS)
def test_twice_is_once(library: Library, options: dict[str, object], sms: list[int]) -> None:
    new = slimmed(made(library), *sms, **options)
    assert slimmed(new, *sms, **options) == new


@given(_LIBRARY, _OPTIONS, _SMS)
def test_memory_stays(library: Library, options: dict[str, object], sms: list[int]) -> None:
    old = made(library)
    new = slimmed(old, *sms, **options)
    assert len(new) <= len(old)
    same_but_for_code(old, new)


@given(_LIBRARY, _OPTIONS, _SMS)
def test_who_was_served_is_served_the_same(
    library: Library, options: dict[str, object], sms: list[int]
) -> None:
    old = made(library)
    new = slimmed(old, *sms, **options)
    memory = Memory(new)
    for each in fatbin.containers(old, len(old)):
        address = Memory(old).address(each.at)
        found = entries(memory, address)
        image = memory.read(address, 16 + sum(map(len, found)))
        (again,) = fatbin.containers(image, len(image))
        for sm in sms:
            before = [
                old[e.at : e.end] for e in each.entries if e in targets.serving(each.entries, sm)
            ]
            serving = targets.serving(again.entries, sm)
            after = [image[e.at : e.end] for e in again.entries if e in serving]
            assert before == after
        if not set(sms) - set(targets.uncovered(each, sms)) and options["uncovered"] == "keep":
            assert found == [old[e.at : e.end] for e in each.entries]


@given(_LIBRARY)
def test_for_all_sms_no_code_leaves(library: Library) -> None:
    """With PTX for the newest left out: where machine code serves, it is not looked at."""
    old = made(library)
    found = fatbin.containers(old, len(old))
    kept = {sm for each in found for e in each.entries for sm in [e.sm] if e.kind == CUBIN}
    assume(kept)
    report, _ = one.examine(old, one.Options(tuple(sorted(kept))))
    assert not [name for name in report["removed"] if name.endswith("cubin")]


def large() -> Library:
    return Library([
        container(entry(CUBIN, 80, 300 * KB), entry(CUBIN, 90, 50 * KB), entry(PTX, 80, 90 * KB)),
        container(entry(CUBIN, 80, 200 * KB), entry(CUBIN, 100, 200 * KB)),
        container(entry(CUBIN, 90, 40 * KB), entry(PTX, 90, 150 * KB)),
    ], debug=50 * KB)  # fmt: skip


def test_bytes_leave_the_file() -> None:
    old = large().made()
    report, _ = one.examine(old, one.Options((90,)))
    new = slimmed(old, 90)
    # The rest of a page on either side of two holes, a page of program headers, section headers.
    assert 540 * KB + 50 * KB - 5 * 4 * KB < len(old) - len(new) < 595 * KB
    assert report["after"] == len(new)
    assert report["removed"] == {"sm_80 cubin": 300 * KB, "sm_80 ptx": 90 * KB,
                                 "sm_90 ptx": 150 * KB}  # fmt: skip
    assert report["uncovered"] == {"90": {"sm_100 cubin, sm_80 cubin": 1}}
    assert report["debug"] > 50 * KB - 10
    assert len(slimmed(old, 90, uncovered="empty")) < len(new) - 380 * KB


def test_only_zeroed_it_keeps_its_layout() -> None:
    old = large().made()
    new = slimmed(old, 90, mode="zero", strip=False)
    assert len(new) == len(old)
    heads = [[e[:64] for e in each] for each in code(old).values()]
    assert [[e[:64] for e in each] for each in code(new).values()] == heads


def test_emptied_containers_say_what_they_held() -> None:
    old = large().made()
    found = list(code(slimmed(old, 90, uncovered="empty", least=1 << 30)).values())
    assert [(len(e), struct.unpack_from("<I", e, 28)[0]) for e in found[1]] == [(64, 80), (64, 100)]


def test_program_headers_are_mapped_where_they_say() -> None:
    library = large()
    library.phdr = True
    new = slimmed(library.made(), 90)
    (phoff,) = struct.unpack_from("<Q", new, 32)
    number = struct.unpack_from("<H", new, 56)[0]
    first = elf.Segment(*struct.unpack_from("<IIQQQQQQ", new, phoff))
    assert (first.kind, first.offset, first.filesz) == (elf.PHDR, phoff, 56 * number)
    assert Memory(new).read(first.vaddr, first.filesz) == new[phoff : phoff + 56 * number]


def test_sections_cover_what_is_left_and_nothing_twice() -> None:
    new = slimmed(large().made(), 90)
    file = elf.read(new)
    names = [name.decode() for name in file.names]
    assert names.count(".nv_fatbin") == 3
    assert not {".debug_info", ".symtab", ".strtab"} & set(names)
    assert names[file.shstrndx] == ".shstrtab"
    end = 0
    for each in sorted(file.sections, key=lambda each: each.offset):
        if each.stored:
            assert each.offset >= end
            end = each.end
            if each.flags & elf.ALLOC:
                assert Memory(new).address(each.offset) == each.addr


def test_symbol_tables_between_segments_leave_and_numbers_stand() -> None:
    library = Library([container(entry(CUBIN, 90))], between=90 * KB)
    old = library.made()
    new = slimmed(old, 90)
    assert len(old) - len(new) > 120 * KB
    before, after = elf.read(old), elf.read(new)
    assert len(before.sections) == len(after.sections)
    assert before.names.index(b".data") == after.names.index(b".data")
    same_but_for_code(old, new)


@pytest.mark.parametrize("kind", [PTX, LTO])
def test_a_library_that_links_keeps_its_input(kind: int) -> None:
    old = Library([
        container(entry(LTO, 75, 100 * KB)),
        container(entry(kind, 80, 100 * KB), entry(CUBIN, 90, 64), entry(CUBIN, 80, 64)),
        container(entry(CUBIN, 100, 100 * KB)),
    ]).made()  # fmt: skip
    report, _ = one.examine(old, one.Options((90,), uncovered="empty"))
    assert report["removed"] == {"sm_80 cubin": 64, "sm_100 cubin": 100 * KB}
    report, _ = one.examine(old, one.Options((90,)))
    assert report["removed"] == {"sm_80 cubin": 64}


def test_lto_ir_for_newer_gpus_is_no_reason_to_take_the_rest_away() -> None:
    old = Library([container(entry(LTO, 100, 100 * KB), entry(CUBIN, 80, 100 * KB))]).made()
    report, pieces = one.examine(old, one.Options((90,)))
    assert (report["removed"], pieces) == ({}, None)
    assert report["uncovered"] == {"90": {"sm_100 lto, sm_80 cubin": 1}}
    report, _ = one.examine(old, one.Options((90,), linked=False))  # a rule takes the LTO IR
    assert report["removed"] == {"sm_100 lto": 100 * KB}


def test_a_program_is_stripped_but_not_split() -> None:
    library = large()
    library.program = True
    old = library.made()
    new = slimmed(old, 90)
    assert len(elf.read(new).segments) == len(elf.read(old).segments)
    assert 50 * KB - 10 < len(old) - len(new) < 55 * KB


def test_pages_of_64_kib_on_arm() -> None:
    library = large()
    library.machine = 183
    library.align = 0x1000
    file = elf.read(slimmed(library.made(), 90))
    for each in file.loads[2:4]:
        assert each.vaddr % 0x10000 == 0


def test_data_behind_the_file_is_refused() -> None:
    library = large()
    library.overlay = b"PK\x05\x06 an archive that says where it stands"
    with pytest.raises(elf.Refused, match="data behind"):
        slimmed(library.made(), 90)


@pytest.mark.parametrize(("field", "value"), [(8, 0x1000), (32, 56)])
def test_program_headers_that_lie_about_themselves_are_refused(field: int, value: int) -> None:
    """What lies below that segment would be free once it tells the truth."""
    library = Library([container(entry(CUBIN, 80, 300_000), entry(CUBIN, 90, 900))], phdr=True)
    data = bytearray(library.made())
    struct.pack_into("<Q", data, 64 + field, value)
    with pytest.raises(elf.Refused, match="program headers are elsewhere"):
        slimmed(bytes(data), 90)


def test_what_is_not_known_stays_whole() -> None:
    strange = container(entry(CUBIN, 80, 100 * KB), entry(64, 90, 64), entry(CUBIN, 90, 64))
    report, pieces = one.examine(Library([strange]).made(), one.Options((90,)))
    assert pieces is None
    assert report["strange"] == {"an entry of kind 64": 1}


@given(_LIBRARY, st.data())
def test_broken_files_are_refused_and_nothing_else(library: Library, data: st.DataObject) -> None:
    text = bytearray(made(library))
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.sampled_from(["head", "program", "sections", "any", "cut"]))
        if where == "cut":
            del text[data.draw(st.integers(0, len(text))) :]
            continue
        (shoff,) = struct.unpack_from("<Q", text.ljust(64, b"\0"), 40)
        low, high = {"head": (16, 64), "program": (64, 600), "sections": (shoff, shoff + 900),
                     "any": (0, len(text))}[where]  # fmt: skip
        at = data.draw(st.integers(low, max(low, high)))
        if at < len(text):
            text[at] ^= data.draw(st.sampled_from([1, 0x10, 0x80, 0xFF]))
    old = bytes(text)
    try:
        new = slimmed(old, 90, uncovered="empty", least=0x1000)
    except elf.Refused:
        return
    if new != old:
        elf.read(new)

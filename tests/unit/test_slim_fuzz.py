"""Broken libraries: a small run of `make fuzz`, and that it sees what it looks for."""

from __future__ import annotations

import ctypes.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import fuzz_slim
from bench.faults import FAULTS, POINTERS
from bench.mutants import mutant
from builder.runtime.slim import (
    aside,
    elf,
    fatbin,
    frames,
    gather,
    instructions,
    layout,
    one,
    rewrite,
)
from tests.oracle.pieces import joined
from tests.oracle.slimmed import Defect


def test_broken_libraries_are_refused_or_rewritten_whole() -> None:
    count = 16 * len(FAULTS)
    *lines, last = fuzz_slim.run(count, seed=3)
    assert last.startswith(f"{count} mutants in ")
    assert ", 0 defects, " in last
    assert [line for line in lines if line in FAULTS] == list(FAULTS)
    tried = sum(int(line.split()[0]) for line in lines if line not in FAULTS)
    assert tried == count
    assert sum("(rewritten)" in line for line in lines) >= 6
    moved = sum(int(line.split()[0]) for line in lines if "GPU code moved" in line)
    assert f", GPU code of {moved} moved, " in last
    assert moved > count / 20


def test_mutants_are_the_same_again() -> None:
    assert mutant(3, 5) == mutant(3, 5)
    assert mutant(3, 5) != mutant(4, 5)


def test_a_third_of_them_has_gpu_code_that_may_move() -> None:
    mutants = [mutant(3, index) for index in range(400)]
    names = {name for name, data, _ in mutants if b".ldata\0" in data}
    assert POINTERS.keys() < names
    assert len(names) > len(POINTERS) + 5
    share = sum(b".ldata\0" in data for _, data, _ in mutants) / len(mutants)
    assert 0.25 < share < 0.4


def test_it_ends_in_time() -> None:
    *_, last = fuzz_slim.run(1000, seed=3, until=0)
    assert last.startswith("0 mutants in ")


def _no_refusal(data: bytes) -> elf.Elf:
    raise IndexError("index out of range")


needs_zstd = pytest.mark.skipif(
    ctypes.util.find_library("zstd") is None, reason="no libzstd.so.1 on this host"
)


def test_frames_are_among_what_is_slimmed() -> None:
    mutants = [mutant(3, index) for index in range(130)]
    assert sum(b"\x28\xb5\x2f\xfd" in data for _, data, _ in mutants) > 60


def test_what_came_of_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_slim, "stamp", lambda: {"commit": "1234567"})
    output = tmp_path / "fuzz.json"
    list(fuzz_slim.run(len(FAULTS), seed=3, output=output))
    told = json.loads(output.read_text())
    assert (told["mutants"], told["defects"], told["seed"]) == (len(FAULTS), 0, 3)
    counts = [each.get("(rewritten, GPU code moved)", 0) for each in told["faults"].values()]
    assert told["gathered"] == sum(counts) > 0
    assert {name: sum(each.values()) for name, each in told["faults"].items()} == dict.fromkeys(
        FAULTS, 1
    )
    assert told["commit"] == "1234567"


def test_a_hang_is_ended_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(data: bytes) -> None:
        while True:
            pass

    monkeypatch.setattr(elf, "read", hangs)
    monkeypatch.setattr(fuzz_slim, "_HANG", 0.05)
    lines: list[str] = []
    with pytest.raises(Defect, match=r"^2 defects"):
        lines.extend(fuzz_slim.run(2, seed=3))
    assert lines[0].startswith("mutant 0, ELF cut short: Hang(")
    assert lines[1].startswith("mutant 1, ELF sizes lie: Hang(")


REAL, COMPOSE = one.slim, rewrite.compose


def _touches(path: str, options: one.Options) -> one.Report:
    os.utime(path)
    return REAL(path, options)


def _leaves(path: str, options: one.Options) -> one.Report:
    Path(path).with_name(f".x{aside.ENDING}").touch()
    return REAL(path, options)


def _spoils_others(path: str, options: one.Options) -> one.Report:
    with Path(path).with_name("other").open("ab") as file:
        file.write(b"past the file")
    return REAL(path, options)


def _adds(path: str, options: one.Options) -> one.Report:
    report = REAL(path, options)
    if report and not report["refused"] and report["changed"]:
        with Path(path).open("ab") as file:
            file.write(b"!")
    return report


def _spoils(file: elf.Elf, data: bytes, *args: Any, **kwargs: Any) -> list[layout.Piece]:
    """The last byte of what is mapped of a whole file that was rewritten."""
    pieces = COMPOSE(file, data, *args, **kwargs)
    out = bytearray(joined(data, pieces))
    out[elf.read(bytes(out)).head - 1] ^= 1
    return [bytes(out)]


PACKED = one._packed


def _garbles(data: bytes, box: fatbin.Container, pieces: Any) -> rewrite.Edit:
    """The payload of each entry that stays."""
    spans = [data[each[0] : each[1]] for each in pieces if isinstance(each, tuple)]
    spoiled = [each[:64] + bytes(sign ^ 0x55 for sign in each[64:]) for each in spans]
    return PACKED(data, box, spoiled or pieces)


def _forgets(data: bytes, box: fatbin.Container, pieces: Any) -> rewrite.Edit:
    """The last of those that stay."""
    return PACKED(data, box, pieces[:-1])


def _takes_all_frames(file: elf.Elf, data: bytes, found: Any, *_: Any) -> list[rewrite.Edit]:
    every = frames.found(data, found, file.head) or ()
    return [rewrite.Edit(each.at, each.end, (each.end - each.at,)) for each in every]


REPOINTED, MOVED = gather._repointed, gather._moved
Pointers = dict[int, int]


def _forgets_one(data: bytes, pointers: Pointers) -> Iterator[rewrite.Edit]:
    return REPOINTED(data, dict(sorted(pointers.items())[:-1]))


def _forgets_all(data: bytes, pointers: Pointers) -> Iterator[rewrite.Edit]:
    return iter(())


def _swaps_two(data: bytes, pointers: Pointers) -> Iterator[rewrite.Edit]:
    (first, one), (second, other) = [*sorted(pointers.items()), (0, 0), (0, 0)][:2]
    swapped = {first: other, second: one} if len(pointers) > 1 else {}
    return REPOINTED(data, {**pointers, **swapped})


def _spoils_the_last(run: Any, section: Any, new: Any, known: Any, out: Pointers) -> rewrite.Edit:
    edit = MOVED(run, section, new, known, out)
    return edit._replace(pieces=(*edit.pieces[:-1], b"U" * layout.size_of(edit.pieces[-1])))


def _aligns_less(run: Any, section: Any, new: Any, known: Any, out: Pointers) -> rewrite.Edit:
    return MOVED(run, section._replace(align=4), new, known, out)


def _leaves_no_room(run: Any, section: Any, new: Any, known: Any, out: Pointers) -> rewrite.Edit:
    """The pointers say that each is 32 bytes further up than it is."""
    edit = MOVED(run, section, new, known, out)
    out.update({at: place - 32 for at, place in out.items()})
    return edit


def _takes_what_is_between(data: bytes, section: Any, moving: Any, known: Any) -> Iterator[Any]:
    yield from [moving] if moving else []


def _sees_nothing(*_: Any) -> Iterator[int]:
    return iter(())


def _defects(count: int) -> list[str]:
    lines: list[str] = []
    with pytest.raises(Defect, match=r"^\d+ defects"):
        lines.extend(fuzz_slim.run(count, seed=3))
    return lines


@pytest.mark.parametrize(
    ("rounds", "place", "name", "fault", "told"),
    [
        (3, elf, "read", _no_refusal, "IndexError"),
        (3, one, "slim", _touches, "a file that stays was touched"),
        (3, one, "slim", _leaves, "something is left beside it"),
        (3, one, "slim", _spoils_others, "the file beside it was touched"),
        (3, one, "slim", _adds, "other bytes are on the disk"),
        (3, rewrite, "compose", _spoils, "in memory is not what it was"),
        (3, one, "_packed", _garbles, "GPU code that stays is not what it was"),
        (3, one, "_packed", _forgets, "is gone"),
        pytest.param(
            3, one, "_frames", _takes_all_frames, "in memory is not what it was", marks=needs_zstd
        ),
        # What moves: in a part of the mutants.
        (16, gather, "_repointed", _forgets_one, "a container's head lies"),
        (16, gather, "_repointed", _forgets_all, "a container's head lies"),
        (16, gather, "_repointed", _swaps_two, "GPU code that stays is not what it was"),
        (16, gather, "_moved", _spoils_the_last, "GPU code that stays is not what it was"),
        (16, gather, "_moved", _aligns_less, "is not aligned"),
        (16, gather, "_moved", _leaves_no_room, "a container's head lies"),
        (16, gather, "_runs", _takes_what_is_between, "stands where other things were"),
        (16, gather._Known, "_symbols", _sees_nothing, "reached otherwise than by pointers"),
        (16, instructions, "leas", _sees_nothing, "reached otherwise than by pointers"),
        (16, gather, "_apart", lambda spans: True, "something is left where GPU code was"),
    ],
)
def test_a_defect_is_seen(
    rounds: int,
    place: object,
    name: str,
    fault: object,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(place, name, fault)
    assert any(told in line for line in _defects(rounds * len(FAULTS)))

"""Broken libraries: a small run of `make fuzz`, and that it sees what it looks for."""

from __future__ import annotations

import ctypes.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench import fuzz_slim
from builder.runtime.slim import aside, elf, fatbin, frames, layout, one, rewrite
from tests.oracle.pieces import joined


def test_broken_libraries_are_refused_or_rewritten_whole() -> None:
    *lines, last = fuzz_slim.run(207, seed=3)
    assert last.startswith("207 mutants in ")
    assert ", 0 defects, " in last
    assert [line for line in lines if line in fuzz_slim.FAULTS] == list(fuzz_slim.FAULTS)
    tried = sum(int(line.split()[0]) for line in lines if line not in fuzz_slim.FAULTS)
    assert tried == 207
    assert sum("(rewritten)" in line for line in lines) >= 6


def test_mutants_are_the_same_again() -> None:
    assert fuzz_slim.mutant(3, 5) == fuzz_slim.mutant(3, 5)
    assert fuzz_slim.mutant(3, 5) != fuzz_slim.mutant(4, 5)


def test_it_ends_in_time() -> None:
    *_, last = fuzz_slim.run(1000, seed=3, until=0)
    assert last.startswith("0 mutants in ")


def _no_refusal(data: bytes) -> elf.Elf:
    raise IndexError("index out of range")


needs_zstd = pytest.mark.skipif(
    ctypes.util.find_library("zstd") is None, reason="no libzstd.so.1 on this host"
)


def test_frames_are_among_what_is_slimmed() -> None:
    mutants = [fuzz_slim.mutant(3, index) for index in range(130)]
    assert sum(b"\x28\xb5\x2f\xfd" in data for _, data, _ in mutants) > 60


def test_what_came_of_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_slim, "stamp", lambda: {"commit": "1234567"})
    output = tmp_path / "fuzz.json"
    list(fuzz_slim.run(13, seed=3, output=output))
    told = json.loads(output.read_text())
    assert (told["mutants"], told["defects"], told["seed"]) == (13, 0, 3)
    assert {name: sum(counts.values()) for name, counts in told["faults"].items()} == dict.fromkeys(
        fuzz_slim.FAULTS, 1
    )
    assert told["commit"] == "1234567"


def test_a_hang_is_ended_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(data: bytes) -> None:
        while True:
            pass

    monkeypatch.setattr(elf, "read", hangs)
    monkeypatch.setattr(fuzz_slim, "_HANG", 0.05)
    lines: list[str] = []
    with pytest.raises(fuzz_slim.Defect, match=r"^2 defects"):
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


@pytest.mark.parametrize(
    ("place", "name", "fault", "told"),
    [
        (elf, "read", _no_refusal, "IndexError"),
        (one, "slim", _touches, "a file that stays was touched"),
        (one, "slim", _leaves, "something is left beside it"),
        (one, "slim", _spoils_others, "the file beside it was touched"),
        (one, "slim", _adds, "other bytes are on the disk"),
        (rewrite, "compose", _spoils, "in memory is not what it was"),
        (one, "_packed", _garbles, "GPU code that stays is not what it was"),
        (one, "_packed", _forgets, "is gone"),
        pytest.param(
            one, "_frames", _takes_all_frames, "in memory is not what it was", marks=needs_zstd
        ),
    ],
)
def test_a_defect_is_seen(
    place: object, name: str, fault: object, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, fault)
    lines: list[str] = []
    with pytest.raises(fuzz_slim.Defect, match=r"^\d+ defects"):
        lines.extend(fuzz_slim.run(39, seed=3))
    assert any(told in line for line in lines)

"""Broken libraries: a small run of `make fuzz`, and that it sees what it looks for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench import fuzz_slim
from builder.runtime.slim import aside, elf, layout, one, rewrite
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


@pytest.mark.parametrize(
    ("place", "name", "fault", "told"),
    [
        (elf, "read", _no_refusal, "IndexError"),
        (one, "slim", _touches, "a file that stays was touched"),
        (one, "slim", _leaves, "something is left beside it"),
        (one, "slim", _spoils_others, "the file beside it was touched"),
        (one, "slim", _adds, "other bytes are on the disk"),
        (rewrite, "compose", _spoils, "in memory is not what it was"),
    ],
)
def test_a_defect_is_seen(
    place: object, name: str, fault: object, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, fault)
    lines: list[str] = []
    with pytest.raises(fuzz_slim.Defect, match=r"^\d+ defects"):
        lines.extend(fuzz_slim.run(18, seed=3))
    assert any(told in line for line in lines)

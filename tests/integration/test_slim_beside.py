"""Large libraries are slimmed in processes of their own, and nothing else comes of it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from builder.runtime.slim import aside, beside, one, run, tree
from tests.integration.conftest import REPOSITORY
from tests.unit.elves import CUBIN, Library, container, entry

FOR_90 = one.Options((90,))


def library(index: int, size: int = 300_000) -> bytes:
    """A library of which most leaves, another for each index."""
    return Library([container(entry(CUBIN, 80, size), entry(CUBIN, 90, 900 + index))]).made()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Libraries that RECORD tells, two names of one, small files, and one that is refused."""
    site = tmp_path / "site-packages"
    (site / "made-1.dist-info").mkdir(parents=True)
    (site / "made").mkdir()
    rows = []
    for index in range(12):
        name = f"made/{index:02}.so"
        (site / name).write_bytes(library(index))
        (site / f"made/{index:02}.py").write_text("x")
        rows.append(f"{name},sha256=x,1\n")
    (site / "made/linked.so").hardlink_to(site / "made/03.so")
    (site / "made/refused.so").write_bytes(library(99) + b"an archive")
    (site / "made-1.dist-info/RECORD").write_text("".join(rows))
    return site


def seen(folder: Path) -> dict[str, Any]:
    return {
        str(file.relative_to(folder)): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_nlink,
        )
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def bare(report: dict[str, Any]) -> dict[str, Any]:
    return {key: what for key, what in report.items() if key != "seconds"}


@pytest.mark.parametrize("dry", [True, False])
def test_the_same_comes_of_it(site: Path, monkeypatch: pytest.MonkeyPatch, *, dry: bool) -> None:
    before = {name: (site / name).read_bytes() for name in seen(site)}
    monkeypatch.setattr(beside, "at_once", lambda: 0)
    alone = tree.slim(str(site), FOR_90, dry=dry)
    wanted = seen(site)
    for name, data in before.items():
        (site / name).unlink()
        (site / name).write_bytes(data)
    (site / "made/linked.so").unlink()
    (site / "made/linked.so").hardlink_to(site / "made/03.so")
    begun: list[int] = []
    real = beside.Call.__init__

    def call(self: beside.Call, function: Any) -> None:
        real(self, function)
        begun.append(self.fileno())

    monkeypatch.setattr(beside, "at_once", lambda: 3)
    monkeypatch.setattr(beside.Call, "__init__", call)
    monkeypatch.setattr(run, "LARGE", 4096)
    report = tree.slim(str(site), FOR_90, dry=dry)
    assert len(begun) == 13
    assert bare(report) == bare(alone)
    assert seen(site) == wanted
    assert report["total"]["changed"] == 12
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # none is left


def test_where_no_process_can_be_had_it_is_done_here(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(beside, "at_once", lambda: 3)
    monkeypatch.setattr(run, "LARGE", 4096)
    monkeypatch.setattr(os, "fork", none)
    handles = len(list(Path("/proc/self/fd").iterdir()))
    assert tree.slim(str(site), FOR_90)["total"]["changed"] == 12
    assert len(list(Path("/proc/self/fd").iterdir())) == handles


@pytest.mark.parametrize("how", ["killed", "raises"])
def test_what_one_raises_is_told_and_records_are_true(
    site: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(beside, "at_once", lambda: 2)
    monkeypatch.setattr(run, "LARGE", 4096)
    here, real = os.getpid(), one.slim

    def slim(path: str, *rest: Any, **more: Any) -> one.Report:
        if path.endswith("05.so") and os.getpid() != here:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device", path)
        return real(path, *rest, **more)

    monkeypatch.setattr(one, "slim", slim)
    old = (site / "made/05.so").read_bytes()
    with pytest.raises(OSError, match=r"killed|No space left") as raised:
        tree.slim(str(site), FOR_90)
    assert raised.value.filename == str(site / "made/05.so")
    assert (site / "made/05.so").read_bytes() == old
    changed = 0
    for row in (site / "made-1.dist-info/RECORD").read_text().splitlines():
        name, _, size = row.split(",")
        if (site / name).read_bytes() != library(int(name[5:7])):
            assert size == str((site / name).stat().st_size)
            changed += 1
        else:
            assert row.endswith(",sha256=x,1")
    assert 4 <= changed < 12  # 00, 01, 02, 04; 03 has two names, and those come last
    assert not [file for file in site.rglob(".*") if aside.is_one(file.name)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_is_ended_leaves_whole_files_and_true_records(
    tmp_path: Path, number: signal.Signals
) -> None:
    site = tmp_path / "site-packages"
    (site / "made-1.dist-info").mkdir(parents=True)
    for index in range(60):
        (site / f"{index:02}.so").write_bytes(library(index, 5_000_000))
    record = site / "made-1.dist-info/RECORD"
    record.write_text("".join(f"{index:02}.so,sha256=x,1\n" for index in range(60)))
    slim = REPOSITORY / "builder/runtime/slim"
    process = subprocess.Popen(
        [sys.executable, "-ES", slim, "--sm", "90", site],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    first = site / "00.so"
    while first.stat().st_size > 1_000_000 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, number)  # as a terminal does, and `docker stop` not
    assert process.wait(60) != 0
    assert not [file for file in site.iterdir() if aside.is_one(file.name)]
    sizes = {}
    for row in record.read_text().splitlines():
        name, digest, size = row.split(",")
        sizes[name] = (site / name).stat().st_size
        if sizes[name] < 1_000_000:
            assert size == str(sizes[name])
            assert digest != "sha256=x"
    assert any(size > 1_000_000 for size in sizes.values()), "it was done before the signal"


def test_a_call_ends_where_nobody_is_told_of_children() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert beside.Call(lambda: "done").result() == "done"
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_calls_that_have_ended_hold_nothing() -> None:
    """However many wait for one that takes longer."""
    handles = len(list(Path("/proc/self/fd").iterdir()))
    calls = [beside.Call(lambda: "x" * 200_000) for _ in range(3)]
    for call in calls:
        assert call.ended(None)
    assert len(list(Path("/proc/self/fd").iterdir())) == handles
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert [len(call.result()) for call in calls] == [200_000] * 3


def test_a_handler_of_the_caller_runs_in_the_caller_alone() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(os.getpid()))

    def ends_itself() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "done"

    try:
        call = beside.Call(ends_itself)
        os.kill(os.getpid(), signal.SIGTERM)
        assert call.result() == "done"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [os.getpid()]


def test_who_waits_for_libraries_computes_nothing(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "at_once", lambda: 2)
    monkeypatch.setattr(run, "LARGE", 4096)
    here, real, waits, wait = os.getpid(), one.slim, [0], beside.wait

    def slim(path: str, *rest: Any, **more: Any) -> one.Report:
        if path.endswith("00.so") and os.getpid() != here:
            time.sleep(1)
        return real(path, *rest, **more)

    def waited(calls: Any) -> None:
        waits[0] += 1
        wait(calls)

    monkeypatch.setattr(one, "slim", slim)
    monkeypatch.setattr(beside, "wait", waited)
    assert tree.slim(str(site), FOR_90)["total"]["changed"] == 12
    assert waits[0] < 40

"""Files and folders: what is written, what is left, what is said."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.inspect import trees
from builder.runtime import __main__ as runtime
from builder.runtime.slim import aside, command, mounts, one, tree
from tests.unit.elves import CUBIN, Library, container, entry
from tests.unit.test_slim_rewrite import large, slimmed

OLD = large().made()
NEW = slimmed(OLD, 90)
FOR_90 = one.Options((90,))


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest keeps its own."""
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "site-packages"
    (place / "torch/lib").mkdir(parents=True)
    (place / "torch/lib/libtorch.so").write_bytes(OLD)
    (place / "torch/__init__.py").write_text("import sys\n")
    (place / "empty.so").touch()
    (place / "objects.o").write_bytes(OLD[:16] + b"\x01\0" + OLD[18:])
    return place


def test_only_what_has_changed_since(folder: Path) -> None:
    later = int(time.time()) + 60
    assert tree.slim(str(folder), FOR_90, since=later)["total"]["files"] == 0
    assert tree.slim(str(folder), FOR_90, since=later - 120)["total"]["changed"] == 1


def test_a_folder(folder: Path) -> None:
    library = folder / "torch/lib/libtorch.so"
    library.chmod(0o750)
    os.utime(library, ns=(1_000_000_007, 2_000_000_009))
    before = library.stat()
    report = tree.slim(str(folder), FOR_90)
    assert library.read_bytes() == NEW
    after = library.stat()
    assert after.st_ino != before.st_ino  # whoever has it open keeps the old one
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, 2_000_000_009)
    assert sorted(path.name for path in library.parent.iterdir()) == ["libtorch.so"]
    (told,) = report["files"]
    assert (told["before"], told["after"], told["refused"]) == (len(OLD), len(NEW), None)
    total = report["total"]
    assert (total["files"], total["elf"], total["changed"]) == (4, 1, 1)
    again = tree.slim(str(folder), FOR_90)
    assert again["total"]["changed"] == 0
    assert library.stat().st_ino == after.st_ino


def test_a_dry_run_says_the_same_and_writes_nothing(folder: Path) -> None:
    would = tree.slim(str(folder), FOR_90, dry=True)
    assert (folder / "torch/lib/libtorch.so").read_bytes() == OLD
    does = tree.slim(str(folder), FOR_90)
    changing = {"dry_run", "seconds"}
    assert {key: would[key] for key in would.keys() - changing} == {
        key: does[key] for key in does.keys() - changing
    }


def test_names_of_one_inode_stay_one(folder: Path) -> None:
    first, second = folder / "torch/lib/libtorch.so", folder / "libtorch.so.2"
    second.hardlink_to(first)
    cache = folder.parent / "cache.so"
    cache.hardlink_to(first)
    report = tree.slim(str(folder), FOR_90)
    assert first.stat().st_ino == second.stat().st_ino
    assert first.read_bytes() == NEW
    assert cache.read_bytes() == OLD
    (told,) = report["files"]
    assert (len(told["names"]), told["links_outside"]) == (2, 1)
    assert "1 other names keep the old file" in "\n".join(command.lines(report))


def test_links_are_not_followed(folder: Path) -> None:
    outside = folder.parent / "outside.so"
    outside.write_bytes(OLD)
    (folder / "link.so").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    tree.slim(str(folder), FOR_90)
    assert outside.read_bytes() == OLD
    assert (folder / "link.so").is_symlink()


def test_a_named_link_is_what_it_names(folder: Path) -> None:
    link = folder.parent / "named.so"
    link.symlink_to(folder / "torch/lib/libtorch.so")
    tree.slim(str(link), FOR_90)
    assert link.is_symlink()
    assert link.read_bytes() == NEW


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("libcudart_static.a", b"!<arch>\n/       0", "a static library"),
        ("kernel.o", OLD[:16] + b"\x01\0" + OLD[18:], "an object file"),
        ("kernel.cubin", OLD[:18] + b"\xbe\0" + OLD[20:], "for one GPU"),
        ("kernel.fatbin", container(entry(CUBIN, 80)), "GPU code in a file of its own"),
        ("librisc.so", OLD[:18] + b"\xf3\0" + OLD[20:], "machine 243"),
        ("core", OLD[:16] + b"\x04\0" + OLD[18:], "neither a program nor"),
        ("libwin.dll", b"MZ", "no program and no shared object"),
        ("empty.so", b"", "no program and no shared object"),
    ],
)
def test_a_named_file_that_is_none_of_ours_is_left_and_that_is_said(
    tmp_path: Path, name: str, data: bytes, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    assert command.main([str(file), "--sm", "90"]) == 1
    said = capsys.readouterr()
    (told,) = said.out.splitlines()[1:]
    assert told.startswith(f"  left as it is: {file}: ")
    assert why in told
    assert said.err == told.replace("  left as it is: ", "slim: ") + "\n"
    assert command.main([str(file), "--sm", "90", "--json"]) == 1
    (because,) = json.loads(capsys.readouterr().out)["left"].values()
    assert told.endswith(because)
    assert file.read_bytes() == data
    assert tree.slim(str(tmp_path), FOR_90)["left"] == {}


def test_what_is_refused_stays_and_is_said(folder: Path) -> None:
    library = folder / "torch/lib/libtorch.so"
    library.write_bytes(OLD + b"an archive")
    report = tree.slim(str(folder), FOR_90)
    assert library.read_bytes() == OLD + b"an archive"
    assert report["total"]["refused"] == 1
    assert f"refused: {library}: data behind" in "\n".join(command.lines(report))


@pytest.mark.parametrize("asked", [(), ("--json",), ("--dry-run",)])
def test_a_named_file_that_is_refused_is_a_failure(
    tmp_path: Path, asked: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    library = tmp_path / "lib.so"
    library.write_bytes(OLD + b"an archive")
    assert command.main([str(library), "--sm", "90", *asked]) == 1
    assert capsys.readouterr().err.startswith(f"slim: {library}: data behind")
    assert command.main([str(tmp_path), "--sm", "90", *asked]) == 0  # one of many
    library.write_bytes(OLD)
    assert command.main([str(library), "--sm", "90", *asked]) == 0
    assert command.main([str(library), "--sm", "90", *asked]) == 0


def test_names_do_not_make_lines_or_move_the_cursor(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "lib\n  forged: \x1b[31m\udcff.so"
    (folder / name).write_bytes(OLD)
    assert command.main([str(folder), "--sm", "90"]) == 0
    out = capsys.readouterr().out
    assert f"  {folder}/lib\\n  forged: \\x1b[31m\\udcff.so: 1.1 MB are" in out
    assert not any(line.startswith("  forged") for line in out.splitlines())
    assert command.main([str(folder / f"no{name}"), "--sm", "90"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["writev", "fsync", "fchmod", "replace"])
def test_a_full_disk_leaves_the_old_file(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, name, full)
    assert command.main([str(folder), "--sm", "90"]) == 1
    library = folder / "torch/lib/libtorch.so"
    assert library.read_bytes() == OLD
    assert [path.name for path in library.parent.iterdir()] == ["libtorch.so"]
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "No space left on device" in told
    assert str(library) in told


def test_an_interrupt_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tree.slim(str(folder), FOR_90)
    library = folder / "torch/lib/libtorch.so"
    assert library.read_bytes() == OLD
    assert [path.name for path in library.parent.iterdir()] == ["libtorch.so"]


def test_what_a_killed_one_left_is_removed(folder: Path) -> None:
    library = folder / "torch/lib/libtorch.so"
    left = library.with_name(f".{library.name}{aside.ENDING}")
    left.write_bytes(OLD)
    assert tree.slim(str(folder), FOR_90, dry=True)["total"]["elf"] == 1
    assert left.exists()
    assert tree.slim(str(folder), FOR_90)["total"]["elf"] == 1
    assert not left.exists()
    assert library.read_bytes() == NEW


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_who_slims_a_folder_below_leaves_what_is_not_whole_yet(
    folder: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = folder / "torch/lib/libtorch.so"
    real = getattr(os, call)

    def meanwhile(*args: Any) -> None:
        monkeypatch.setattr(os, call, real)
        tree.slim(str(folder / "torch"), FOR_90._replace(sms=(80, 90, 100), strip=False))
        real(*args)

    monkeypatch.setattr(os, call, meanwhile)
    assert tree.slim(str(folder), FOR_90)["total"]["changed"] == 1
    assert library.read_bytes() == NEW
    assert [path.name for path in library.parent.iterdir()] == ["libtorch.so"]


def test_a_link_that_is_not_whole_yet_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = folder / "torch/lib/libtorch.so"
    other = folder / "torch/other.so"
    other.write_bytes(b"other")
    real = os.replace

    def meanwhile(*args: str) -> None:
        list(tree.inodes(str(folder), alone=True))
        real(*args)

    monkeypatch.setattr(os, "replace", meanwhile)
    aside.link(str(library), str(other))
    assert other.samefile(library)
    assert not any(aside.is_one(path.name) for path in other.parent.iterdir())


def test_a_new_file_that_was_cleared_away_at_once_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock

    def late(handle: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        list(tree.inodes(str(folder), alone=True))
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    one.replaced(str(folder / "empty.so"), b"whole")
    assert (folder / "empty.so").read_bytes() == b"whole"
    assert not any(aside.is_one(path.name) for path in folder.iterdir())


def test_two_do_not_slim_one_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = folder / "torch/lib/libtorch.so"
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert command.main([str(folder), "--sm", "90"]) == 1
        assert capsys.readouterr().err == f"slim: {folder}: another slim works on it\n"
        assert library.read_bytes() == OLD
        assert tree.slim(str(folder), FOR_90, dry=True)["total"]["changed"] == 1
    finally:
        os.close(handle)
    assert tree.slim(str(folder), FOR_90)["total"]["changed"] == 1


def test_a_file_system_without_locks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockless(*_: Any) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    other = folder / f".other{aside.ENDING}"
    other.touch()
    monkeypatch.setattr(fcntl, "flock", lockless)
    assert tree.slim(str(folder), FOR_90)["total"]["changed"] == 1
    assert other.exists()  # another may be writing it


def test_who_writes_at_the_same_time_has_a_file_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = folder / "torch/lib/libtorch.so"
    real = os.fsync
    asides: list[str] = []

    def second(handle: int) -> None:
        monkeypatch.setattr(os, "fsync", real)
        asides.extend(path.name for path in library.parent.iterdir() if path != library)
        one.replaced(str(library.with_name("libother.so")), b"whole")
        real(handle)

    library.with_name("libother.so").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", second)
    one.replaced(str(library), b"first")
    assert library.read_bytes() == b"first"
    assert sum(aside.is_one(name) for name in asides) == 1
    assert aside._name("a/b") != aside._name("a/b")


def test_a_name_can_be_as_long_as_any(folder: Path) -> None:
    library = (folder / "torch/lib/libtorch.so").rename(folder / ("x" * 252 + ".so"))
    library.with_name("y" * 255).hardlink_to(library)
    tree.slim(str(folder), FOR_90)
    assert library.read_bytes() == NEW
    assert library.with_name("y" * 255).samefile(library)


def test_short_writes_are_gone_on_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, few: real(fd, [few[0][: min(777, len(few[0]))]]))
    tree.slim(str(folder), FOR_90)
    assert (folder / "torch/lib/libtorch.so").read_bytes() == NEW


def test_a_file_that_vanishes_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = list(tree.inodes(str(folder)))
    gone = str(folder / "gone.so")
    monkeypatch.setattr(tree, "inodes", lambda *_: iter([(gone, [], 1), *found]))
    assert command.main([str(folder), "--sm", "90"]) == 1
    assert capsys.readouterr().err == f"slim: {gone}: No such file or directory\n"


def test_an_sm_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path), "--sm", "h100"]) == 2
    assert capsys.readouterr().err == "slim: --sm: 'h100' is no SM; write 90 or 9.0\n"


def test_an_unknown_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([str(tmp_path), "--sm", "90", "--mode", "small"])
    assert ended.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_no_such_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path / "no"), "--sm", "90"]) == 1
    assert capsys.readouterr().err == f"slim: {tmp_path / 'no'}: No such file or directory\n"


def test_json_through_the_runtime(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime.main(["slim", str(folder), "--sm", "9.0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sms"] == [90]
    assert report["total"]["uncovered"] == {"90": {"sm_100 cubin, sm_80 cubin": 1}}


def test_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(folder), "--sm", "90", "--dry-run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{folder}: 1.1 MB would be 0.5 MB for sm_90 (1 of 1 ELF files, ")
    assert told[1].startswith("  GPU code kept: 0.5 MB: sm_100 cubin 0.2 MB")
    assert "  1 containers have no code for sm_90:" in told
    assert "    1 hold sm_100 cubin, sm_80 cubin" in told


@pytest.mark.parametrize(("asked", "same"), [((), True), (("--uncovered", "empty"), False)])
def test_a_library_without_code_for_the_gpu_keeps_all_and_is_named(
    folder: Path, asked: tuple[str, ...], same: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    library = folder / "libold.so"
    old = Library([container(entry(CUBIN, 80, 300_000), entry(CUBIN, 100, 90_000))]).made()
    library.write_bytes(old)
    assert command.main([str(folder), "--sm", "90", *asked]) == 0
    assert (library.read_bytes() == old) is same
    told = [line for line in capsys.readouterr().out.splitlines() if "none of its" in line]
    assert told == [f"  {library}: none of its GPU code is for sm_90"]


def test_progress_after_a_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    told = command._Progress()
    told(1, 5_000_000)
    now[0] = 101.5
    told(2, 9_000_000)
    told(3, 9_000_000)
    assert capsys.readouterr().err == "slim: 2 files, 9 MB of libraries\n"


def test_a_file_that_changes_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lib.so"
    file.write_bytes(OLD)
    sync = os.fsync

    def meanwhile(handle: int) -> None:
        sync(handle)
        file.write_bytes(OLD + b"more")

    monkeypatch.setattr(os, "fsync", meanwhile)
    with pytest.raises(OSError, match="it changed meanwhile"):
        tree.slim(str(file), one.Options((90,)))
    assert file.read_bytes() == OLD + b"more"
    assert [each.name for each in tmp_path.iterdir()] == ["lib.so"]


class Entry:
    """Of an overlay: what is no folder has another device than its folders."""

    def __init__(self, real: os.DirEntry[str], apart: str) -> None:
        self._real, self._apart = real, apart
        self.name, self.path = real.name, real.path
        self.is_dir, self.is_symlink = real.is_dir, real.is_symlink

    def stat(self, *, follow_symlinks: bool = True) -> SimpleNamespace:
        info = self._real.stat(follow_symlinks=follow_symlinks)
        fields = {name: getattr(info, name) for name in dir(info) if name.startswith("st_")}
        shift = (
            1 if not self._real.is_dir(follow_symlinks=False) else 2 * (self.name == self._apart)
        )
        return SimpleNamespace(**{**fields, "st_dev": info.st_dev + shift})


@pytest.fixture
def overlay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An overlay with a folder and a file of other file systems."""
    real = os.scandir

    @contextmanager
    def scandir(path: str) -> Iterator[Iterator[Entry]]:
        with real(path) as entries:
            yield (Entry(entry, "data set") for entry in entries)

    (folder / "data set").mkdir()
    (folder / "data set/libdata.so").write_bytes(OLD)
    (folder / "mounted.so").write_bytes(OLD)
    told = folder.parent / "mountinfo"
    spelled = str(folder).replace(" ", "\\040")
    told.write_text(
        f"22 1 0:21 / / rw - overlay overlay rw\n"
        f"23 22 0:22 / {spelled}/data\\040set rw,noatime shared:1 - ext4 /dev/sda rw\n"
        f"24 22 0:22 /x {spelled}/mounted.so rw - ext4 /dev/sda rw\n"
    )
    monkeypatch.setattr(mounts, "_LIST", str(told))
    monkeypatch.setattr(os, "scandir", scandir)
    return folder


def test_files_of_an_overlay_are_its_own_and_other_file_systems_are_told(overlay: Path) -> None:
    report = tree.slim(str(overlay), FOR_90)
    assert (overlay / "torch/lib/libtorch.so").read_bytes() == NEW
    assert (overlay / "data set/libdata.so").read_bytes() == OLD
    assert (overlay / "mounted.so").read_bytes() == OLD
    apart = [str(overlay / "data set"), str(overlay / "mounted.so")]
    assert report["not_entered"] == apart
    told = [line for line in command.lines(report) if "not entered" in line]
    assert told == [
        f"  not entered: {name}: another file system is mounted there" for name in apart
    ]


def test_an_overlay_is_looked_into(overlay: Path) -> None:
    files = {item.path for item in trees.of_folder(overlay) if item.disk}
    assert files == {"torch/lib/libtorch.so", "torch/__init__.py", "empty.so", "objects.o"}


def test_a_kernel_that_lists_no_mounts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_LIST", str(folder / "no"))
    assert tree.slim(str(folder), FOR_90)["total"]["changed"] == 1

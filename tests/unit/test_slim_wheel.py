"""Wheels: a copy whose libraries are slimmed and whose RECORD is right."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from builder.runtime.slim import command
from tests.unit.test_slim_tree import NEW, OLD

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda number, handler: None)


def digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    files = {"made/lib/libmade.so": OLD, "made/__init__.py": b"", 'made/a,"b".txt': b"quoted"}
    rows = io.StringIO()
    csv.writer(rows, lineterminator="\n").writerows(
        [[name, digest(data), len(data)] for name, data in files.items()]
        + [["made-1.dist-info/RECORD", "", ""]]
    )
    files["made/_vendor/other-2.dist-info/RECORD"] = b"of what it vendors"
    files["made-1.dist-info/RECORD"] = rows.getvalue().encode()
    path = tmp_path / "made-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6))
            member.external_attr = 0o100755 << 16
            archive.writestr(member, data)
    return path


def test_a_wheel_is_written_anew(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = wheel.read_bytes()
    output = wheel.with_name("slim.whl")
    assert command.main([str(wheel), "--sm", "90", "--output", str(output)]) == 0
    assert "1 of 1 ELF files" in capsys.readouterr().out
    assert wheel.read_bytes() == before
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(output) as new:
        assert new.testzip() is None
        assert new.namelist() == old.namelist()
        for one in new.infolist():
            assert one.date_time == (2026, 1, 2, 3, 4, 6)
            assert one.external_attr >> 16 == 0o100755
        assert new.read("made/lib/libmade.so") == NEW
        for name, told, size in csv.reader(
            io.StringIO(new.read("made-1.dist-info/RECORD").decode())
        ):
            if told:
                data = new.read(name)
                assert (told, size) == (digest(data), str(len(data)))
    first = output.read_bytes()
    output.unlink()
    command.main([str(wheel), "--sm", "90", "--output", str(output)])
    assert output.read_bytes() == first
    assert sorted(path.name for path in wheel.parent.iterdir()) == [wheel.name, "slim.whl"]


def test_a_dry_run_of_a_wheel_says_the_same_and_writes_nothing(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(wheel.parent))
    before = [wheel.parent.stat().st_mtime_ns, wheel.stat()]
    assert command.main([str(wheel), "--sm", "90", "--json", "--dry-run"]) == 0
    would = json.loads(capsys.readouterr().out)
    assert [wheel.parent.stat().st_mtime_ns, wheel.stat()] == before
    output = str(wheel.with_name("slim.whl"))
    assert command.main([str(wheel), "--sm", "90", "--json", "--dry-run", "--output", output]) == 0
    assert [path.name for path in wheel.parent.iterdir()] == [wheel.name]
    capsys.readouterr()
    assert command.main([str(wheel), "--sm", "90", "--json", "--output", output]) == 0
    does = json.loads(capsys.readouterr().out)
    assert (would.pop("dry_run"), does.pop("dry_run")) == (True, False)
    assert would.pop("seconds") >= 0 <= does.pop("seconds")
    assert would == does
    assert would["total"]["after"] == len(NEW)
    assert command.main([str(wheel), "--sm", "90", "--dry-run"]) == 0
    assert f"{wheel}: 1.1 MB would be 0.5 MB" in capsys.readouterr().out


def test_a_dry_run_sees_that_a_wheel_is_broken(
    wheel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(wheel.read_bytes())
    with zipfile.ZipFile(wheel) as archive:
        at = archive.getinfo('made/a,"b".txt').header_offset
    data[at + 30 + len('made/a,"b".txt')] ^= 0x55
    wheel.write_bytes(data)
    assert command.main([str(wheel), "--sm", "90", "--dry-run"]) == 1
    assert capsys.readouterr().err.startswith(f"slim: {wheel}: no wheel that we can read: ")


def test_no_wheel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = tmp_path / "broken.whl"
    wheel.write_bytes(b"PK\x03\x04 half of it")
    assert command.main([str(wheel), "--sm", "90", "--output", str(tmp_path / "o.whl")]) == 1
    assert capsys.readouterr().err.startswith(f"slim: {wheel}: no wheel that we can read: ")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.whl"]


def test_a_file_is_not_written_over(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(wheel), "--sm", "90", "--output", str(wheel)]) == 1
    assert capsys.readouterr().err == f"slim: {wheel}: is there already\n"


def test_a_wheel_needs_an_output(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(wheel), "--sm", "90"]) == 2
    assert "--output" in capsys.readouterr().err
    assert command.main([str(wheel.parent), "--sm", "90", "--output", "x.whl", "--dry-run"]) == 2
    assert "--output" in capsys.readouterr().err


def test_rows_are_of_one_shape(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = wheel.parent / "folder"
    folder.mkdir()
    (folder / "refused.so").write_bytes(OLD + b"an archive")
    (folder / "whole.so").write_bytes(OLD)
    rows = []
    for path in (folder, wheel):
        assert command.main([str(path), "--sm", "90", "--dry-run", "--json"]) == 0
        rows += json.loads(capsys.readouterr().out)["files"]
    assert [bool(row["refused"]) for row in rows] == [True, False, False]
    assert len({tuple(sorted(row)) for row in rows}) == 1

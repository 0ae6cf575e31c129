"""What a container starts, and as which home."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from builder.runtime import entrypoint

SERVER = ("vllm", "serve")


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with one program, `bash`."""
    program = tmp_path / "bin/bash"
    program.parent.mkdir()
    program.touch(0o755)
    return str(program.parent)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], ["vllm", "serve"]),
        (["--model", "x"], ["vllm", "serve", "--model", "x"]),
        (["org/model"], ["vllm", "serve", "org/model"]),
        (["bash", "-c", "id"], ["bash", "-c", "id"]),
        (["bash"], ["bash"]),
        (["nosuchprogram"], ["vllm", "serve", "nosuchprogram"]),
        (["-c", "bash"], ["vllm", "serve", "-c", "bash"]),
        (["x", "--", "y"], ["vllm", "serve", "x", "--", "y"]),
        ([""], ["vllm", "serve", ""]),
    ],
)
def test_the_users_program_or_the_server(
    path: str, arguments: list[str], wanted: list[str]
) -> None:
    assert entrypoint.command(SERVER, arguments, path) == wanted


def test_a_model_in_a_folder_is_no_program(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert entrypoint.command(SERVER, ["org/model"], path)[:2] == ["vllm", "serve"]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The shared folders that are tried, here below tmp_path."""
    found = [tmp_path / name for name in ("tmp", "var-tmp", "shm")]
    for place in found:
        place.mkdir()
    monkeypatch.setattr(entrypoint, "SHARED", tuple(map(str, found)))
    return found


OWN = f"imgbuild-{os.getuid()}"


def read_only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Make folders refuse files, as a mount does: mode bits do not bind root."""
    original = tempfile.TemporaryFile

    def refusing(*args: Any, dir: str, **options: Any) -> Any:  # noqa: A002 - tempfile's name
        if any(Path(dir).is_relative_to(folder) for folder in folders):
            raise OSError(30, "Read-only file system")
        return original(*args, dir=dir, **options)

    monkeypatch.setattr(tempfile, "TemporaryFile", refusing)


def test_a_home_that_can_be_written_stays(tmp_path: Path, places: list[Path]) -> None:
    assert entrypoint.home({"HOME": str(tmp_path)}) == str(tmp_path)
    assert entrypoint.home({"HOME": str(tmp_path / "new")}) == str(tmp_path / "new")
    assert [*places[0].iterdir()] == []


def test_a_read_only_home_is_replaced_by_a_private_folder(
    tmp_path: Path, places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "home"
    read_only(monkeypatch, own)
    found = entrypoint.home({"HOME": str(own)})
    assert found == str(places[0] / OWN)
    assert Path(found).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": "/"}, {"HOME": "/proc/none"}])
def test_no_home_at_all(places: list[Path], home: dict[str, str]) -> None:
    """An arbitrary uid has no passwd entry, and "/" for a home."""
    assert entrypoint.home(home) == str(places[0] / OWN)


def test_the_places_are_tried_in_order(
    tmp_path: Path, places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    assert entrypoint.home({"TMPDIR": str(mine)}) == str(mine / OWN)
    read_only(monkeypatch, mine, places[0])
    assert entrypoint.home({"TMPDIR": str(mine)}) == str(places[1] / OWN)
    read_only(monkeypatch, *places)
    assert entrypoint.home({}) is None


def test_a_folder_that_somebody_else_made_is_not_trusted(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apptainer shows the host's /tmp, and what lies in HOME is run."""
    (places[0] / OWN).symlink_to(places[2])
    (places[1] / OWN).mkdir()
    original = os.lstat

    def foreign(path: Any, *args: Any, **options: Any) -> Any:
        status = original(path, *args, **options)
        if Path(path) == places[1] / OWN:
            values = list(status)
            values[4] += 1  # st_uid
            return os.stat_result(values)
        return status

    monkeypatch.setattr(os, "lstat", foreign)
    assert entrypoint.home({}) == str(places[2] / OWN)


def test_what_the_user_set_stays(tmp_path: Path) -> None:
    given = {
        "HOME": str(tmp_path),
        "USER": "alice",
        "HF_HOME": "/models",
        "VLLM_NO_USAGE_STATS": "0",
    }
    assert entrypoint.prepare(given) == given


def test_a_uid_without_a_passwd_entry_gets_a_user_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = entrypoint.prepare({"HOME": str(tmp_path)})
    assert prepared == {"HOME": str(tmp_path), "USER": "imgbuild"}
    # getpass.getuser() asks the environment before it asks for the passwd entry.
    import getpass  # noqa: PLC0415
    import pwd  # noqa: PLC0415

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", prepared["USER"])
    assert getpass.getuser() == "imgbuild"


def test_no_place_at_all_is_told_and_the_server_starts_anyway(
    places: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in places:
        shutil.rmtree(place)
        place.touch()  # a file: no folder can be made in it
    prepared = entrypoint.prepare({"HOME": "/proc/none"})
    assert prepared == {"HOME": "/proc/none", "USER": "imgbuild"}
    error = capsys.readouterr().err
    assert error == "imgbuild: no writable folder for caches; mount one and set HOME\n"


class Exec:
    """Stands in for os.execvpe, which would not return."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.calls: list[tuple[str, list[str], dict[str, str]]] = []

    def __call__(self, file: str, args: list[str], env: dict[str, str]) -> None:
        self.calls.append((file, args, env))
        if self.error:
            raise self.error


def test_main_becomes_the_command(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = Exec()
    monkeypatch.setattr(os, "execvpe", called)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", path)
    entrypoint.main([*SERVER, "--", "--port", "1", "--", "x"])
    entrypoint.main([*SERVER, "--", "bash"])
    (file, args, env), (other, _, _) = called.calls
    assert (file, args) == ("vllm", ["vllm", "serve", "--port", "1", "--", "x"])
    assert env["HOME"] == str(tmp_path)
    assert other == "bash"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (FileNotFoundError(2, "No such file or directory"), 127, "No such file or directory"),
        (PermissionError(13, "Permission denied"), 126, "Permission denied"),
    ],
)
def test_main_says_why_it_could_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    code: int,
    says: str,
) -> None:
    monkeypatch.setattr(os, "execvpe", Exec(error))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert entrypoint.main([*SERVER, "--"]) == code
    assert capsys.readouterr().err == f"imgbuild: cannot start vllm: {says}\n"


@pytest.mark.parametrize("arguments", [[], ["vllm"], ["--"], ["--", "bash"]])
def test_main_without_a_server_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert entrypoint.main(arguments) == 64
    assert capsys.readouterr().err.startswith("usage: entrypoint.py SERVER... -- ARGUMENTS...")

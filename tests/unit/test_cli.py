"""The command line: exit codes, one line for a mistake, and nothing heavy loaded for --help."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from builder import cli, engines
from builder.cli import VERBS
from builder.engines.apptainer import Apptainer
from builder.errors import BuildError, DriftError
from tests.unit.support import ROOT


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["imgbuild", *args])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return 0 if code is None else int(code)


def test_help_names_every_verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    for verb, what in VERBS.items():
        assert verb in shown
        assert what in shown


def test_without_a_verb_the_help_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    assert capsys.readouterr().out.startswith("Usage: imgbuild")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, verb, "--help") == 0
    assert "Usage: imgbuild" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("build", "--engine", "dokcer"), "--engine: 'dokcer' is unknown; did you mean 'docker'?"),
        (("build", "--matrx", "x"), "no option '--matrx'; did you mean '--matrix'?"),
        (("render", "--zzz"), "no option '--zzz'; see `imgbuild render --help`"),
        (("smoke", "--timeout", "soon"), "--timeout: 'soon' is not a valid float"),
        (
            ("render", "cpu-vllm"),
            "got unexpected extra argument (cpu-vllm); cells are named with --matrix",
        ),
        (("doctor", "x"), "got unexpected extra argument (x); see `imgbuild doctor --help`"),
        (("--qq",), "no option '--qq'; see `imgbuild --help`"),
        (("push", "--matrix", "x"), "--registry is required; see `imgbuild push --help`"),
        (("pull", "x", "--registry", "y.org"), "--to is required; see `imgbuild pull --help`"),
        (("pull",), "missing argument 'CELL'; see `imgbuild pull --help`"),
        (
            ("matrix", "--changed-since"),
            "option '--changed-since' requires an argument; see `imgbuild matrix --help`",
        ),
        (("smoke", "--static=3"), "option '--static' does not take a value; see `imgbuild smoke"),
        (("--verbose=2",), "option '--verbose' does not take a value; see `imgbuild --help`"),
        (("bild",), "no command 'bild'; did you mean 'build'?"),
    ],
)
def test_a_mistyped_command_line_is_told_in_one_line(
    args: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *args) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"imgbuild: {told}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", ["render", "lock", "build", "smoke", "sif"])
def test_a_missing_file_is_one_line_and_nothing_is_written(
    verb: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, verb, "-f", "nope.yaml") == 2
    assert capsys.readouterr().err == "imgbuild: nope.yaml: no such file\n"
    assert list(tmp_path.iterdir()) == []


def test_render_check_passes_on_what_is_committed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(monkeypatch, "render", "--check") == 0


def test_render_check_shows_a_diff_and_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(monkeypatch, "render", "-o", str(tmp_path)) == 0
    (tmp_path / "cpu-vllm/Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/Dockerfile").write_text("FROM scratch\n")
    capsys.readouterr()
    assert run(monkeypatch, "render", "--check", "-o", str(tmp_path)) == 1
    shown = capsys.readouterr()
    assert "-FROM scratch" in shown.out
    assert "+++ /dev/null" in shown.out
    assert shown.err.endswith("run `imgbuild render`, and delete what no cell owns\n")


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (BuildError("broke", tail=["why"]), 1, "imgbuild: broke"),
        (DriftError("differs", diff="-a\n"), 1, "imgbuild: differs"),
        (KeyboardInterrupt(), 130, "imgbuild: interrupted"),
        (RuntimeError("oops"), 1, "imgbuild: a defect of imgbuild: RuntimeError('oops')"),
    ],
)
def test_every_error_is_told_in_one_line(
    error: BaseException,
    code: int,
    last: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(engines, "choose", fail)
    assert run(monkeypatch, "build") == code
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1].startswith(last)
    assert "Traceback" not in shown.err
    if isinstance(error, BuildError):
        assert "  | why\n" in shown.err


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ("latest", "latest names another image every week"),
        ("reg:5000/x/y:latest", "latest names another image every week"),
        ("reg:5000/x/y", "is no tag"),
        ("two words", "is no tag"),
        ("line\n", "is no tag"),
        ("a//b:c", "is no tag"),
        ("", "is no tag"),
    ],
)
def test_useless_tags_are_refused_before_anything_is_done(
    tag: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(monkeypatch, "build", "--engine", "buildah", "--tag", tag) == 2
    assert why in capsys.readouterr().err


def test_one_tag_is_not_given_to_several_cells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(monkeypatch, "build", "--matrix", "cuda12.4-vllm*", "--tag", "prod") == 2
    assert "--tag: 2 cells cannot bear one tag" in capsys.readouterr().err


def test_a_misspelt_file_gets_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(monkeypatch, "render", "-f", "matrix.yml") == 2
    wanted = "imgbuild: matrix.yml: no such file; did you mean 'matrix.yaml'?\n"
    assert capsys.readouterr().err == wanted


@pytest.mark.python
def test_a_reader_that_goes_away_is_no_success_and_no_traceback(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "builder.cli", "render", "--check", "-o", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_defect_is_told_also_without_a_home(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As an arbitrary uid has none, without a passwd entry."""

    def fail(*_: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(engines, "choose", fail)
    assert run(monkeypatch, "build") == 1
    (log,) = tmp_path.rglob("defect.log")
    assert "RuntimeError: oops" in log.read_text()
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"please report {log}")


@pytest.mark.python
def test_a_reader_that_leaves_the_help_is_no_defect() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "builder.cli", "build", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("seconds", ["0", "-5", "soon", "nan", "-nan", "inf", "-inf", "1e9"])
def test_a_useless_time_out_is_refused(
    seconds: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(monkeypatch, "smoke", "--timeout", seconds) == 2
    err = capsys.readouterr().err
    assert err.startswith("imgbuild: --timeout: ")
    assert err.count("\n") == 1


def test_one_image_is_not_smoked_as_all_cells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(monkeypatch, "smoke", "--image", "x.sif") == 2
    assert "say with --matrix which cell it is of" in capsys.readouterr().err


def test_a_full_disk_is_no_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/somewhere/file")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(engines, "choose", full)
    assert run(monkeypatch, "build") == 1
    assert capsys.readouterr().err == "imgbuild: /somewhere/file: No space left on device\n"


def test_tags_of_a_sif_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(monkeypatch, "build", "--engine", "apptainer", "--tag", "x") == 2
    assert "a SIF has no tags" in capsys.readouterr().err


def test_doctor_counts_and_does_not_show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://me:secret@own.invalid/simple")
    assert run(monkeypatch, "doctor", "--json") == 0
    shown = capsys.readouterr().out
    found = json.loads(shown)
    assert found["site"]["package index"] == "own"
    assert found["engines"]["buildah"] == "buildah and podman not installed"
    assert "own.invalid" not in shown
    assert "secret" not in shown


def test_verbose_shows_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: seen.append("on"))
    seen: list[str] = []
    assert run(monkeypatch, "--verbose", "lock", "--check") == 0
    assert seen == ["on"]


def test_a_build_cache_is_of_docker_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Apptainer, "problem", lambda _: None)
    spec = "type=registry,ref=x"
    assert run(monkeypatch, "build", "--engine", "apptainer", "--cache-from", spec) == 2
    told = "imgbuild: --cache-from and --cache-to are BuildKit's, not apptainer's\n"
    assert capsys.readouterr().err == told


def test_a_host_is_recorded_or_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "tune", "--record", str(tmp_path / "new"), "--root", str(tmp_path)) == 2
    assert "--record is of this host, --root of another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--compression-level", "x"), "'x' is no whole number from 1 to 22; see `imgbuild sif"),
        (("--compression-level", "40"), "'40' is no whole number from 1 to 22; see `imgbuild sif"),
        (("--block-size", "131072"), "'131072' is unknown; known: 128K, 256K, 512K, 1M\n"),
        (("--block-size", "1m"), "'1m' is unknown; did you mean '1M'?\n"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_those_that_can(
    options: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "sif", *options) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"imgbuild: {options[0]}: {told}")
    assert err.count("\n") == 1


def test_how_many_rows_are_shown_is_told_without_an_upper_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "inspect", ".", "--top", "0") == 2
    assert "--top: '0' is no whole number from 1 on; see" in capsys.readouterr().err

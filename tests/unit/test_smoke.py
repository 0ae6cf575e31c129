"""Smoke: a check that cannot run is no pass, and every failure is in the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import engines
from builder import matrix as matrices
from builder.engines import host
from builder.engines.apptainer import Apptainer
from builder.engines.base import Compression, Image
from builder.errors import BuildError
from builder.facts import Matrix
from builder.proc import Result
from builder.smoke import SmokeReport, Status, run, smoke, subject
from tests.unit.fakeengine import FakeContainer, FakeEngine
from tests.unit.fakeserver import serving
from tests.unit.support import ROOT
from tests.unit.test_cli import run as verb

CALLS = {
    "id": Result(code=0, stdout="1000\n", stderr=""),
    "python3": Result(code=0, stdout="0.32.0+cpu\n", stderr=""),
    "vllm": Result(code=0, stdout="usage: vllm serve\n", stderr=""),
}
WORDS = [{"prompt": "Hi", "completion": " a", "tokens": [32, 97]}]


@pytest.fixture(autouse=True)
def host_without_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And a tiny model that costs nothing: nobody loads it here."""
    (tmp_path / "golden.json").write_text(json.dumps({"prompts": WORDS}))
    monkeypatch.setattr(host, "has_gpu", lambda: False)
    monkeypatch.setattr(host, "has_tpu", lambda: False)
    monkeypatch.setattr(subject, "tiny_model", lambda: tmp_path / "model")
    monkeypatch.setattr(run, "golden", lambda: tmp_path / "golden.json")


def smoked(matrix: Matrix, engine: FakeEngine, cell: str = "cpu-vllm", **how: Any) -> SmokeReport:
    return smoke(matrices.cell(matrix, cell), engine, "image", lambda _: None, **how)


def statuses(report: SmokeReport) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def answers(text: str, tokens: list[int]) -> dict[str, Any]:
    return {
        "/health": (200, ""),
        "/v1/models": (200, {"data": [{"id": "m"}]}),
        "/v1/completions": (200, {"choices": [{"text": text, "token_ids": tokens}]}),
    }


@pytest.mark.python
@pytest.mark.loopback
@pytest.mark.parametrize(
    ("text", "tokens", "code", "last"),
    [
        (" a", [32, 97], 0, {"health": "passed", "tokens": "passed", "stop": "passed"}),
        (" b", [32, 98], 0, {"health": "passed", "tokens": "failed"}),
        (" a", [32, 97], 143, {"health": "passed", "tokens": "passed", "stop": "failed"}),
    ],
)
def test_a_served_image(
    matrix: Matrix, text: str, tokens: list[int], code: int, last: dict[str, str]
) -> None:
    with serving(answers(text, tokens)) as (port, _):
        container = FakeContainer(f"http://127.0.0.1:{port}", code=code)
        report = smoked(matrix, FakeEngine(calls=CALLS, container=container))
    found = statuses(report)
    assert found | last == found
    assert set(found) - {"user", "import", "help", "nvidia-smi"} == set(last)
    assert report.passed is ("failed" not in last.values())
    assert container.removed


@pytest.mark.loopback
def test_a_server_that_answers_garbage_is_not_healthy(matrix: Matrix) -> None:
    with serving({"/health": b"\x00\x01garbage\r\n\r\n"}) as (port, _):
        container = FakeContainer(f"http://127.0.0.1:{port}")
        report = smoked(matrix, FakeEngine(calls=CALLS, container=container), timeout=0.1)
    assert statuses(report)["health"] == "failed"
    assert container.removed


@pytest.mark.loopback
def test_a_server_that_ended_is_told_with_its_last_words(matrix: Matrix) -> None:
    container = FakeContainer("http://127.0.0.1:9", ended=3)
    report = smoked(matrix, FakeEngine(calls=CALLS, container=container))
    health = report.checks[-1]
    assert health.detail == "the server ended with exit code 3\nthe server's last words"
    assert not report.passed


def test_an_image_that_cannot_be_started_fails(matrix: Matrix) -> None:
    report = smoked(matrix, FakeEngine(calls=CALLS))
    assert statuses(report)["start"] == "failed"


def test_a_gpu_image_without_a_gpu_fails_unless_serving_is_left_out(matrix: Matrix) -> None:
    archs = " ".join(f"sm_{sm}" for sm in (75, 80, 86, 90, 100, 120))
    calls = {**CALLS, "python3": Result(code=0, stdout=archs, stderr="")}
    report = smoked(matrix, FakeEngine(calls=calls), "cuda13.0-vllm")
    assert statuses(report)["serve"] == "failed"
    assert statuses(report)["gpu-code"] == "passed"
    static = smoked(matrix, FakeEngine(calls=calls), "cuda13.0-vllm", static=True)
    assert "serve" not in statuses(static)
    assert statuses(static)["nvidia-smi"] == "skipped"
    skipped = next(check for check in static.checks if check.status is Status.SKIPPED)
    assert skipped.detail == "no GPU"


@pytest.mark.parametrize(
    ("total", "says"),
    [
        ({"kept": {"sm_90a cubin": 5_000_000, "sm_80 ptx": 1}}, None),
        ({"changed": 2, "kept": {"sm_90 cubin": 1}}, "2 files hold what SM 9.0 never loads"),
        ({"kept": {"sm_90 cubin": 1}, "dropped": {"tests": 9}}, "rules leave out: tests"),
        ({"kept": {"sm_80 cubin": 9, "sm_90 ptx": 9}}, "no machine code for SM 9.0"),
        ({}, "the slimmer prints something else"),
    ],
)
def test_a_thinned_image_has_code_for_its_gpu_alone(
    matrix: Matrix, total: dict[str, object], says: str | None
) -> None:
    whole = {"changed": 0, "dropped": {}, **total} if total else {}
    printed = Result(code=0, stdout=json.dumps({"total": whole}), stderr="")
    engine = FakeEngine(calls={**CALLS, "python3": printed})
    report = smoked(matrix, engine, "cuda13.0-vllm-h100", static=True)
    (check,) = (check for check in report.checks if check.name == "gpu-code")
    assert (check.status is Status.FAILED) is (says is not None)
    assert (says or "5 MB of machine code for SM 9.0") in check.detail


def test_what_the_survey_says_to_serve_on_a_cpu_is_started_on_one(matrix: Matrix) -> None:
    rows = [row for row in matrices.survey(matrix, None) if row.published]
    assert {row.serves_on_cpu for row in rows} == {True, False}
    for row in rows:
        found = statuses(smoked(matrix, FakeEngine(calls=CALLS), row.id))
        assert ("start" in found, "serve" in found) == (row.serves_on_cpu, not row.serves_on_cpu)


@pytest.mark.parametrize(
    ("program", "result", "check", "says"),
    [
        ("id", Result(code=0, stdout="0\n", stderr=""), "user", "runs as root"),
        ("id", Result(code=125, stdout="", stderr="no such image"), "user", "exits 125"),
        ("python3", Result(code=0, stdout="0.31.0", stderr=""), "import", "0.31.0, not 0.32.0"),
        ("vllm", Result(code=0, stdout="hello", stderr=""), "help", "shows no usage"),
    ],
)
def test_each_check_can_fail(
    matrix: Matrix, program: str, result: Result, check: str, says: str
) -> None:
    report = smoked(matrix, FakeEngine(calls={**CALLS, program: result}), static=True)
    failed = {c.name: c.detail for c in report.checks if c.status is Status.FAILED}
    assert list(failed) == [check]
    assert says in failed[check]


def test_a_report_of_skipped_checks_alone_is_no_pass(matrix: Matrix) -> None:
    report = smoked(matrix, FakeEngine(calls=CALLS), static=True)
    assert report.passed
    only = tuple(check for check in report.checks if check.status is Status.SKIPPED)
    assert only
    assert not dataclasses.replace(report, checks=only).passed


class Keeping(FakeEngine):
    """An engine that has some images, and complains of others as its program does."""

    def __init__(self, name: str, *images: str, complaint: Exception) -> None:
        super().__init__(calls=CALLS)
        self.name = name
        self._kept = images
        self._complaint = complaint

    def compressions(self) -> tuple[Compression, ...]:
        return tuple(Compression)

    def identity(self, image: Image, compression: Compression) -> str:
        raise AssertionError

    def names(self, image: Image) -> tuple[str, ...]:
        if image.reference not in self._kept:
            raise self._complaint
        return (image.reference,)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """The engines that are here: Docker and Buildah, which has one image."""
    here: list[FakeEngine] = [
        Keeping("docker", complaint=OSError("404 Client Error: Not Found")),
        Keeping("buildah", "mine:1", complaint=BuildError("`buildah` failed with exit code 125")),
    ]

    def usable(name: str, _: Path) -> Iterator[FakeEngine]:
        yield from (engine for engine in here if name in ("auto", engine.name))

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(engines, "usable", usable)
    return here


SMOKE = ("smoke", "--matrix", "cpu-vllm", "--static", "--image")
OWN = "`imgbuild build --matrix cpu-vllm` builds the cell's own"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("no:1",), f"docker and buildah have no no:1; {OWN}, `docker pull no:1` fetches this"),
        (
            ("no:1", "--engine", "buildah"),
            f"buildah has no no:1; {OWN}, `podman pull no:1` fetches this",
        ),
    ],
)
def test_an_image_that_no_engine_has_is_one_line(
    args: tuple[str, ...],
    told: str,
    two: list[FakeEngine],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert verb(monkeypatch, *SMOKE, *args) == 2
    assert capsys.readouterr().err == f"imgbuild: --image: {told}\n"


def test_an_image_is_smoked_with_the_engine_that_has_it(
    two: list[FakeEngine], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(monkeypatch, *SMOKE, "mine:1") == 0
    assert capsys.readouterr().out.startswith("cpu-vllm: mine:1 (buildah)\n")


def test_a_sif_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Apptainer, "problem", lambda _: None)
    assert verb(monkeypatch, *SMOKE, "gone.sif") == 2
    assert capsys.readouterr().err == (
        "imgbuild: --image: gone.sif: no such file; "
        "`imgbuild sif --matrix cpu-vllm` makes one of what docker or buildah built\n"
    )

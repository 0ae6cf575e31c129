"""All combinations: each is a cell or has a reason, and what the verbs say of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import UserError
from builder.matrix import cell, survey
from builder.matrix.survey import combinations
from builder.model import Matrix, version_key
from tests.unit.test_cli import run


def test_each_combination_is_a_cell_or_has_a_reason(matrix: Matrix) -> None:
    rows = survey(matrix, "*")
    assert len(rows) == len({row.id for row in rows}) == len(list(combinations(matrix)))
    for row in rows:
        assert (row.cell is None) == bool(row.why)
        if row.cell:
            assert row.cell.id == row.id


def test_admitted_cells_keep_the_facts(matrix: Matrix) -> None:
    """Recomputed from the tables alone, without the rules."""
    for row in survey(matrix, "*"):
        if not row.cell:
            continue
        stack, build, gpu = row.cell.stack, row.cell.build, row.cell.gpu
        assert build.accelerator == stack.accelerator
        if stack.driver:
            assert build.driver_floor
            assert version_key(stack.driver) >= version_key(build.driver_floor)
        if gpu:
            assert gpu.arch == "amd64"
            assert stack.driver
            assert version_key(stack.driver) >= version_key(gpu.driver or "0")
            major, minor = gpu.sm.split(".")
            same = [sm.split(".")[1] for sm in build.sms if sm.split(".")[0] == major]
            assert any(int(have) <= int(minor) for have in same)
        for os in (row.cell.os, row.cell.bootstrap_os):
            assert version_key(os.glibc) >= version_key(row.cell.release.glibc)


# cell -> the release that the rules choose, or words of their refusal
KNOWN = {
    "cuda13.0-vllm-v100": "0.19.1",  # the last release with code for SM 7.0
    "cuda12.1-vllm-t4": "0.19.1",
    "cuda12.8-vllm-b200": "0.19.1",
    "cuda13.0-vllm-b300": "0.32.0",
    "cuda12.6-vllm-b200": "NVIDIA B200 needs driver 570.26, the stack promises 560.28.03",
    "cuda12.8-vllm-b300": "NVIDIA B300 needs driver 575.51.03",
    "cuda13.0-vllm-gh200": "NVIDIA GH200 has an arm64 CPU",
    "cpu-vllm-ubuntu22.04": "it needs Python >=3.11,<3.15, Ubuntu 22.04 (jammy) has 3.10",
    "cuda13.0-vllm-debian13": "0.32.0",
}


@pytest.mark.parametrize(("text", "answer"), KNOWN.items())
def test_what_the_rules_say(matrix: Matrix, text: str, answer: str) -> None:
    (row,) = survey(matrix, text)
    assert (row.cell.release.version == answer) if row.cell else (answer in row.why)


def test_published_cells_are_there(matrix: Matrix) -> None:
    assert {row.id for row in survey(matrix, None) if row.published} == set(matrix.cells)


@given(floor=st.sampled_from(["525.60.13", "535.104.05", "580.65.06", "999.0"]))
def test_a_constraint_never_adds_cells(matrix: Matrix, floor: str) -> None:
    """Raising the driver that wheels need takes cells away, and makes none."""
    before = {row.id for row in survey(matrix, "*") if row.cell}
    framework = matrix.frameworks["vllm"]
    releases = tuple(
        release.model_copy(
            update={
                "builds": tuple(
                    build.model_copy(
                        update={"driver_floor": max(build.driver_floor, floor, key=version_key)}
                    )
                    if build.driver_floor
                    else build
                    for build in release.builds
                )
            }
        )
        for release in framework.releases
    )
    stricter = matrix.model_copy(
        update={"frameworks": {"vllm": framework.model_copy(update={"releases": releases})}}
    )
    assert {row.id for row in survey(stricter, "*") if row.cell} <= before


def test_the_impossible_names_the_nearest(matrix: Matrix) -> None:
    with pytest.raises(UserError) as caught:
        cell(matrix, "cpu-vllm-h100")
    near = caught.value.hint.rpartition("the nearest that fits is ")[2].strip("'")
    assert near.startswith("cuda")
    assert cell(matrix, near).gpu is matrix.gpus["h100"]


@pytest.mark.parametrize(
    ("selector", "says"),
    [
        ("nothing-*", "no combination matches 'nothing-*'; ids begin with cpu-vllm, "),
        (" , ", "' , ' selects nothing; give ids or globs"),
        ("cpu-vlm", "unknown cell 'cpu-vlm': no framework 'vlm'; did you mean 'cpu-vllm'?"),
    ],
)
def test_nothing_selected(matrix: Matrix, selector: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        survey(matrix, selector)
    assert str(caught.value).startswith(says)


def test_matrix_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], matrix: Matrix
) -> None:
    assert run(monkeypatch, "matrix") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["CELL", "VERSION", "WHEELS", "DRIVER"]
    assert sum(line.startswith("* ") for line in lines) == len(matrix.cells)
    assert any(line.startswith("x cpu-vllm-h100 ") for line in lines)


def test_matrix_for_a_workflow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], matrix: Matrix
) -> None:
    assert run(monkeypatch, "matrix", "--format", "github") == 0
    include = json.loads(capsys.readouterr().out)["include"]
    assert {job["cell"] for job in include} == set(matrix.cells)
    assert all(isinstance(value, str) for job in include for value in job.values())


def test_matrix_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "matrix", "--matrix", "cpu-*", "--format", "json") == 0
    records = json.loads(capsys.readouterr().out)
    assert all(record["possible"] == (record["why"] is None) for record in records)


def test_explain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "explain", "cuda12.2-vllm") == 0
    text = capsys.readouterr().out
    assert ">=525.60.13; hosts of this stack have 535.104.05 or newer" in text
    assert "not       0.32.0 cu130: its cu130 wheels need driver 580.65.06" in text
    assert run(monkeypatch, "explain", "cuda13.0-vllm-h100", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["gpu"]["sm"] == "9.0"
    assert "h100" in told["gpus"]


def test_explain_what_cannot_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "explain", "cpu-vllm-h100") == 2
    assert "the nearest that fits is" in capsys.readouterr().err


@pytest.mark.parametrize("base", ["registry", "bootstrap"])
def test_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], base: str
) -> None:
    assert run(monkeypatch, "plan", "cuda12.2-vllm", "--base", base, "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["base"]["kind"] == base
    assert planned["pins"]["vllm"] == "0.19.1"
    assert planned["layers"][0]["name"] == "os"
    assert run(monkeypatch, "plan", "cuda12.2-vllm") == 0
    assert "entrypoint  tini" in capsys.readouterr().out

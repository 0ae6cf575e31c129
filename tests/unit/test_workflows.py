"""The workflows: what they may do, and that nothing in them moves by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.cli.matrix import _job
from builder.facts import Matrix
from builder.matrix import survey
from tests.unit.support import ROOT

FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
# GitHub's own machines; an arm64 cell is built on an arm64 one.
HOSTED = {
    "ubuntu-24.04",
    "${{ matrix.arch == 'arm64' && 'ubuntu-24.04-arm' || 'ubuntu-24.04' }}",
}
pytestmark = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def parsed(file: Path) -> dict[Any, Any]:
    found = yaml.safe_load(file.read_text())
    assert isinstance(found, dict)
    return found


def jobs(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from parsed(file)["jobs"].items()


def test_every_action_is_a_commit_with_its_version(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if re.search(r"\buses:", line)]
    assert lines
    for line in lines:
        assert re.fullmatch(r"\s+- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    used = [step["uses"] for _, job in jobs(file) for step in job["steps"] if "uses" in step]
    assert len(used) >= len(lines)
    for name in used:
        assert re.fullmatch(r"\S+@[0-9a-f]{40}", name), name


def test_one_action_has_one_version_everywhere(file: Path) -> None:
    text = "".join(other.read_text() for other in FILES)
    found = set(re.findall(r"uses: (\S+)@(\S+ # \S+)", text))
    assert len(found) == len({name for name, _ in found})


def test_permissions_are_said_and_small(file: Path) -> None:
    workflow = parsed(file)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for name, job in jobs(file):
        for permission, level in job.get("permissions", {}).items():
            writes = (name, permission) == ("publish", "packages")
            assert level == ("write" if writes else "read"), (name, permission)


def test_every_job_ends_and_every_run_has_its_group(file: Path) -> None:
    assert parsed(file)["concurrency"]["group"]
    for name, job in jobs(file):
        assert 0 < job["timeout-minutes"] <= 180, name


def test_only_main_reaches_a_runner_of_ones_own(file: Path) -> None:
    """A pull request is anybody's code."""
    for name, job in jobs(file):
        if str(job["runs-on"]) not in HOSTED:
            assert job["runs-on"] == ["self-hosted", "gpu"], name
            assert "vars.GPU_RUNNERS == 'true'" in job["if"]
            assert "github.ref == 'refs/heads/main'" in job["if"]


def test_no_checkout_leaves_its_token(file: Path) -> None:
    for _, job in jobs(file):
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_no_expression_stands_in_a_script(file: Path) -> None:
    """A branch's name may be shell code."""
    for _, job in jobs(file):
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")


def test_what_scripts_are_called_is_there(file: Path) -> None:
    for _, job in jobs(file):
        for step in job["steps"]:
            for script in re.findall(r"\.ci/[\w-]+", step.get("run", "")):
                assert (ROOT / script).stat().st_mode & 0o111, script


def test_what_is_compared_with_is_there(file: Path) -> None:
    """Nothing was before a branch's first push, and a force push loses what was."""
    for _, job in jobs(file):
        for step in job["steps"]:
            script = step.get("run", "")
            if "--changed-since" in script:
                asked = r'if git cat-file -e "\$(\w+)\^\{commit\}" 2>/dev/null; then\n +'
                found = re.search(asked + r'options\+=\(--changed-since "\$(\w+)"\)\n', script)
                assert found
                assert found[1] == found[2]
                assert script.count("--changed-since") == 1
                (checkout,) = (s for s in job["steps"] if "actions/checkout@" in s.get("uses", ""))
                assert checkout["with"]["fetch-depth"] == 0


def test_a_row_of_the_matrix_has_what_is_asked_of_it(file: Path, matrix: Matrix) -> None:
    (row, *_) = survey(matrix, "cpu-vllm")
    assert row.cell
    told = set(_job(row, row.cell))
    for name, job in jobs(file):
        if isinstance(job.get("strategy", {}).get("matrix"), str):  # of `imgbuild matrix`
            assert set(re.findall(r"\bmatrix\.(\w+)", str(job))) <= told, name


def test_what_serves_on_a_cpu_is_served_on_github_too(file: Path) -> None:
    """What a workflow gives `.ci/cell` is what that takes, in that order."""
    taken = re.search(r"^#   \.ci/cell (.+)$", (ROOT / ".ci/cell").read_text(), re.MULTILINE)
    assert taken
    for _, job in jobs(file):
        for step in job["steps"]:
            if step.get("run", "").startswith(".ci/cell "):
                given = re.findall(r'"\$(\w+)"', step["run"])
                assert given[:-1] == taken[1].split()[:-1]
                assert step["env"]["SERVES_ON_CPU"] == "${{ matrix.serves_on_cpu }}"


def test_a_matrix_of_cells_is_skipped_where_it_is_empty(file: Path, matrix: Matrix) -> None:
    for name, job in jobs(file):
        rows = job.get("strategy", {}).get("matrix")
        if isinstance(rows, str):
            output = re.fullmatch(r"\$\{\{ fromJSON\((needs\.plan\.outputs\.\w+)\) \}\}", rows)
            assert output, name
            assert f"""{output[1]} != '{{"include":[]}}'""" in job["if"], name
            assert job["name"].startswith("${{ matrix.cell }}"), name
    assert len(matrix.cells) <= 256  # GitHub starts no more jobs of a matrix

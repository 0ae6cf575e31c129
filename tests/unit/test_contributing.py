"""What CONTRIBUTING.md says of adding a row is true: its diffs, put into matrix.yaml, work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from builder.facts import Family, Matrix
from builder.matrix import cell, load, survey
from builder.model import BaseKind, Lock, LockLayer
from builder.plan import plan, wheelhouse
from builder.project import Project
from builder.render import Renderer
from tests.unit.support import ROOT, edited

DIFF = re.compile(r"```diff\n (\w+):\n((?:\+.*\n)+)```")
DIFFS = {match[1]: match[2] for match in DIFF.finditer((ROOT / "CONTRIBUTING.md").read_text())}


def added(tmp_path: Path, table: str) -> tuple[Path, str]:
    """matrix.yaml with the rows that CONTRIBUTING.md adds to a table, and their name."""
    rows = re.sub(r"^\+", "", DIFFS[table], flags=re.MULTILINE)
    name = rows.strip().partition(":")[0]
    return edited(tmp_path, (f"\n{table}:\n", f"\n{table}:\n{rows}")), name


@pytest.mark.parametrize("table", ["gpus", "stacks"])
def test_a_row_in_matrix_yaml_is_enough(tmp_path: Path, table: str) -> None:
    file, name = added(tmp_path, table)
    text = f"{name}-vllm" if table == "stacks" else f"cuda13.0-vllm-{name}"
    (row,) = survey(load(file), text)
    assert row.cell
    assert row.cell.release.version == "0.32.0"


def files_of(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_a_framework_is_a_row_and_a_fragment(tmp_path: Path) -> None:
    rows = re.sub(r"^\+", "", DIFFS["frameworks"], flags=re.MULTILINE)
    name = rows.strip().partition(":")[0]
    file = edited(tmp_path, ("\nframeworks:\n", f"\nframeworks:\n{rows}"))
    fragment = tmp_path / f"templates/frameworks/{name}.j2"
    fragment.parent.mkdir(parents=True)
    fragment.write_text("true\n")
    assert files_of(tmp_path) == {"matrix.yaml", f"templates/frameworks/{name}.j2"}
    texts = rendered(file, f"cuda13.0-{name}")
    for text in texts.values():
        assert re.search(r"^    true(?: && \\)?$", text, re.MULTILINE)


def test_every_family_of_systems_has_its_fragment() -> None:
    for family in get_args(Family):
        assert (ROOT / f"templates/os/{family}.j2").is_file()


def rendered(file: Path, cell_id: str) -> dict[str, str]:
    """Both files of a cell, with a lock that has one wheel."""
    matrix = load(file)
    found = cell(matrix, cell_id)
    closure = found.closure(BaseKind.REGISTRY)
    assert closure
    layer = LockLayer(name="framework", path=f"{closure.id}/framework.txt", text="", pins=())
    wheels = wheelhouse(matrix, closure, Lock(closure_id=closure.id, layers=(layer,)))
    recipe = plan(found, wheels, uv_lock="tools.txt", manifest="x.json", kind=BaseKind.REGISTRY)
    renderer = Renderer(Project.find(file).template_dirs)
    return renderer.render(recipe).files


def test_a_made_up_os_is_a_row_too(tmp_path: Path) -> None:
    row = """
  debian99:
    title: Debian 99
    family: debian
    python: "3.13"
    packages: [ca-certificates, python3, python3-dev]
    compiler: {packages: [g++, gcc]}
    init: tini
    glibc: "2.41"
    image: docker.io/library/debian:99-slim
    end_of_life: 2040-06-30
    archive:
      mirror: http://deb.debian.org/debian
      security: http://deb.debian.org/debian-security
      suite: made-up
    source: a test
"""
    file = edited(tmp_path, ("\nos:\n", f"\nos:{row}"))
    (found,) = survey(load(file), "cuda13.0-vllm-debian99")
    assert found.cell


def test_readme_and_changelog_count_the_cells(matrix: Matrix) -> None:
    count = len(matrix.cells)
    readme = (ROOT / "README.md").read_text()
    assert f"{count} cells are published" in readme
    assert f"{count} published cells" in (ROOT / "CHANGELOG.md").read_text()

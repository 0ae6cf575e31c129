"""Which project one is in, and projects of which parts lie elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import lock
from builder.project import Project, shipped


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: two folders below one with a matrix.yaml."""
    (tmp_path / "matrix.yaml").touch()
    below = tmp_path / "deploy/site"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    return below


def test_below_the_top_of_a_repository_its_project_is_meant(folder: Path) -> None:
    (folder.parents[1] / ".git").mkdir()
    assert Project.find() == Project(Path("../../matrix.yaml"), Path("../.."))
    (folder / "matrix.yaml").touch()
    assert Project.find() == Project(Path("matrix.yaml"), Path())


def test_what_lies_above_a_repository_is_not_of_it(folder: Path) -> None:
    ours = Project(shipped() / "matrix.yaml", Path())
    assert Project.find() == ours  # no repository at all
    (folder.parent / ".git").touch()  # of a worktree it is a file
    assert Project.find() == ours


def test_a_closure_that_is_a_link_is_replaced_and_what_it_names_stays(tmp_path: Path) -> None:
    locks, elsewhere = tmp_path / "locks", tmp_path / "elsewhere"
    lock.write(tmp_path, "elsewhere", {"torch.txt": "old"})
    locks.mkdir()
    (locks / "vllm").symlink_to("../elsewhere")
    (elsewhere / "notes").mkdir()  # a folder is no lock
    assert not lock.write(locks, "vllm", {"torch.txt": "old"})
    assert lock.write(locks, "vllm", {"torch.txt": "new"})
    assert [file.name for file in locks.iterdir()] == ["vllm"]
    assert (locks / "vllm/torch.txt").read_text() == "new"
    assert (elsewhere / "torch.txt").read_text() == "old"

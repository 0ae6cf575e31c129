"""What several unit tests share."""

from __future__ import annotations

from pathlib import Path

from builder import matrix as matrices
from builder.facts import Matrix
from builder.model import BaseKind, Cell, Recipe
from builder.prepare import Workbench
from builder.project import Project

ROOT = Path(__file__).resolve().parents[2]


class Forbidden(BaseException):
    """No Exception: code under test that forgives errors must not forgive this one."""


def edited(tmp_path: Path, *edits: tuple[str, str]) -> Path:
    """A copy of the committed matrix.yaml with each edit made once, where it first stands."""
    text = (ROOT / "matrix.yaml").read_text()
    for old, new in edits:
        assert old in text, f"{old!r} is not in matrix.yaml"
        text = text.replace(old, new, 1)
    file = tmp_path / "matrix.yaml"
    file.write_text(text)
    return file


def line_of(file: Path, part: str) -> int:
    """The line (1-based) of the first line that holds `part`."""
    return next(n for n, line in enumerate(file.read_text().splitlines(), 1) if part in line)


def recipe_of(
    project: Project, matrix: Matrix, cell: Cell | str, kind: BaseKind = BaseKind.REGISTRY
) -> Recipe:
    """The recipe of a cell, with its committed lock."""
    cell = matrices.cell(matrix, cell) if isinstance(cell, str) else cell
    return Workbench(project, matrix).recipe(cell, kind)


def recipes_of(project: Project, matrix: Matrix) -> list[Recipe]:
    """The recipes of all published cells."""
    bench = Workbench(project, matrix)
    return [bench.recipe(cell, BaseKind.REGISTRY) for cell in matrices.select(matrix, None)]

"""A project of as many cells as are asked for: all that the locks allow, on copies of stacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from builder import matrix
from builder.matrix.survey import Row, survey
from builder.model import BaseKind
from builder.project import Project


def write(source: Project, count: int, target: Path) -> Project:
    """A project in the empty folder `target` whose matrix publishes `count` cells.

    Stacks are copied under made-up names until there are enough, and of all cells then possible it
    takes `count` at even distances, so that a few are as mixed as many.
    """
    loaded = matrix.load(source.matrix_file)
    rows = list(_lockable(survey(loaded, "*"), source))
    copies = -(-count // len(rows))
    raw: dict[str, Any] = yaml.safe_load(source.matrix_file.read_text(encoding="utf-8"))
    raw["stacks"] = {
        _copied(name, copy): stack
        for name, stack in raw["stacks"].items()
        for copy in range(copies)
    }
    ids = [
        row.id.replace(row.parts.stack, _copied(row.parts.stack, copy), 1)
        for row in rows
        for copy in range(copies)
    ]
    raw["cells"] = [ids[index * len(ids) // count] for index in range(count)]
    file = target / "matrix.yaml"
    file.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return Project.find(file)


def _copied(stack: str, copy: int) -> str:
    return f"{stack}.{copy}" if copy else stack


def _lockable(rows: tuple[Row, ...], project: Project) -> Iterator[Row]:
    """Those that are cells and have a committed lock, or need none."""
    for row in rows:
        if row.cell:
            closure = row.cell.closure(BaseKind.REGISTRY)
            if closure is None or (project.locks / closure.id).is_dir():
                yield row

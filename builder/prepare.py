"""Cell -> all that is known before an engine works: its recipe, its files, its names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from builder import lock
from builder.engines.base import Naming
from builder.model import BaseKind, Cell, Matrix, Recipe
from builder.plan import plan
from builder.project import Project
from builder.render import DOCKERFILE, RenderedImage, Renderer


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A cell on one kind of base, ready to be written or built."""

    recipe: Recipe
    rendered: RenderedImage
    naming: Naming


class Workbench:
    """Prepares the cells of one project."""

    def __init__(self, project: Project, matrix: Matrix) -> None:
        self.project = project
        self._matrix = matrix
        self._renderer = Renderer(project.template_dirs)

    def prepare(
        self, cell: Cell, kind: BaseKind, *, file: str = DOCKERFILE, tags: tuple[str, ...] = ()
    ) -> Prepared:
        """Read the lock, plan, render; raises UserError when the lock is missing or stale.

        `file` is the rendered file that an engine builds from.
        """
        pinned = lock.read(self.project, self._matrix, cell.closure(kind))
        recipe = plan(self._matrix, cell, pinned, uv_lock=lock.TOOLS, kind=kind)
        rendered = self._renderer.render(recipe)
        naming = Naming(
            repository=recipe.repository,
            cell_id=cell.id,
            version_tag=cell.tag,
            content=self._content(recipe, rendered.files[file]),
            extra=tags,
        )
        return Prepared(recipe=recipe, rendered=rendered, naming=naming)

    def namings(self, cell: Cell, *files: str) -> tuple[Naming, ...]:
        """The names that a cell's image may bear, by kind of base and by the file it came from."""
        return tuple(
            self.prepare(cell, kind, file=file).naming for file in files for kind in BaseKind
        )

    def runtime_files(self) -> list[Path]:
        """What is copied into every image."""
        return sorted(self.project.runtime.glob("*.py"))

    def _content(self, recipe: Recipe, rendered: str) -> str:
        """12 hex digits over everything that decides an image, so that a tag can tell."""
        parts = [recipe.kind, rendered]
        parts += [layer.digest for layer in recipe.lock.layers]
        parts.append(lock.tools_path(self.project).read_text(encoding="utf-8"))
        for file in self.runtime_files():
            parts += [file.name, file.read_text(encoding="utf-8")]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part.encode() + b"\0")
        return digest.hexdigest()[:12]

"""Cell -> all that is known before an engine works: its recipe, its files, its names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from builder import bases, lock, manifest
from builder.facts import Matrix
from builder.model import BaseKind, Cell, Closure, Lock, Recipe, Runtime
from builder.naming import Naming
from builder.plan import EMPTY, Wheelhouse, plan, wheelhouse
from builder.project import Project
from builder.render import DOCKERFILE, RenderedImage, Renderer

MANIFESTS = "manifests"  # below images/


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A cell on one kind of base, ready to be written or built."""

    recipe: Recipe
    rendered: RenderedImage
    naming: Naming
    manifest: str  # what the image carries of matrix.yaml


class Workbench:
    """Prepares the cells of one project."""

    def __init__(self, project: Project, matrix: Matrix) -> None:
        self.project = project
        self._matrix = matrix
        self._renderer = Renderer(project.template_dirs)
        self._locks: dict[str, Lock] = {}  # by closure
        # By closure and slimmer; cells share them.
        self._wheelhouses: dict[tuple[str, str | None], Wheelhouse] = {}

    @cached_property
    def base_pins(self) -> dict[str, str]:
        """Base image by tag -> its digest; raises UserError where they cannot be believed."""
        return bases.read(self.project)

    def prepare(
        self, cell: Cell, kind: BaseKind, *, file: str = DOCKERFILE, tags: tuple[str, ...] = ()
    ) -> Prepared:
        """Read the lock, plan, render; raises UserError when the lock is missing or stale.

        `file` is the rendered file that an engine builds from.
        """
        recipe = self.recipe(cell, kind)
        rendered = self._renderer.render(recipe)
        carried = manifest.text(self._matrix, cell)
        naming = Naming(
            repository=recipe.repository,
            cell_id=cell.tag_id,
            version_tag=cell.tag,
            content=self._content(recipe, rendered.files[file], carried),
            extra=tags,
        )
        return Prepared(recipe=recipe, rendered=rendered, naming=naming, manifest=carried)

    def render(self, cell: Cell, kind: BaseKind) -> RenderedImage:
        """Only the files of `prepare`: they need no digest."""
        return self._renderer.render(self.recipe(cell, kind))

    def manifests(self, cells: Iterable[Cell]) -> RenderedImage:
        """The folder beside the cells' own, of what their images carry of matrix.yaml."""
        named = {manifest.name(cell): cell for cell in cells}
        files = {name: manifest.text(self._matrix, cell) for name, cell in named.items()}
        return RenderedImage(MANIFESTS, files)

    def namings(self, cell: Cell, *files: str) -> tuple[Naming, ...]:
        """The names that a cell's image may bear, by kind of base and by the file it came from."""
        return tuple(
            self.prepare(cell, kind, file=file).naming for file in files for kind in cell.kinds
        )

    def own_files(self, recipe: Recipe) -> list[Path]:
        """What of builder/ is copied into an image."""
        sources = [
            step.source
            for layer in recipe.layers
            for step in layer.steps
            if isinstance(step, Runtime)
        ]
        folders = [self.project.runtime.with_name(source) for source in sources]
        kinds = ("*.py", "*.json")
        files = (file for folder in folders for kind in kinds for file in folder.rglob(kind))
        return sorted(files)

    def recipe(self, cell: Cell, kind: BaseKind) -> Recipe:
        """Of a cell on a base of that kind, with its lock."""
        wheels = self._wheelhouse(cell, kind)
        digest = self.base_pins.get(cell.registry_base)
        return plan(
            cell,
            wheels,
            uv_lock=lock.TOOLS,
            manifest=manifest.name(cell),
            kind=kind,
            base_digest=digest,
            excused=self._matrix.excused(cell.slim_sm) if cell.slim_sm else (),
        )

    def _wheelhouse(self, cell: Cell, kind: BaseKind) -> Wheelhouse:
        """Laid out once, whole and for cells of one GPU: many cells may share a closure."""
        closure = cell.closure(kind)
        if closure is None:
            return EMPTY
        slimmer = self._slimmer if cell.slim_sm else None
        if (closure.id, slimmer) not in self._wheelhouses:
            pinned = self._lock(closure, cell.id)
            made = wheelhouse(self._matrix, closure, pinned, slimmer)
            self._wheelhouses[closure.id, slimmer] = made
        return self._wheelhouses[closure.id, slimmer]

    def _lock(self, closure: Closure, cell_id: str) -> Lock:
        """Read once: it has some 300 KB."""
        if closure.id not in self._locks:
            self._locks[closure.id] = lock.read(self.project, self._matrix, closure, cell_id)
        return self._locks[closure.id]

    @cached_property
    def _slimmer(self) -> str:
        """12 hex digits over the slimmer."""
        digest = hashlib.sha256()
        folder = self.project.runtime / "slim"
        for file in sorted((*folder.glob("*.py"), *folder.glob("*.json"))):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
        return digest.hexdigest()[:12]

    def _content(self, recipe: Recipe, rendered: str, carried: str) -> str:
        """12 hex digits over everything that decides an image, so that a tag can tell."""
        parts = [recipe.kind, rendered, carried]
        parts += [layer.digest for layer in recipe.lock.layers]
        if recipe.lock.layers:
            parts.append(lock.tools_text(self.project))
        for file in self.own_files(recipe):
            name = file.relative_to(self.project.runtime.parent).as_posix()
            parts += [name, file.read_text(encoding="utf-8")]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part.encode() + b"\0")
        return digest.hexdigest()[:12]

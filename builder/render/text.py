"""Recipe -> Dockerfile and Apptainer definition.

Most of either file is what its layers do, which is the same for many cells: `Contents` is all that
the templates of layers know, so their text is made once for each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from builder.facts import OperatingSystem
from builder.model import Layer, Lock, Recipe
from builder.render.templates import Templates

DOCKERFILE = "Dockerfile"
DEFINITION = "apptainer.def"
# Rendered file -> its template, and that of the layers within it.
_TEMPLATES = {
    DOCKERFILE: ("Dockerfile.j2", "Dockerfile.layers.j2"),
    DEFINITION: ("apptainer.def.j2", "apptainer.layers.j2"),
}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class RenderedImage:
    """The files of one cell, name -> text, to stand in images/<cell>/."""

    cell_id: str
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What of a recipe decides the layers of an image, whatever cell it is of."""

    version: str  # of the framework
    layers: tuple[Layer, ...]
    venv: str | None
    uv_lock: str
    # Equal layers mostly have equal ones of these: they are compared, but need not be hashed.
    lock: Lock = field(hash=False)
    os: OperatingSystem = field(hash=False)

    @classmethod
    def of(cls, recipe: Recipe) -> Contents:
        return cls(
            version=recipe.cell.release.version,
            layers=recipe.layers,
            venv=recipe.venv,
            uv_lock=recipe.uv_lock,
            lock=recipe.lock,
            os=recipe.os,
        )


class Renderer:
    """Makes the text of recipes, and keeps that of layers."""

    def __init__(self, template_dirs: Iterable[Path]) -> None:
        self._templates = Templates(template_dirs)
        self._layers: dict[Contents, dict[str, str]] = {}

    def render(self, recipe: Recipe) -> RenderedImage:
        """Both files of a recipe; raises UserError for a broken template, with its line."""
        layers = self._layers_of(Contents.of(recipe))
        context = {
            "recipe": recipe,
            "labels": dict(recipe.labels),
            "environment": _environment(recipe),
            "smoke": recipe.cell.framework.smoke[recipe.cell.stack.accelerator],
        }
        files = {
            name: self._templates.render(template, {**context, "layers": layers[name]})
            for name, (template, _) in _TEMPLATES.items()
        }
        return RenderedImage(recipe.cell.id, files)

    def _layers_of(self, contents: Contents) -> dict[str, str]:
        """The layers as each file has them."""
        if contents not in self._layers:
            context = {"contents": contents}
            self._layers[contents] = {
                name: self._templates.render(template, context).rstrip("\n")
                for name, (_, template) in _TEMPLATES.items()
            }
        return self._layers[contents]


def _environment(recipe: Recipe) -> dict[str, str]:
    """What the image sets; one that wraps another keeps that one's PATH."""
    env = {"HOME": recipe.user.home}
    if recipe.venv:
        cuda = "/usr/local/cuda/bin:" if recipe.cell.stack.accelerator == "cuda" else ""
        env["PATH"] = f"{recipe.venv}/bin:{cuda}{_PATH}"
        env["VIRTUAL_ENV"] = recipe.venv
    return {**env, **dict(recipe.env)}

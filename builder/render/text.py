"""Recipe -> Dockerfile and Apptainer definition, by Jinja2 with StrictUndefined."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2

from builder.errors import Place, UserError
from builder.model import Layer, Recipe, Wheels

DOCKERFILE = "Dockerfile"
DEFINITION = "apptainer.def"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class RenderedImage:
    """The files of one cell, name -> text, to stand in images/<cell>/."""

    cell_id: str
    files: dict[str, str]


class Renderer:
    """Templates, found first in a project and then among the shipped ones."""

    def __init__(self, template_dirs: Iterable[Path]) -> None:
        self._jinja = jinja2.Environment(
            loader=jinja2.FileSystemLoader([str(folder) for folder in template_dirs]),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            autoescape=False,  # noqa: S701 - the output is shell, quoted by the filters below
        )
        self._jinja.filters |= {"quoted": _quoted, "quoted_shell": shlex.quote}
        self._jinja.globals |= {"run": _run, "post": _post, "wheels_of": _wheels_of}

    def render(self, recipe: Recipe) -> RenderedImage:
        """Both files of a recipe; raises UserError for a broken template, with its line."""
        context = {
            "recipe": recipe,
            "labels": dict(recipe.labels),
            "environment": _environment(recipe),
            "smoke": recipe.cell.framework.smoke[recipe.cell.stack.accelerator],
        }
        files = {name: self._template(f"{name}.j2", context) for name in (DOCKERFILE, DEFINITION)}
        return RenderedImage(recipe.cell.id, files)

    def _template(self, name: str, context: dict[str, object]) -> str:
        try:
            return self._jinja.get_template(name).render(context)
        except jinja2.TemplateNotFound as error:
            raise UserError(f"no template {error.name!r}", hint="see templates/") from None
        except jinja2.TemplateSyntaxError as error:
            place = Place(Path(error.filename or name), error.lineno)
            raise UserError(f"bad template: {error.message}", place=place) from None
        except jinja2.UndefinedError as error:
            place = _template_place(error, name)
            raise UserError(f"bad template: {error.message}", place=place) from None


def _environment(recipe: Recipe) -> dict[str, str]:
    """What the image sets; one that wraps another keeps that one's PATH."""
    env = {"HOME": recipe.user.home}
    if recipe.venv:
        cuda = "/usr/local/cuda/bin:" if recipe.cell.stack.accelerator == "cuda" else ""
        env["PATH"] = f"{recipe.venv}/bin:{cuda}{_PATH}"
        env["VIRTUAL_ENV"] = recipe.venv
    return {**env, **dict(recipe.env)}


def _template_place(error: jinja2.UndefinedError, name: str) -> Place:
    """The template line that failed: the innermost frame that is a template."""
    frame = error.__traceback__
    place = Place(Path(name))
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if file.endswith(".j2"):
            place = Place(Path(file), frame.tb_lineno)
        frame = frame.tb_next
    return place


def _commands(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            if line.strip():
                yield line.strip()


def _run(*texts: str) -> str:
    """Commands, one a line, as the body of one RUN; comments stay where they stand."""
    lines = list(_commands(texts))
    last = max(index for index, line in enumerate(lines) if not line.startswith("#"))
    joined = [
        line if line.startswith("#") or index == last else f"{line} && \\"
        for index, line in enumerate(lines)
    ]
    return "\n    ".join(joined)


def _post(*texts: str) -> str:
    """Commands, one a line, as lines of %post."""
    return "\n    ".join(_commands(texts))


def _quoted(value: str) -> str:
    """A value in quotes that Docker and a shell read alike, and neither expands.

    Within double quotes they disagree: Docker keeps the backslash of an escaped backtick.
    """
    return shlex.quote(value) if any(sign in value for sign in '\\"$`') else f'"{value}"'


def _wheels_of(layer: Layer) -> Wheels:
    return next(step for step in layer.steps if isinstance(step, Wheels))

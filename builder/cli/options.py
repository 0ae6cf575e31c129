"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from builder import matrix
from builder.errors import UserError
from builder.facts import Matrix
from builder.model import Cell
from builder.project import SIF_FOLDER, Project

_Command = TypeVar("_Command", bound=Callable[..., Any])

file = click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path),
    help="Matrix file. Default: the nearest matrix.yaml upwards in this Git repository, else the "
    "one that came with imgbuild.",
)
select = click.option(
    "--matrix", "selector", metavar="SEL", help="Cells: ids or globs, separated by commas."
)
sif_folder = click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=SIF_FOLDER,
    show_default=True,
    help="Folder of SIF files; other engines keep images in their own store.",
)
registry = click.option(
    "--registry",
    required=True,
    metavar="PREFIX",
    help="HOST[:PORT][/PATH] that repositories are below; http://... for one without TLS.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


class Whole(click.IntRange):
    """A whole number from `least` to `most`; what is none is told with both."""

    def __init__(self, least: int, most: int | None = None) -> None:
        super().__init__(least, most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number: int = super().convert(value, param, ctx)
        except click.BadParameter:
            end = "on" if self.max is None else f"to {self.max}"
            self.fail(f"{value!r} is no whole number from {self.min} {end}", param, ctx)
        return number


def engine(*names: str) -> Callable[[_Command], _Command]:
    """--engine, restricted to `names`."""
    return click.option(
        "--engine",
        type=click.Choice(names),
        default="auto",
        show_default=True,
        help="Engine to use.",
    )


def say(text: str) -> None:
    """One line for people, on stderr."""
    click.echo(text, err=True)


def one_answer(shown: str | None, *, as_json: bool) -> None:
    """Raise UserError where both --json and --format were given."""
    if as_json and shown is not None:
        raise UserError(f"--json and --format {shown} are two answers", hint="choose one")


def load(file: Path | None, selector: str | None) -> tuple[Project, Matrix, tuple[Cell, ...]]:
    """The project, its matrix and the chosen cells."""
    project, loaded = open_matrix(file)
    return project, loaded, matrix.select(loaded, selector)


def open_matrix(file: Path | None) -> tuple[Project, Matrix]:
    """The project and its matrix."""
    project = Project.find(file)
    return project, matrix.load(project.matrix_file)

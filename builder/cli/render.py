"""`imgbuild render`."""

from __future__ import annotations

from pathlib import Path

import click

from builder import bases, render
from builder.cli import options
from builder.errors import DriftError
from builder.model import BaseKind
from builder.prepare import Workbench


@click.command("render")
@options.file
@options.select
@click.option("--check", is_flag=True, help="Write nothing; exit 1 with a diff if files differ.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to. Default: images/ beside the matrix file.",
)
def command(file: Path | None, selector: str | None, *, check: bool, output: Path | None) -> None:
    """Write images/<cell>/Dockerfile and apptainer.def, the same bytes on every run."""
    project, matrix, cells = options.load(file, selector)
    bench = Workbench(project, matrix)
    rendered = [bench.render(cell, BaseKind.REGISTRY) for cell in cells]
    rendered.append(bench.manifests(cells))
    images = output or project.images
    if check:
        diff = render.check(images, rendered, orphans=selector is None)
        if diff:
            raise DriftError(
                f"{images} differs from matrix.yaml",
                diff=diff,
                hint="run `imgbuild render`, and delete what no cell owns",
            )
        options.say(f"render: {len(cells)} cells are up to date")
    else:
        written = render.write(images, rendered)
        click.echo("".join(f"{file}\n" for file in written), nl=False)
    for line in bases.unpinned(cells, bench.base_pins):
        click.echo(line, err=True)

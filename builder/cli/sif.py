"""`imgbuild sif`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from builder import engines
from builder.cli import options
from builder.cli.progress import display
from builder.engines.apptainer import Apptainer
from builder.engines.base import Exporter
from builder.prepare import Workbench
from builder.render import DOCKERFILE


@click.command("sif")
@options.file
@options.select
@options.engine("auto", "docker", "buildah")
@options.sif_folder
def command(file: Path | None, selector: str | None, engine: str, output: Path) -> None:
    """Make <cell>.sif from the image that docker or buildah built.

    `imgbuild build --engine apptainer` builds one from its definition instead.
    """
    project, matrix, cells = options.load(file, selector)
    apptainer = Apptainer(output)
    engines.require(apptainer)
    bench = Workbench(project, matrix)
    for cell in cells:
        source, image, naming = engines.built(engine, bench.namings(cell, DOCKERFILE))
        assert isinstance(source, Exporter)  # noqa: S101 - by the choices of --engine
        with display(cell.id) as shown, tempfile.TemporaryDirectory(prefix="imgbuild-") as scratch:
            shown.step(f"exporting from {source.name}")
            archive = source.archive(image, Path(scratch) / "image.tar")
            shown.step("building SIF")
            made = apptainer.convert(naming, archive, shown.line)
        click.echo(f"{cell.id}: {made.reference}, {made.size / 1e9:.2f} GB")

"""`imgbuild sif`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from builder import engines, zstd
from builder.cli import options
from builder.cli.progress import display
from builder.engines.apptainer import BLOCK_SIZES, Apptainer, Squashfs
from builder.engines.base import Exporter
from builder.prepare import Workbench
from builder.render import DOCKERFILE


@click.command("sif")
@options.file
@options.select
@options.engine("auto", "docker", "buildah")
@options.sif_folder
@click.option(
    "--compression-level",
    "level",
    type=options.Whole(*zstd.LEVELS),
    metavar="N",
    default=Squashfs.level,
    show_default=True,
    help="Of zstd, 1 to 22. Higher: a smaller SIF, which takes much longer to make. Figures: "
    "docs/compression.md.",
)
@click.option(
    "--block-size",
    type=click.Choice(BLOCK_SIZES),
    help="Of squashfs. Larger: a smaller SIF; who reads a little of a file unpacks a whole block "
    f"for it. Default: mksquashfs's own, {BLOCK_SIZES[0]}.",
)
def command(
    file: Path | None,
    selector: str | None,
    engine: str,
    *,
    output: Path,
    level: int,
    block_size: str | None,
) -> None:
    """Make <cell>.sif from the image that docker or buildah built.

    `imgbuild build --engine apptainer` builds one from its definition instead, with the defaults.
    """
    project, matrix, cells = options.load(file, selector)
    apptainer, squashfs = Apptainer(output), Squashfs(level=level, block_size=block_size)
    engines.require(apptainer)
    bench = Workbench(project, matrix)
    for cell in cells:
        source, image, naming = engines.built(engine, bench.namings(cell, DOCKERFILE))
        assert isinstance(source, Exporter)  # noqa: S101 - by the choices of --engine
        with display(cell.id) as shown, tempfile.TemporaryDirectory(prefix="imgbuild-") as scratch:
            shown.step(f"exporting from {source.name}")
            archive = source.archive(image, Path(scratch) / "image.tar")
            shown.step("building SIF")
            made = apptainer.convert(naming, archive, shown.line, squashfs)
        click.echo(f"{cell.id}: {made.reference}, {made.size / 1e9:.2f} GB")

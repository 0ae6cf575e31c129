"""`imgbuild clean`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from builder import engines
from builder.cli import options
from builder.engines.base import Engine, Image
from builder.prepare import Workbench
from builder.render import DEFINITION, DOCKERFILE


@click.command("clean")
@options.file
@options.select
@options.engine("auto", *engines.ENGINES)
@options.sif_folder
@click.option("--all", "everything", is_flag=True, help="Also the images that are up to date.")
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")
@options.as_json
def command(
    file: Path | None,
    selector: str | None,
    engine: str,
    *,
    output: Path,
    everything: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove images of cells that a later build has replaced, from every engine that is here.

    Each build leaves a content tag, which keeps its image until somebody takes it away. Tags of
    your own keep theirs. SIF files are removed with --engine apptainer only.
    """
    project, matrix, cells = options.load(file, selector)
    bench = Workbench(project, matrix)
    removed: list[tuple[Engine, Image]] = []
    for chosen in engines.usable(engine, output):
        for cell in cells:
            namings = bench.namings(cell, DOCKERFILE, DEFINITION)
            current = {found.reference for naming in namings if (found := chosen.find(naming))}
            for image in chosen.held(namings[0]):
                if not everything and image.reference in current:
                    continue
                if not dry_run:
                    chosen.remove(image, namings[0])
                removed.append((chosen, image))
                if not as_json:
                    verb = "would remove" if dry_run else "removed"
                    size = f"{image.size / 1e9:.2f} GB"
                    click.echo(f"{verb} {image.reference} ({chosen.name}, {size})")
    if as_json:
        rows = [
            {"engine": chosen.name, "reference": image.reference, "size": image.size}
            for chosen, image in removed
        ]
        click.echo(json.dumps(rows, indent=2))
    if not removed:
        options.say("clean: nothing to remove")

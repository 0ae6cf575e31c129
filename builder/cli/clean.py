"""`imgbuild clean`."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from builder import engines, publish
from builder.cli import options
from builder.engines.base import Engine
from builder.naming import Naming
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
    your own keep theirs. SIF files are removed with --engine apptainer only. Without --matrix,
    layers go too that `imgbuild push --compression-level` has kept and not used for 30 days; with
    --all, all of them.
    """
    project, matrix, cells = options.load(file, selector)
    bench = Workbench(project, matrix)
    namings = [bench.namings(cell, DOCKERFILE, DEFINITION) for cell in cells]
    found = _images(engines.usable(engine, output), namings, everything=everything)
    # Kept layers belong to no cell: several share one.
    layers = _layers(everything=everything) if selector is None else iter(())
    removed = []
    for what, remove in itertools.chain(found, layers):
        if not dry_run:
            remove()
        removed.append(what)
        if not as_json:
            verb = "would remove" if dry_run else "removed"
            kind = what.engine or "a layer that a push compressed"
            click.echo(f"{verb} {what.reference} ({kind}, {what.size / 1e9:.2f} GB)")
    if as_json:
        click.echo(json.dumps([what._asdict() for what in removed], indent=2))
    if not removed:
        options.say("clean: nothing to remove")


class _Removable(NamedTuple):
    engine: str | None  # None: a file of imgbuild's own
    reference: str
    size: int


_Found = Iterator[tuple[_Removable, Callable[[], None]]]


def _images(
    found: Iterable[Engine], cells: Sequence[tuple[Naming, ...]], *, everything: bool
) -> _Found:
    for engine in found:
        for namings in cells:
            current = {image.reference for naming in namings if (image := engine.find(naming))}
            for image in engine.held(namings[0]):
                if everything or image.reference not in current:
                    row = _Removable(engine.name, image.reference, image.size)
                    yield row, functools.partial(engine.remove, image, namings[0])


def _layers(*, everything: bool) -> _Found:
    for file in publish.Kept().unused(everything=everything):
        yield _Removable(None, str(file), file.stat().st_size), file.unlink

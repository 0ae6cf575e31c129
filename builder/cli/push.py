"""`imgbuild push`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from builder import engines, publish, site, zstd
from builder.cli import options
from builder.cli.progress import display
from builder.engines.apptainer import Apptainer
from builder.engines.base import Compression, Progress, Publisher
from builder.errors import UserError
from builder.prepare import Workbench
from builder.registry import Address, Registry, credentials
from builder.render import DOCKERFILE


@click.command("push")
@options.file
@options.select
@options.registry
@options.engine("auto", *engines.ENGINES)
@click.option(
    "--compression",
    type=click.Choice([known.value for known in Compression]),
    help="Of layers. Default: zstd where the engine can; gzip is for clients that do not read it.",
)
@click.option(
    "--compression-level",
    "level",
    type=options.Whole(*zstd.LEVELS),
    metavar="N",
    help="Of zstd, 1 to 22; imgbuild then compresses layers itself. 19: smaller, and it takes "
    "minutes, once a layer. Default: the engine's own 7. Figures: docs/compression.md.",
)
@options.as_json
def command(
    file: Path | None,
    selector: str | None,
    registry: str,
    engine: str,
    compression: str | None,
    *,
    level: int | None,
    as_json: bool,
) -> None:
    """Push built images to PREFIX/<framework>, under all their tags; prints name@digest.

    What the registry has already is left alone; without --compression-level at whatever level
    it is there. Logins are those that docker and podman keep, and
    the registry's CA is looked for in SSL_CERT_FILE and in certs.d. Exit codes: 1 the registry
    refused, 2 a cell is not built.
    """
    address = Address.parse(registry)
    project, matrix, cells = options.load(file, selector)
    if engine == Apptainer.name:
        raise UserError(
            "a SIF is not pushed: the image is, and each cluster makes its SIF of that",
            hint="push with --engine docker or buildah, then `imgbuild pull CELL --sif` there",
        )
    bench = Workbench(project, matrix)
    # Nothing is pushed unless all can be.
    found = [engines.built(engine, bench.namings(cell, DOCKERFILE)) for cell in cells]
    wanted = Compression(compression) if compression else None
    for source, _, _ in found:
        assert isinstance(source, Publisher)  # noqa: S101 - by the choices of --engine
        publish.chosen(source, wanted, level)
    here = site.discover()
    results = []
    for source, image, naming in found:
        assert isinstance(source, Publisher)  # noqa: S101 - by the choices of --engine
        login = credentials.find(address.host, address.repository(naming.repository))
        there = Registry(address, ca=here.ca, login=login, actions="pull,push")
        with display(naming.cell_id) as shown:
            progress = Progress(step=shown.step, line=shown.line)
            result = publish.push(
                source, image, naming, there, progress, wanted=wanted, level=level
            )
        results.append(result)
        if not as_json:
            for tag in result.tags:
                click.echo(f"{'pushed' if tag.changed else 'unchanged':<9} {tag.reference}")
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(result) for result in results], indent=2))

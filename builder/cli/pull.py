"""`imgbuild pull`."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import click

from builder import engines, matrix, publish, site
from builder.cli import options
from builder.cli.progress import display
from builder.engines.apptainer import Apptainer
from builder.engines.base import Progress
from builder.errors import UserError
from builder.registry import Address, Registry, credentials, is_digest

_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


@click.command("pull")
@click.argument("cell_id", metavar="CELL")
@options.file
@options.registry
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder to write <cell>.sif or <cell>.oci.tar into.",
)
@click.option("--sif", is_flag=True, help="Make a SIF; needs apptainer.")
@click.option("--tag", metavar="T", help="Tag to pull instead of the cell's id.")
@click.option("--digest", metavar="sha256:...", help="Pull exactly this, whatever tags say.")
@options.as_json
def command(
    cell_id: str,
    file: Path | None,
    registry: str,
    folder: Path,
    tag: str | None,
    *,
    digest: str | None,
    sif: bool,
    as_json: bool,
) -> None:
    """Fetch CELL's image from PREFIX/<framework> into one file, without Docker.

    An OCI archive needs nothing but imgbuild; every byte is checked against the digest, which is
    printed and kept in <file>.digest. The file is whole or not there. Logins are those that
    docker, podman and apptainer keep.
    """
    address = Address.parse(registry)
    if tag and not _TAG.fullmatch(tag):
        raise UserError(f"--tag: {tag!r} is no tag")
    if digest and not is_digest(digest):
        raise UserError(f"--digest: {digest!r} is none", hint="give sha256: and 64 hex digits")
    _, loaded = options.open_matrix(file)
    cell = matrix.cell(loaded, cell_id)
    wanted = publish.Wanted(name=cell.framework_name, tag=tag or cell.tag_id, digest=digest)
    apptainer = Apptainer(folder)
    if sif:
        engines.require(apptainer)
    login = credentials.find(address.host, address.repository(wanted.name))
    there = Registry(address, ca=site.discover().ca, login=login)
    with display(cell.id) as shown:
        progress = Progress(step=shown.step, line=shown.line)
        if sif:
            target = folder / f"{cell.tag_id}.sif"
            pulled = publish.pull_sif(wanted, there, target, progress, apptainer)
        else:
            target = folder / f"{cell.tag_id}.oci.tar"
            pulled = publish.pull_archive(wanted, there, target, progress)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(pulled), indent=2, default=str))
        return
    what = "pulled" if pulled.changed else "unchanged"
    moved = f" (was {pulled.before} before)" if pulled.changed and pulled.before else ""
    size, seconds = pulled.size / 1e9, pulled.seconds
    click.echo(f"{cell.id}: {what} {pulled.reference}{moved}")
    click.echo(f"{cell.id}: {pulled.file}, {size:.2f} GB, in {seconds:.0f} s")

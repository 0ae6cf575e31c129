"""`imgbuild host record`."""

from __future__ import annotations

import datetime
import shlex
from pathlib import Path

import click

from builder.cli import options
from builder.errors import UserError
from builder.host import check


@click.command("record")
@options.file
@click.argument("folder", type=click.Path(path_type=Path))
def command(file: Path | None, folder: Path) -> None:
    """Write what `host check` reads of this host into a new FOLDER, for its --root.

    Small files of /proc, /sys and /etc, and of nvidia-smi's answer what rows ask: no serial
    numbers, no UUIDs, no processes, no lists of packages.
    """
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} is there already", hint="name a folder that is not")
    if not folder.absolute().parent.is_dir():
        raise UserError(f"{folder.parent} is no folder", hint="make it first")
    _, loaded = options.open_matrix(file)
    host = check.Host()
    printed = check.told(host)
    today = datetime.datetime.now(tz=datetime.UTC).date()
    # What these look at is what is recorded.
    check.look(host, printed, loaded, today=today)
    check.container(host)
    files = check.record(host, printed, folder.absolute())
    name = str(folder)
    # Signs that a terminal obeys as shells write them.
    name = shlex.quote(name) if name.isprintable() else f"${name!a}"
    click.echo(f"{name}: {files} files; imgbuild host check --root {name}")

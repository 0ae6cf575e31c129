"""`imgbuild tune`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from builder import manifest, matrix, proc
from builder.cli import options
from builder.engines import host
from builder.errors import UserError
from builder.facts import Accelerator, Matrix
from builder.model import Cell
from builder.proc import Command
from builder.project import PACKAGE


@click.command("tune")
@options.file
@click.option("--cell", "cell_id", metavar="CELL", help="Whose settings. Default: one for here.")
@click.option("--dry-run", is_flag=True, help="What this verb does anyway: it changes nothing.")
@click.option("--all", "everything", is_flag=True, help="Also what is left alone, and why.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Look at a recorded host instead of this one.",
)
@click.option(
    "--record",
    type=click.Path(file_okay=False, path_type=Path),
    help="Record this host into a new folder, for --root.",
)
@options.as_json
@click.argument("arguments", nargs=-1, metavar="[-- SERVER'S ARGUMENTS]")
def command(
    file: Path | None,
    cell_id: str | None,
    root: Path | None,
    record: Path | None,
    arguments: tuple[str, ...],
    *,
    everything: bool,
    dry_run: bool,  # noqa: ARG001 - for those who type it to be sure
    as_json: bool,
) -> None:
    """Say what an image of CELL would set on this host, and why; what only the host can change; and
    whether it would start at all.

    The same code as in the image, where `IMGBUILD_TUNE=explain` says it while the server starts.
    """
    if record is not None and root is not None:
        raise UserError("--record is of this host, --root of another", hint="leave one out")
    if record is not None and record.exists():
        raise UserError(f"{record} is there already", hint="name a folder that is not")
    _, loaded = options.open_matrix(file)
    cell = matrix.cell(loaded, cell_id) if cell_id else _one_for_here(loaded)
    given = ["--record", str(record)] if record else []
    given += ["--root", str(root)] if root else []
    given += ["--json"] if as_json else []
    given += ["--all"] if everything else []
    with tempfile.TemporaryDirectory(prefix="imgbuild-tune-") as folder:
        carried = Path(folder) / "manifest.json"
        carried.write_text(manifest.text(loaded, cell), encoding="utf-8")
        runtime = (sys.executable, "-ES", str(PACKAGE / "runtime"), "tune")
        args = (*runtime, "--manifest", str(carried), *given, "--", *arguments)
        told = proc.capture(Command(args=args, timeout=30))
    if not as_json and record is None:
        click.echo(f"{cell.id}:", err=True)
    click.echo(told.stdout, nl=False)


def _one_for_here(loaded: Matrix) -> Cell:
    """The first published cell for this host's accelerator."""
    here = Accelerator.CUDA if host.has_gpu() else Accelerator.CPU
    cells = matrix.select(loaded, None)
    return next((cell for cell in cells if cell.stack.accelerator is here), cells[0])

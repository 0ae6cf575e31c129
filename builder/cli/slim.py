"""`imgbuild slim`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from builder import proc
from builder.cli import options
from builder.errors import BuildError, ImgbuildError, UserError
from builder.proc import Command
from builder.project import PACKAGE

_SAYS = "slim: "  # begins each line that the slimmer writes to stderr


@click.command("slim")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--sm", required=True, metavar="SM[,SM]", help="The GPUs that are served: 90, or 9.0."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option(
    "--mode",
    type=click.Choice(["compact", "zero"]),
    default="compact",
    show_default=True,
    help="Cut the bytes out of the files; or only zero them, so that they compress to nothing.",
)
@click.option(
    "--uncovered",
    type=click.Choice(["keep", "empty"]),
    default="keep",
    show_default=True,
    help="What becomes of a container of GPU code that has none for these GPUs: it stays as it is, "
    "and is told; or it is emptied, as in images that are thinned for a GPU.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="WHL",
    help="PATH is a wheel: write the slimmed one there.",
)  # fmt: skip
@click.option("--no-strip", is_flag=True, help="Leave debug sections and symbol tables.")
@click.option(
    "--keep-files",
    is_flag=True,
    help="Leave files that rules say are not needed there, and copies of files.",
)
@options.as_json
def command(
    path: Path,
    sm: str,
    mode: str,
    uncovered: str,
    output: Path | None,
    *,
    dry_run: bool,
    no_strip: bool,
    keep_files: bool,
    as_json: bool,
) -> None:
    """Rewrite the libraries of PATH, a file or a folder, without the GPU code that the named GPUs
    do not load, and without what only debuggers read.

    Machine code for a GPU is its own SM's, or that of a lower minor version; where there is none,
    PTX stays. A library that has neither keeps all its GPU code, and is named (--uncovered). Of an
    installed environment files leave, too, that can never run there, each by a rule that says why,
    and copies of a file become links to it (--keep-files leaves both).

    Nothing but GPU code moves in memory, with all that points to it, and a file that is not
    understood stays as it is. Run again it changes nothing. GNU strip and objcopy spoil files whose
    bytes were cut out: not after this; patchelf does not. Files are replaced one by one, each when
    its new one is on the disk: whoever has the old one open keeps it.

    \b
    imgbuild slim venv --sm 90             for H100 and H200
    imgbuild slim venv --sm 80,89 --json   for A100 and L4; all counts, for programs
    imgbuild slim torch-2.13.0-….whl --sm 90 --output slim/torch-2.13.0-….whl
    imgbuild slim torch-2.13.0-….whl --sm 90 --dry-run
    """
    if output and path.suffix == ".whl":
        if not output.parent.is_dir():
            raise UserError(f"--output: {output.parent}: no such folder")
        if os.path.lexists(output):
            raise UserError(f"--output: {output}: is there already; name a file that is not")
    given = ["--sm", sm, "--mode", mode, "--uncovered", uncovered]
    given += ["--dry-run"] if dry_run else []
    given += ["--no-strip"] if no_strip else []
    given += ["--keep-files"] if keep_files else []
    given += ["--output", str(output)] if output else []
    given += ["--json"] if as_json else []
    runtime = (sys.executable, "-ES", str(PACKAGE / "runtime"), "slim")
    try:
        proc.stream(Command(args=(*runtime, *given, "--", str(path))), _told)
    except BuildError as error:
        what = (error.tail[-1] if error.tail else str(error)).removeprefix(_SAYS)
        # The values of options are the slimmer's to read.
        raise (UserError if what.startswith("--") else ImgbuildError)(what) from None


def _told(line: str) -> None:
    """Progress goes to stderr, as it came; an error is told at the end."""
    if not line.startswith(_SAYS):
        click.echo(line)
    elif line.endswith("of libraries"):
        options.say(line)

"""`imgbuild inspect`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import click

from builder import engines, inspect, matrix
from builder.cli import options
from builder.cli.progress import Display, display
from builder.engines.base import Engine, Saver
from builder.errors import ImgbuildError, UserError, nearest
from builder.facts import Matrix
from builder.inspect import Contents
from builder.prepare import Workbench
from builder.render import DEFINITION, DOCKERFILE

_FILES = (".sif", ".whl", ".tar", ".tgz", ".gz", ".so", ".sqfs")
_NAMED = 5  # libraries in an error's line; the report has all


@click.command("inspect")
@click.argument("target", metavar="IMAGE|SIF|PATH")
@click.option(
    "--sm",
    metavar="SM[,SM]",
    help="Fail where a library has GPU code, and none for these: 90, or 9.0.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="With --sm: fail also where a part of a library has code for other GPUs alone.",
)
@click.option(
    "--top",
    type=options.Whole(1),
    default=12,
    show_default=True,
    help="Rows of each table; JSON has all.",
)
@options.file
@options.engine("auto", *engines.ENGINES)
@options.sif_folder
@options.as_json
def command(
    target: str,
    sm: str | None,
    top: int,
    file: Path | None,
    engine: str,
    *,
    strict: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Show where every megabyte is: by layer, package and kind, what is stored twice, and which
    GPUs each library has code for.

    IMAGE is one that Docker or Podman has, or the id of a cell that is built; PATH a folder, a
    wheel, a library, an OCI archive or layout, a docker archive. A SIF is read with unsquashfs,
    without root. Nothing is unpacked: large libraries alone become temporary files, one by one.

    \b
    imgbuild inspect cuda13.0-vllm-h100 --sm 90    exit code 1 where a library has nothing for it
    imgbuild inspect my.so --sm 90 --strict        ... or where one of its containers has none
    imgbuild inspect dist/cpu-vllm.sif --top 30
    imgbuild inspect venv --json                   all rows, sizes in bytes
    """
    sms = () if sm is None else inspect.sms(sm)
    if strict and not sms:
        raise UserError("--strict says how --sm fails", hint="give the GPU, as --sm 90")
    project, loaded = options.open_matrix(file)
    bench = Workbench(project, loaded)
    with display(target) as shown:
        contents = _read(target, bench, loaded, _Watched(shown), engine=engine, sifs=output)
    found = inspect.report(contents, sms, loaded.gpu_code_exceptions)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for line in inspect.lines(found, top):
            click.echo(line)
    without = [
        f"no code for sm_{one} in {_listed(paths)}" for one, paths in inspect.failing(found).items()
    ]
    if strict:
        without += [
            f"not all code of {_listed(paths)} is for sm_{one}"
            for one, paths in inspect.lacking(found).items()
        ]
    if unread := inspect.unread(found):
        without.append(f"GPU code stands in {_listed(unread)}, which cannot be read")
    if without:
        raise ImgbuildError(
            "; ".join(without),
            hint="a row below gpu_code_exceptions: in matrix.yaml excuses one, with its reason",
        )


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return f"{inspect.printable(', '.join(paths[:_NAMED]))}{more}"


class _Watched:
    """Tells how far it is, from the second second on."""

    def __init__(self, shown: Display) -> None:
        self._shown = shown
        self._next = time.monotonic() + 1
        self._begun = False

    def __call__(self, files: int, size: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        if not self._begun:
            self._begun = True
            self._shown.step("reading")
        self._next = now + 1
        self._shown.line(f"{files} files, {size / 1e6:.0f} MB")


def _read(
    target: str, bench: Workbench, loaded: Matrix, told: _Watched, *, engine: str, sifs: Path
) -> Contents:
    """What the target is, read; raises UserError where it is nothing that is here."""
    if not target:  # Path("") would be the folder that one is in
        raise UserError("nothing is named", hint="give a file, a folder or an image's name")
    path = Path(target)
    if path.exists():
        return inspect.read_path(path, told)
    if target.startswith((".", "/", "~")) or target.endswith(_FILES):
        folder = path.parent
        beside = [one.name for one in folder.iterdir()] if folder.is_dir() else []
        near = nearest(path.name, beside)
        hint = near if near.startswith("did") else "give a file, a folder or an image's name"
        raise UserError(f"{target}: no such file", hint=hint)
    mistake = None
    if ":" not in target and "/" not in target:
        try:
            cell = matrix.cell(loaded, target)
        except UserError as error:
            mistake = error  # it may be an image's name
        else:
            namings = bench.namings(cell, DOCKERFILE, DEFINITION)
            holder, image, _ = engines.built(engine, namings, sifs)
            return _saved(holder, image.reference, _layers(bench, loaded, cell.id), told)
    asked = []
    for holder in engines.usable(engine, sifs):
        if engines.holds(holder, target):
            labels = holder.config(target).labels
            names = _layers(bench, loaded, labels.get("io.imgbuild.cell", ""))
            return _saved(holder, target, names, told)
        asked.append(holder.name)
    has = "has" if len(asked) == 1 else "have"
    what = f"{target}: no file, and {' and '.join(asked)} {has} no such image"
    if mistake:
        raise UserError(f"{what}; nor is it a cell: {mistake.what}", hint=mistake.hint)
    raise UserError(what, hint="`imgbuild pull` and `docker pull` fetch one")


def _saved(holder: Engine, reference: str, names: Mapping[str, str], told: _Watched) -> Contents:
    if not isinstance(holder, Saver):  # Apptainer's are files
        return inspect.read_path(Path(reference), told)
    with holder.saved(reference) as stream:
        return inspect.read_image(reference, stream, names, told)


def _layers(bench: Workbench, loaded: Matrix, cell_id: str) -> dict[str, str]:
    """imgbuild's names of a cell's layers, by the digest of their locks."""
    with suppress(UserError):
        cell = matrix.cell(loaded, cell_id)
        locks = [bench.recipe(cell, kind).lock for kind in cell.kinds]
        return {layer.digest: layer.name for lock in locks for layer in lock.layers}
    return {}

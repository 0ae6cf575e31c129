"""`imgbuild smoke`."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from pathlib import Path
from typing import Any

import click

from builder import engines
from builder.cli import options
from builder.cli.progress import display
from builder.engines.apptainer import Apptainer
from builder.engines.base import Engine, Image, Publisher
from builder.engines.buildah import Buildah
from builder.errors import BuildError, ImgbuildError, UserError
from builder.model import Cell
from builder.prepare import Workbench
from builder.render import DEFINITION, DOCKERFILE
from builder.smoke import SmokeReport, Status, check_contract, smoke

_MARKS = {Status.PASSED: "ok", Status.FAILED: "FAILED", Status.SKIPPED: "skipped:"}


class _Seconds(click.FloatRange):
    """No number is smaller or larger than NaN, so that click lets it pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


@click.command("smoke")
@options.file
@options.select
@options.engine("auto", *engines.ENGINES)
@click.option("--image", metavar="REF", help="Smoke this image or SIF instead of the cell's own.")
@options.sif_folder
@click.option("--static", is_flag=True, help="Leave out the checks that start a server.")
@click.option(
    "--contract",
    is_flag=True,
    help="Instead of serving: what every image must stand (users, read-only roots, signals, ...).",
)
@click.option(
    "--timeout",
    type=_Seconds(min=1, max=86400),
    default=600.0,
    show_default=True,
    help="Seconds until the server must be healthy.",
)
@options.as_json
def command(
    file: Path | None,
    selector: str | None,
    engine: str,
    image: str | None,
    timeout: float,
    *,
    output: Path,
    static: bool,
    contract: bool,
    as_json: bool,
) -> None:
    """Start built images as a user would, ask a tiny model, compare its tokens, stop them.

    The model needs no hub: its weights are computed, and so are the right answers. Exit code 1
    when any check failed; a check that cannot run for want of a GPU fails unless left out.

    With --contract, ten other checks: the image's user is nobody special, and any uid, a read-only
    root, no home and no network will do; SIGTERM ends it within 10 s with the right exit code;
    orphans are reaped; TMPDIR may be long; nothing secret, of a site's own or setuid is inside;
    labels, port and health check are there and go through no shell. Frameworks add their own, as
    that they are the release that the cell names. A check is skipped where the engine says that
    it cannot, as Apptainer of other users, and where a program needs a GPU that is not here. With
    --static as well, SIGTERM is tried on commands alone, not on the server.
    """
    project, matrix, cells = options.load(file, selector)
    if image is not None and len(cells) != 1:
        raise UserError("--image is one image", hint="say with --matrix which cell it is of")
    bench = Workbench(project, matrix)
    # All before the first is started: one that is not there must not cost the others' results.
    found = [(cell, *_find(bench, cell, engine, image, output)) for cell in cells]
    reports = []
    for cell, chosen, reference in found:
        with display(cell.id) as shown:
            prove = check_contract if contract else smoke
            report = prove(cell, chosen, reference, shown.step, static=static, timeout=timeout)
        reports.append(report)
        if not as_json:
            _tell(report)
    if as_json:
        click.echo(json.dumps([_plain(report) for report in reports], indent=2))
    failed = [_blamed(report) for report in reports if not report.passed]
    if failed:
        raise ImgbuildError(f"smoke failed: {', '.join(failed)}")


def _blamed(report: SmokeReport) -> str:
    """The cell and what failed of it."""
    checks = [check.name for check in report.checks if check.status is Status.FAILED]
    return f"{report.cell_id} ({' '.join(checks) or 'nothing could be tried'})"


def _find(
    bench: Workbench, cell: Cell, engine: str, image: str | None, sifs: Path
) -> tuple[Engine, str]:
    """The engine that has the image, and the image's name; raises UserError where none has it."""
    if image is None:
        found, built, _ = engines.built(engine, bench.namings(cell, DOCKERFILE, DEFINITION), sifs)
        return found, built.reference
    if image.endswith(".sif"):
        if engine not in ("auto", Apptainer.name):
            raise UserError(f"--image: {image}: {engine} runs no SIF", hint="leave --engine out")
        engine = Apptainer.name
    asked = []
    for candidate in engines.usable(engine, sifs):
        if _has(candidate, image):
            return candidate, image
        asked.append(candidate.name)
    if asked == [Apptainer.name]:
        raise UserError(
            f"--image: {image}: no such file",
            hint=f"`imgbuild sif --matrix {cell.id}` makes one of what docker or buildah built",
        )
    fetch = f"{'podman' if asked[0] == Buildah.name else asked[0]} pull {shlex.quote(image)}"
    raise UserError(
        f"--image: {' and '.join(asked)} {'has' if len(asked) == 1 else 'have'} no {image}",
        hint=f"`imgbuild build --matrix {cell.id}` builds the cell's own, `{fetch}` fetches this",
    )


def _has(engine: Engine, image: str) -> bool:
    """Whether an engine has an image of that name: a smoke fetches nothing by itself."""
    if isinstance(engine, Publisher):
        try:
            engine.names(Image(reference=image, size=0))
        except (BuildError, OSError):  # Docker's own "not found" is an OSError
            return False
        return True
    return "://" in image or Path(image).exists()


def _tell(report: SmokeReport) -> None:
    click.echo(f"{report.cell_id}: {report.image} ({report.engine})")
    for check in report.checks:
        first, *more = check.detail.splitlines() or [""]
        click.echo(f"  {check.name:<11}{_MARKS[check.status]} {first} [{check.seconds:.1f} s]")
        for line in more:
            click.echo(f"             | {line}")


def _plain(report: SmokeReport) -> dict[str, object]:
    return {"passed": report.passed, **dataclasses.asdict(report)}

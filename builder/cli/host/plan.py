"""`imgbuild host plan`."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from pathlib import Path

import click

from builder import matrix
from builder.cli import options
from builder.cli.host import roots
from builder.errors import UserError
from builder.host import check, plan
from builder.host.plan import formats, wishes


@click.command("plan")
@options.file
@options.select
@roots.option("Plan for")
@click.option(
    "--format",
    "shown",
    type=click.Choice(tuple(formats.FORMATS)),
    help="What is printed.  [default: sh]",
)
@click.option("--undo", is_flag=True, help="Print the script that takes back what `sh` has done.")
@click.option("--rows", metavar="ROW,...", help="Only these rows of `host check`.")
@click.option("--hugepages", metavar="SIZE=COUNT,...", help="Reserve some: 2M=1024, 1G=8.")
@click.option("--power-limit", type=options.Whole(1, 99999), help="Watts of each GPU.")
@click.option("--cuda-toolkit", metavar="X.Y", help="Install one; images bring their own.")
@click.option("--mig", "layout", metavar="LAYOUT", help="Divide GPUs, as 7x1g.10gb; with --gpu.")
@click.option("--gpu", metavar="GPU", help="The card of --mig, as h100.")
@click.option("--devices", metavar="INDEX,...|all", help="GPUs of --mig.  [default: 0]")
@options.as_json
def command(
    *,
    file: Path | None,
    selector: str | None,
    root: Path,
    shown: str | None,
    rows: str | None,
    hugepages: str | None,
    power_limit: int | None,
    cuda_toolkit: str | None,
    layout: str | None,
    gpu: str | None,
    devices: str | None,
    undo: bool,
    as_json: bool,
) -> None:
    """Print what would put this host right: what `host check` advises, and what is asked for.

    Nothing is run. The script changes only what differs, keeps what was there in
    /var/lib/imgbuild, and changes nothing the second time. SEL names the cells that are to run
    here.
    """
    asked = {"--hugepages": hugepages, "--power-limit": power_limit, "--mig": layout}
    asked |= {"--cuda-toolkit": cuda_toolkit, "--rows": rows}
    _refuse_both(shown, asked, undo=undo, as_json=as_json)
    divided, chosen = wishes.mig(gpu, layout, devices)
    wished = plan.Wishes(
        rows=wishes.rows(rows, check.LOOKS),
        pages=wishes.pages(hugepages),
        power=power_limit,
        toolkit=wishes.toolkit(cuda_toolkit),
        mig=divided,
        devices=chosen,
    )
    _, loaded = options.open_matrix(file)
    wanted = matrix.select(loaded, selector) if selector is not None else ()
    host = roots.opened(root)
    today = datetime.datetime.now(tz=datetime.UTC).date()
    subject = check.subject_of(host, check.told(host), loaded, wanted=wanted, today=today)
    made = plan.make(subject, wished)
    if inside := check.container(host):
        options.say(f"in a container of {inside}: this is no plan of the host below it")
    if undo:
        click.echo(formats.undo(made), nl=False)
    elif as_json:
        click.echo(json.dumps(dataclasses.asdict(made), indent=2))
    else:
        click.echo(formats.FORMATS[shown or "sh"](made), nl=False)


def _refuse_both(
    shown: str | None, asked: Mapping[str, object], *, undo: bool, as_json: bool
) -> None:
    """Raise UserError for options of which one would be taken and the other forgotten."""
    if undo and shown not in (None, "sh"):
        raise UserError(
            f"--undo: what --format {shown} sets is taken back as its first lines say",
            hint="leave out --format",
        )
    if undo and as_json:
        raise UserError(
            "--undo and --json are two answers", hint="each step has its own undo in JSON"
        )
    if undo and (wish := next((name for name, value in asked.items() if value is not None), None)):
        raise UserError(
            f"--undo takes back whatever the script has changed, and {wish} would choose nothing",
            hint=f"leave out {wish}",
        )
    options.one_answer(shown, as_json=as_json)

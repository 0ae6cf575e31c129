"""`imgbuild host check`."""

from __future__ import annotations

import dataclasses
import datetime
import json
import textwrap
from collections import Counter
from itertools import groupby
from pathlib import Path

import click

from builder import matrix
from builder.cli import options
from builder.cli.host import roots
from builder.host import check
from builder.host.check import Row, Status

_TITLE, _WIDTH = 34, 100
# Those that say something to do come with what, the others in one line.
_TOLD = (Status.FAILED, Status.ADVISED, Status.UNKNOWN)


@click.command("check")
@options.file
@options.select
@roots.option("Look at")
@click.option("--all", "everything", is_flag=True, help="Why and whence also of what is all right.")
@options.as_json
@click.pass_context
def command(
    context: click.Context,
    file: Path | None,
    selector: str | None,
    root: Path,
    *,
    everything: bool,
    as_json: bool,
) -> None:
    """Say what this host is set to, and what it should be to run images.

    Reads files and asks nvidia-smi; changes nothing. SEL names the cells that are to run here: the
    driver is then held against theirs. Exit code 1 where a required row fails.
    """
    _, loaded = options.open_matrix(file)
    wanted = matrix.select(loaded, selector) if selector is not None else ()
    host = roots.opened(root)
    today = datetime.datetime.now(tz=datetime.UTC).date()
    rows = check.look(host, check.told(host), loaded, wanted=wanted, today=today)
    inside, failed = check.container(host), check.has_failed(rows)
    if as_json:
        told = [dataclasses.asdict(row) for row in rows]
        click.echo(json.dumps({"container": inside, "failed": failed, "rows": told}, indent=2))
    else:
        click.echo("\n".join(_lines(rows, everything=everything)))
        if inside:
            options.say(f"in a container of {inside}: its files and limits are not all the host's")
    context.exit(1 if failed else 0)


def _lines(rows: tuple[Row, ...], *, everything: bool) -> list[str]:
    lines = []
    for theme, of_theme in groupby(rows, key=lambda row: row.theme):
        lines.append(theme)
        for row in of_theme:
            now = f"{row.now} ({row.reason})" if row.reason and row.now != "-" else row.now
            now = row.reason if now == "-" else now
            head = f"  {row.status:<8}{row.title:<{_TITLE}}"
            lines += textwrap.wrap(
                now, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head)
            ) or [head.rstrip()]
            lines += _more(row) if everything or row.status in _TOLD[:2] else []
        lines.append("")
    counts = Counter(row.status for row in rows)
    told = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    return [*lines, told]


def _more(row: Row) -> list[str]:
    parts = {
        "advised": row.advised,
        "why": row.why,
        "impact": row.impact,
        "change": row.change,
        "source": row.source,
    }
    return [
        line
        for name, text in parts.items()
        for line in textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=f"            {name + ':':<9}",
            subsequent_indent=" " * 21,
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]

"""`imgbuild matrix`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from builder import changes, matrix
from builder.cli import options
from builder.model import Cell

_NOTHING = re.compile("0{40}|0{64}")  # git's name of no commit, by SHA-1 and SHA-256


@click.command("matrix")
@options.file
@options.select
@click.option(
    "--format",
    "shape",
    type=click.Choice(["table", "json", "github"]),
    default="table",
    show_default=True,
    help="github: a job matrix of the published cells, for `fromJSON` in a workflow.",
)
@click.option(
    "--changed-since",
    "ref",
    metavar="REF",
    help="Only cells whose image differs from that commit's, says git: by its rendered files, its "
    "lock, or imgbuild's own part.",
)
def command(file: Path | None, selector: str | None, shape: str, ref: str | None) -> None:
    """List combinations: those that can be built, those that cannot and why, those published.

    Without --matrix: every combination on its stack's own OS. A glob here picks among all
    combinations, also on other systems and unpublished.
    """
    project, loaded = options.open_matrix(file)
    rows = matrix.survey(loaded, selector)
    # Of a branch's first push GitHub says that there was 000... before: all is new.
    if ref is not None and not _NOTHING.fullmatch(ref):
        paths = changes.since(project, ref)
        rows = tuple(row for row in rows if row.cell and changes.touched(row.cell, paths))
    if shape == "github":
        include = [_job(row, row.cell) for row in rows if row.published and row.cell]
        click.echo(json.dumps({"include": include}))
    elif shape == "json":
        click.echo(json.dumps([_record(row) for row in rows], indent=2))
    else:
        _table(rows)


def _record(row: matrix.Row) -> dict[str, Any]:
    record: dict[str, Any] = {
        "cell": row.id,
        "stack": row.parts.stack,
        "framework": row.parts.framework,
        "gpu": row.parts.gpu,
        "os": row.cell.os_name if row.cell else row.parts.os,
        "published": row.published,
        "possible": row.cell is not None,
        "why": row.why or None,
    }
    if row.cell:
        record |= {
            "version": row.cell.release.version,
            "build": row.cell.build.name,
            "driver": row.cell.build.driver_floor,
            "serves_on_cpu": row.serves_on_cpu,
        }
    return record


def _job(row: matrix.Row, cell: Cell) -> dict[str, str]:
    """What one job needs; all text, since a workflow puts it into names and labels."""
    return {
        "cell": row.id,
        "stack": row.parts.stack,
        "framework": row.parts.framework,
        "gpu": row.parts.gpu or "",
        "accelerator": cell.stack.accelerator.value,
        "arch": cell.arch,
        "serves_on_cpu": json.dumps(row.serves_on_cpu),
    }


def _table(rows: tuple[matrix.Row, ...]) -> None:
    lines = [("", "CELL", "VERSION", "WHEELS", "DRIVER")]
    for row in rows:
        mark = "*" if row.published else ""
        if row.cell:
            build = row.cell.build
            driver = f">={build.driver_floor}" if build.driver_floor else "-"
            lines.append((mark, row.id, row.cell.release.version, build.name, driver))
        else:
            lines.append(("x", row.id, row.why, "", ""))
    fitting = [line for line in lines if line[0] != "x"]
    widths = [max(len(line[column]) for line in fitting) for column in range(4)]
    widths[1] = max(len(line[1]) for line in lines)
    for mark, name, version, build_name, driver in lines:
        if mark == "x":
            click.echo(f"x {name:<{widths[1]}}  {version}")
        else:
            text = f"{mark:<1} {name:<{widths[1]}}  {version:<{widths[2]}}"
            click.echo(f"{text}  {build_name:<{widths[3]}}  {driver}")
    possible = sum(row.cell is not None for row in rows)
    published = sum(row.published for row in rows)
    click.echo(f"{possible} possible (* {published} published), x {len(rows) - possible} excluded")

"""`imgbuild build`."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import click

from builder import engines, site, sizes
from builder.build import Builder, BuildResult, Options
from builder.cli import options
from builder.cli.progress import display
from builder.engines.apptainer import Apptainer
from builder.engines.base import Compression, Engine, LayoutWriter, Progress, Publisher
from builder.engines.buildkit import BuildKit
from builder.errors import UserError
from builder.model import BaseKind
from builder.prepare import Workbench
from builder.project import Project
from builder.sizes import Sizes


@click.command("build")
@options.file
@options.select
@options.engine("auto", *engines.ENGINES)
@click.option(
    "--base",
    type=click.Choice(["auto", *(kind.value for kind in BaseKind)]),
    default="auto",
    show_default=True,
    help="Where base images come from; auto bootstraps one where no registry answers.",
)
@click.option(
    "--tag", "tags", multiple=True, metavar="T", help="One more tag, or NAME:TAG. Repeatable."
)
@click.option("--force", is_flag=True, help="Build also what is there unchanged.")
@click.option("--refresh-base", is_flag=True, help="Pull or bootstrap the base anew.")
@click.option("--cache-from", metavar="SPEC", help="BuildKit's cache to use; docker only.")
@click.option(
    "--cache-to",
    metavar="SPEC",
    help="BuildKit's cache to fill, as type=registry,ref=...,mode=max; docker only.",
)
@click.option(
    "--record-sizes",
    is_flag=True,
    help="Write what images weigh to images/sizes/, compressed with zstd 7; not for SIFs.",
)
@options.sif_folder
@options.as_json
def command(
    file: Path | None,
    selector: str | None,
    engine: str,
    base: str,
    tags: tuple[str, ...],
    *,
    cache_from: str | None,
    cache_to: str | None,
    output: Path,
    force: bool,
    refresh_base: bool,
    record_sizes: bool,
    as_json: bool,
) -> None:
    """Build cells, those first that stand first in matrix.yaml; the unchanged are left alone.

    Mirrors, proxies, CA and wheel folders of this site are found from pip's, uv's, apt's and TLS
    settings and used while building only. Exit codes: 1 a build failed or
    an image is more than 2 % over its budget, 2 a mistake in what was
    asked, 130 interrupted.
    """
    project, loaded, cells = options.load(file, selector)
    if tags and engine == Apptainer.name:
        raise UserError("--tag: a SIF has no tags, its name is its file's", hint="see --output")
    for tag in tags:
        _check_tag(tag)
    if tags and len(cells) > 1:
        raise UserError(
            f"--tag: {len(cells)} cells cannot bear one tag", hint="say with --matrix which one"
        )
    chosen = engines.choose(engine, output)
    _refuse_caches(chosen, cache_from, cache_to)
    builder = Builder(Workbench(project, loaded), chosen, site.discover())
    wanted = Options(
        base=None if base == "auto" else BaseKind(base),
        extra_tags=tags,
        force=force,
        refresh_base=refresh_base,
        cache_from=cache_from,
        cache_to=cache_to,
    )
    results = []
    for cell in cells:
        with display(cell.id) as shown:
            progress = Progress(step=shown.step, line=shown.line)
            result = builder.build(cell, wanted, progress)
            results.append(result)
            budget = loaded.budget(cell.id)
            measured = None
            if record_sizes or (budget and _weighs(chosen)):
                measured = sizes.measure(cell, chosen, result.image, progress)
        if not as_json:
            click.echo(_told(result))
        if measured:
            _weigh(cell.id, measured, budget, project, record=record_sizes)
        elif budget:
            options.say(f"{cell.id}: budget not checked: {chosen.name} makes no zstd layers here")
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(result) for result in results], indent=2))


def _refuse_caches(engine: Engine, *caches: object) -> None:
    if any(caches) and engine.name != BuildKit.name:
        raise UserError(f"--cache-from and --cache-to are BuildKit's, not {engine.name}'s")


def _weighs(engine: Engine) -> bool:
    """Whether an engine can say what a registry would hold: a SIF and Docker's old store cannot."""
    if not isinstance(engine, LayoutWriter) or not isinstance(engine, Publisher):
        return False
    return Compression.ZSTD in engine.compressions()


def _weigh(
    cell_id: str, measured: Sizes, budget: int | None, project: Project, *, record: bool
) -> None:
    """Say what an image weighs, and what changed; raises BuildError for one over its budget."""
    file = project.sizes(cell_id)
    recorded = Sizes.read(file)
    for line in sizes.table(measured, recorded) if recorded else ():
        options.say(line)
    options.say(sizes.check(cell_id, measured, budget, recorded))
    if record:
        measured.write(file)


# https://pkg.go.dev/github.com/distribution/reference: [host[:port]/]path:tag
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9][A-Za-z0-9.-]*(?::\d{1,5})?"
_TAG = re.compile(rf"(?:(?:{_HOST}/)?{_PART}(?:/{_PART})*:)?[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}")


def _check_tag(tag: str) -> None:
    if not _TAG.fullmatch(tag):
        raise UserError(f"--tag: {tag!r} is no tag", hint="give T or NAME:T")
    if tag.rpartition(":")[2] == "latest":
        raise UserError("--tag: latest names another image every week", hint="give a version")


def _told(result: BuildResult) -> str:
    if not result.changed:
        return (
            f"{result.cell_id}: unchanged, {result.references[0]} is up to date ({result.content})"
        )
    size = result.image.size / 1e9
    return (
        f"{result.cell_id}: built {', '.join(result.references)} on a {result.base} base, "
        f"{size:.2f} GB, in {result.seconds:.0f} s"
    )

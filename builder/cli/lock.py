"""`imgbuild lock`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from builder import bases, lock, site
from builder.cli import options
from builder.cli.progress import display
from builder.errors import BuildError, ImgbuildError, UserError
from builder.model import Cell, Closure
from builder.project import Project
from builder.registry import Asking


@click.command("lock")
@options.file
@options.select
@click.option("--check", is_flag=True, help="Ask nobody; exit 1 if a lock is missing or stale.")
@click.option(
    "--bases",
    "base_images",
    is_flag=True,
    help="Lock the base images instead: ask registries which digest each tag has.",
)
def command(file: Path | None, selector: str | None, *, check: bool, base_images: bool) -> None:
    """Resolve the wheels of each cell with uv and write images/locks/, pinned and hashed.

    Rendering and building never resolve: what a lock names is what is installed.
    """
    if check and base_images:
        raise UserError("--check asks nobody, --bases asks registries", hint="give one of them")
    project, matrix, cells = options.load(file, selector)
    if base_images:
        _lock_bases(project, cells, everything=selector is None)
        return
    closures = _closures(cells)
    if check:
        problems = lock.check(project, matrix, closures, orphans=selector is None)
        problems += (wrong := bases.check(project, cells, orphans=selector is None))
        for line in [] if wrong else bases.unpinned(cells, bases.read(project)):
            click.echo(line, err=True)
        for problem in problems:
            click.echo(problem)
        if problems:
            raise ImgbuildError(
                "the locks are not what matrix.yaml asks", hint="run `imgbuild lock`"
            )
        options.say(f"locks: {len(closures)} closures of {len(cells)} cells are up to date")
        return
    profile = site.discover()
    for closure in closures:
        with display(closure.id) as shown, _local_wheels(profile, closure) as (folder, pins):
            shown.step("resolving")
            env = profile.host_env(closure.build.index, pins, _fit(closure), folder)
            files = lock.resolve(matrix, closure, env, profile.redact)
        changed = lock.write(project.locks, closure.id, files)
        click.echo(f"{closure.id}: {'written' if changed else 'unchanged'}")
    if not closures:
        options.say("lock: nothing to do: these cells are upstream's images")
        return
    env = profile.host_env(None, {}, _fit(closures[0]))
    tools = lock.resolve_tools(matrix, env, profile.redact)
    lock.write_tools(project.locks, tools)


def _lock_bases(project: Project, cells: tuple[Cell, ...], *, everything: bool) -> None:
    """Pin what registries tell; a base that none tells of keeps the pin that it has."""
    profile = site.discover()
    asking = Asking(profile.copies, ca=profile.ca)
    before = bases.read(project)
    wanted = bases.tagged(cells)
    pins = {name: d for name, d in before.items() if name in wanted or not everything}
    failed = 0
    for reference in wanted:
        try:
            with display(reference) as shown:
                shown.step("asking")
                digest = asking.digest(reference)
        except BuildError as error:
            failed += 1
            click.echo(f"{reference}: {error.redacted(profile.redact)}", err=True)
            continue
        pins[reference] = digest
        was = before.get(reference)
        moved = f", was {was}" if was and was != digest else ""
        click.echo(f"{reference}: {'unchanged' if was == digest else 'pinned'} {digest}{moved}")
    if pins or before:
        bases.write(project, pins)
    for line in bases.unpinned(cells, pins):
        click.echo(line, err=True)
    if not wanted:
        options.say("lock: nothing to do: matrix.yaml itself pins the bases of these cells")
    elif failed == len(wanted):
        raise ImgbuildError("no registry could be asked for any base", hint="no pin has changed")


@contextmanager
def _local_wheels(
    profile: site.SiteProfile, closure: Closure
) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with the site's own wheels of what only a special index has, and those pins."""
    index = closure.build.index
    exact = (wanted.partition("==") for wanted in closure.build.requirements)
    pins = {
        name: version for name, _, version in exact if index and version and name in index.packages
    }
    with tempfile.TemporaryDirectory(prefix="imgbuild-lock-") as scratch:
        for wheel in profile.wheels(pins, _fit(closure)):
            (Path(scratch) / wheel.name).symlink_to(wheel.resolve())
        yield Path(scratch), pins


def _fit(closure: Closure) -> site.Fit:
    return site.Fit(python=closure.python, glibc=closure.glibc, machine=closure.machine)


def _closures(cells: tuple[Cell, ...]) -> list[Closure]:
    """Each closure once, for every kind of base that the cells may stand on."""
    found = {}
    for cell in cells:
        for kind in cell.kinds:
            if closure := cell.closure(kind):
                found[closure.id] = closure
    return list(found.values())

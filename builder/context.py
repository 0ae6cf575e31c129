"""One image's build context: exactly the files that its recipe needs, and the site's secret."""

from __future__ import annotations

import datetime
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder import __version__, lock
from builder.engines.base import CONTENT_LABEL, Base, BuildRequest
from builder.errors import BuildError, UserError
from builder.model import Cell, Manifest
from builder.prepare import MANIFESTS, Prepared, Workbench
from builder.site import Fit, SiteProfile, pin_set, secret

_LAST_SECOND = 253402300799  # of the year 9999, the last that dates can be written of


@contextmanager
def staged(
    bench: Workbench, prepared: Prepared, base: Base, site: SiteProfile, site_folder: str
) -> Iterator[BuildRequest]:
    """Put the context in a temporary folder, which is gone afterwards.

    `site_folder` is where the engine keeps the site's files during a step.
    """
    folder = Path(tempfile.mkdtemp(prefix="imgbuild-"))
    try:
        files, private = folder / "context", folder / "site"
        private.mkdir(mode=0o700)
        complete = _stage(bench, prepared, site, files)
        secret.write(site, prepared.recipe, private / "site", site_folder, complete=complete)
        when = epoch(prepared.recipe.cell)
        yield BuildRequest(
            naming=prepared.naming,
            context=files,
            base=base,
            labels=_labels(prepared, base, when),
            secret=private / "site",
            epoch=when,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stage(bench: Workbench, prepared: Prepared, site: SiteProfile, target: Path) -> bool:
    """Fill the context; says whether every wheel of the recipe is in it."""
    recipe, project = prepared.recipe, bench.project
    locks = target / "images" / "locks"
    wheels = target / "images" / "wheels"
    for folder in (locks / recipe.lock.closure_id, wheels):
        folder.mkdir(parents=True)
    for name, text in prepared.rendered.files.items():
        (target / name).write_text(text, encoding="utf-8")
    _own_parts(bench, prepared, target)
    if not recipe.lock.layers:
        return True
    shutil.copyfile(lock.tools_path(project), locks / lock.TOOLS)
    for layer in recipe.lock.layers:
        (locks / layer.path).write_text(layer.text, encoding="utf-8")
    wanted, fit = recipe.lock.pins | lock.tools_pins(project), Fit.of(recipe)
    dropped = sorted(project.wheels.glob("*.whl")) if project.wheels.is_dir() else []
    for wheel in (*site.wheels(wanted, fit), *dropped):
        _link(wheel, wheels / wheel.name)
    when = epoch(recipe.cell)
    for path in sorted(target.rglob("*")):
        if path.parent != wheels:  # those may be links to the site's own files
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, (when, when))
    return fit.pins(wheels.iterdir()) >= pin_set(wanted)


def _own_parts(bench: Workbench, prepared: Prepared, target: Path) -> None:
    """What is imgbuild's own in the image."""
    (target / "images" / MANIFESTS).mkdir()
    for step in prepared.recipe.layers[-1].steps:
        if isinstance(step, Manifest):
            file = target / "images" / MANIFESTS / step.source
            file.write_text(prepared.manifest, encoding="utf-8")
    for file in bench.own_files(prepared.recipe):
        copy = target / "builder" / file.relative_to(bench.project.runtime.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def _labels(prepared: Prepared, base: Base, when: int) -> dict[str, str]:
    """Labels that only a build knows."""
    created = datetime.datetime.fromtimestamp(when, datetime.UTC)
    labels = {
        "org.opencontainers.image.created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "org.opencontainers.image.base.name": base.name,
        "org.opencontainers.image.base.digest": base.digest,
        CONTENT_LABEL: prepared.naming.content,
        "io.imgbuild.base": base.kind,
        "io.imgbuild.version": __version__,
    }
    return {name: value for name, value in labels.items() if value}


def epoch(cell: Cell) -> int:
    """Seconds: SOURCE_DATE_EPOCH, or the day that the cell's packages were taken from."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        if not (given.isascii() and given.isdigit() and int(given) <= _LAST_SECOND):
            raise UserError(f"SOURCE_DATE_EPOCH is {given!r}, not a number of seconds")
        return int(given)
    day = cell.build.date
    return int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())


def _link(source: Path, target: Path) -> None:
    """A hard link where the file systems allow it: wheels are large."""
    if target.exists():
        return
    try:
        os.link(source.resolve(), target)  # a link to a link would dangle inside
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as error:  # it names the source, which is the site's own
            raise BuildError(f"cannot copy a wheel to {target.parent}: {error.strerror}") from None

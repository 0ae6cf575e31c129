"""Cell -> image: find what is there already, get a base, stage the files, let an engine build.

An image's content tag tells whether it is what would be built, so an unchanged cell costs nothing.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder import __version__, lock
from builder.engines.base import CONTENT_LABEL, Archive, Base, BuildRequest, Engine, Image
from builder.engines.bootstrap import bootstrap
from builder.engines.host import state_dir
from builder.errors import BuildError, UserError
from builder.model import BaseKind, Cell, Recipe
from builder.prepare import Prepared, Workbench
from builder.site import SiteProfile, secret
from builder.site.profile import pin_set, wheel_pins

LINE_WIDTH = 240  # of a log line that a failure shows: engines print whole RUN instructions
LOG_TAIL = 20  # lines of the engine's log that a failure shows


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user chose for a build."""

    base: BaseKind | None = None  # None: a registry's where one answers, else bootstrapped
    extra_tags: tuple[str, ...] = ()
    force: bool = False
    refresh_base: bool = False


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """An image that is there now."""

    cell_id: str
    image: Image
    references: tuple[str, ...]
    content: str
    base: str
    changed: bool
    seconds: float


@dataclass(frozen=True)
class Progress:
    """Where a build reports to: the step that begins, and every line of the engine's log."""

    step: Callable[[str], None]
    line: Callable[[str], None]


class Builder:
    """Builds cells of one workbench with one engine."""

    def __init__(self, bench: Workbench, engine: Engine, site: SiteProfile) -> None:
        self._bench = bench
        self._engine = engine
        self._site = site

    def build(self, cell: Cell, options: Options, progress: Progress) -> BuildResult:
        """Build one cell, or find that it needs none.

        Raises BuildError, redacted, with the failing step and the end of the log; the whole log is
        kept.
        """
        try:
            return self._build(cell, options, progress)
        except BuildError as error:
            told = error.redacted(self._site.redact)
            # Cut after redaction: half a host name would pass it.
            tail = [line[:LINE_WIDTH] for line in told.tail[-LOG_TAIL:]]
            raise BuildError(told.what, tail=tail, hint=told.hint) from None

    def _build(self, cell: Cell, options: Options, progress: Progress) -> BuildResult:
        start = time.monotonic()
        kinds = (options.base,) if options.base else (BaseKind.REGISTRY, BaseKind.BOOTSTRAP)
        prepared = [
            self._bench.prepare(cell, kind, file=self._engine.file, tags=options.extra_tags)
            for kind in kinds
        ]
        if not (options.force or options.refresh_base):
            for found in prepared:
                if image := self._engine.find(found.naming):
                    return self._result(found, image, start, changed=False)
        with self._log(cell, progress) as (logged, file):
            base, chosen = self._base(prepared, options, logged)
            steps = _Steps(chosen.recipe, logged)
            try:
                with self._staged(chosen, base) as request:
                    logged.step("starting")
                    image = self._engine.build(request, steps.line)
            except BuildError as error:
                raise BuildError(
                    f"{cell.id}: step {steps.current!r} failed: {error.what}",
                    tail=error.tail,
                    hint=f"the whole log: {file}",
                ) from None
        return self._result(chosen, image, start, changed=True)

    def _base(
        self,
        prepared: Iterable[Prepared],
        options: Options,
        progress: Progress,
    ) -> tuple[Base, Prepared]:
        """The first base that can be had, in the order of `prepared`."""
        reasons = []
        for candidate in prepared:
            recipe = candidate.recipe
            try:
                if recipe.kind is BaseKind.REGISTRY:
                    progress.step(f"base {recipe.base}")
                    base = self._engine.pull(recipe.base, refresh=options.refresh_base)
                else:
                    base = self._engine.load(self._archive(recipe, options, progress))
            except BuildError as error:
                progress.line(f"no {recipe.kind} base: {error}")
                # An engine's complaint is long; its last line says why.
                said = error.tail[-1] if error.tail else error.what
                reasons.append(f"{recipe.kind}: {said.rpartition('msg=')[2][-200:]}")
                continue
            return base, candidate
        raise BuildError("no base image can be had", hint="; ".join(reasons))

    def _archive(self, recipe: Recipe, options: Options, progress: Progress) -> Archive:
        progress.step(f"bootstrapping {recipe.os.title}")
        return bootstrap(
            recipe.os_name,
            recipe.os,
            self._site,
            progress.line,
            epoch=_epoch(recipe.cell),
            refresh=options.refresh_base,
        )

    @contextmanager
    def _staged(self, prepared: Prepared, base: Base) -> Iterator[BuildRequest]:
        """A build context with exactly what the recipe needs, gone afterwards."""
        recipe, project = prepared.recipe, self._bench.project
        folder = Path(tempfile.mkdtemp(prefix="imgbuild-"))
        try:
            context, private = folder / "context", folder / "site"
            context.mkdir()
            private.mkdir(mode=0o700)
            for name, text in prepared.rendered.files.items():
                (context / name).write_text(text, encoding="utf-8")
            runtime = context / "builder" / "runtime"
            runtime.mkdir(parents=True)
            for file in self._bench.runtime_files():
                shutil.copyfile(file, runtime / file.name)
            locks = context / "images" / "locks"
            (locks / recipe.lock.closure_id).mkdir(parents=True)
            shutil.copyfile(lock.tools_path(project), locks / lock.TOOLS)
            for layer in recipe.lock.layers:
                (locks / layer.path).write_text(layer.text, encoding="utf-8")
            wheels = context / "images" / "wheels"
            wheels.mkdir()
            wanted = recipe.lock.pins | lock.tools_pins(project)
            for wheel in self._wheels(wanted):
                _link(wheel, wheels / wheel.name)
            complete = wheel_pins(wheels.iterdir()) >= pin_set(wanted)
            epoch = _epoch(recipe.cell)
            for path in sorted(context.rglob("*")):
                if path.parent != wheels:  # those may be links to the site's own files
                    path.chmod(0o755 if path.is_dir() else 0o644)
                    os.utime(path, (epoch, epoch))
            secret.write(
                self._site,
                recipe,
                private / "site",
                self._engine.site_folder,
                complete=complete,
            )
            yield BuildRequest(
                naming=prepared.naming,
                context=context,
                base=base,
                labels=self._labels(prepared, base, epoch),
                secret=private / "site",
                epoch=epoch,
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _wheels(self, pins: Mapping[str, str]) -> Iterator[Path]:
        """Local wheels of these pins: the site's, and those dropped into images/wheels."""
        yield from self._site.wheels(pins)
        if self._bench.project.wheels.is_dir():
            yield from sorted(self._bench.project.wheels.glob("*.whl"))

    def _labels(self, prepared: Prepared, base: Base, epoch: int) -> dict[str, str]:
        created = datetime.datetime.fromtimestamp(epoch, datetime.UTC)
        labels = {
            "org.opencontainers.image.created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "org.opencontainers.image.base.name": base.name,
            "org.opencontainers.image.base.digest": base.digest,
            CONTENT_LABEL: prepared.naming.content,
            "io.imgbuild.base": base.kind,
            "io.imgbuild.version": __version__,
        }
        return {name: value for name, value in labels.items() if value}

    def _result(
        self, prepared: Prepared, image: Image, start: float, *, changed: bool
    ) -> BuildResult:
        return BuildResult(
            cell_id=prepared.recipe.cell.id,
            image=image,
            references=self._engine.tag(image, prepared.naming),
            content=prepared.naming.content,
            base=prepared.recipe.kind,
            changed=changed,
            seconds=round(time.monotonic() - start, 2),
        )

    @contextmanager
    def _log(self, cell: Cell, progress: Progress) -> Iterator[tuple[Progress, Path]]:
        """`progress`, redacted and also written to this build's log file."""
        folder = state_dir() / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{cell.id}-{self._engine.name}.log"
        with file.open("w", encoding="utf-8", buffering=1) as output:

            def line(text: str) -> None:
                text = self._site.redact(text)
                output.write(text + "\n")
                progress.line(text)

            def step(name: str) -> None:
                output.write(f"== {name}\n")
                progress.step(name)

            yield Progress(step=step, line=line), file


class _Steps:
    """Recognises in an engine's log which layer it is at, by the lock that the layer mounts."""

    _BEGINS = re.compile(r"\b(RUN|COPY|imgbuild: layer)\b")

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self.current = "starting"
        self._progress = progress
        self._marks = {layer.path: layer.name for layer in recipe.lock.layers}
        self._marks |= {f"layer {layer.name}": layer.name for layer in recipe.layers}
        self._marks |= {"locks/tools.txt": "tools", "useradd": "os", "COPY builder/": "runtime"}

    def line(self, text: str) -> None:
        if self._BEGINS.search(text):
            for mark, name in self._marks.items():
                if mark in text and name != self.current:
                    self.current = name
                    self._progress.step(f"layer {name}")
                    break
        self._progress.line(text)


def _epoch(cell: Cell) -> int:
    """Seconds: SOURCE_DATE_EPOCH, or the day that the cell's packages were taken from."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        if not given.isdigit():
            raise UserError(f"SOURCE_DATE_EPOCH is {given!r}, not a number of seconds")
        return int(given)
    day = cell.build.exclude_newer
    return int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())


def _link(source: Path, target: Path) -> None:
    """A hard link where the file systems allow it: wheels are large."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

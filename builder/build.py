"""Cell -> image: find what is there already, get a base, let an engine build on it.

An image's content tag tells whether it is what would be built, so an unchanged cell costs nothing.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder import context
from builder.copies import fetch
from builder.engines.base import Archive, Base, Engine, Image, Progress
from builder.engines.bootstrap import bootstrap
from builder.engines.host import machine, state_dir
from builder.errors import BuildError, UserError
from builder.model import BaseKind, Cell, Recipe
from builder.prepare import Prepared, Workbench
from builder.site import SiteProfile

LINE_WIDTH = 240  # of a log line that a failure shows: engines print whole RUN instructions
GIST_WIDTH = 200
LOG_TAIL = 20  # lines of the engine's log that a failure shows


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user chose for a build."""

    base: BaseKind | None = None  # None: a registry's where one answers, else bootstrapped
    extra_tags: tuple[str, ...] = ()
    force: bool = False
    refresh_base: bool = False
    cache_from: str | None = None
    cache_to: str | None = None


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
        if cell.arch != (here := machine()):
            raise UserError(
                f"{cell.id} is for {cell.arch} CPUs; this machine has {here}",
                hint=f"build it on an {cell.arch} machine; `imgbuild render` works anywhere",
            )
        kinds = (options.base,) if options.base else cell.kinds
        prepared = [
            self._bench.prepare(cell, kind, file=self._engine.file, tags=options.extra_tags)
            for kind in kinds
        ]
        if not (options.force or options.refresh_base):
            for found in prepared:
                if image := self._engine.find(found.naming):
                    return self._result(found, image, start, changed=False)
        with self._log(cell, progress) as (logged, file):
            steps = _Steps(logged)
            try:
                base, chosen = self._base(prepared, options, steps)
                with context.staged(
                    self._bench, chosen, base, self._site, self._engine.site_folder
                ) as request:
                    steps.begin("starting")
                    steps.expect(chosen.recipe)
                    cached = dataclasses.replace(
                        request, cache_from=options.cache_from, cache_to=options.cache_to
                    )
                    image = self._engine.build(cached, steps.line)
            except BuildError as error:
                raise BuildError(
                    f"{cell.id}: step {steps.current!r} failed: {error.what}",
                    tail=error.tail,
                    hint="; ".join(filter(None, (error.hint, f"the whole log: {file}"))),
                ) from None
        return self._result(chosen, image, start, changed=True)

    def _base(
        self, prepared: Iterable[Prepared], options: Options, steps: _Steps
    ) -> tuple[Base, Prepared]:
        """The first base that can be had, in the order of `prepared`."""
        reasons: list[str] = []
        tail: list[str] = []
        hints: list[str] = []
        for candidate in prepared:
            recipe = candidate.recipe
            try:
                if recipe.kind is BaseKind.REGISTRY:
                    steps.begin(f"base {recipe.base}")
                    base = self._pulled(recipe, options, steps)
                    # For people the tag; and the digest that was asked for, since an engine may
                    # tell that of one platform's image.
                    digest = recipe.base_digest or base.digest
                    base = dataclasses.replace(base, name=recipe.base, digest=digest)
                else:
                    base = self._engine.load(self._archive(recipe, options, steps))
            except BuildError as error:
                told = error.redacted(self._site.redact)
                steps.line(f"no {recipe.kind} base: {told}")
                reasons.append(f"{recipe.kind}: {_gist(told)}")
                tail += told.tail
                hints.append(told.hint)
                continue
            return base, candidate
        what = f"no base image can be had ({'; '.join(reasons)})"
        raise BuildError(what, tail=tail, hint="; ".join(filter(None, hints)))

    def _pulled(self, recipe: Recipe, options: Options, steps: _Steps) -> Base:
        reference, copies = recipe.pinned_base, self._site.copies(recipe.pinned_base)
        if copies and self._engine.wants_archives:
            progress = Progress(step=steps.begin, line=steps.line)
            if archive := fetch(reference, copies, self._site.ca, progress):
                return dataclasses.replace(self._engine.load(archive), kind=recipe.kind)
        return self._engine.pull(reference, refresh=options.refresh_base, copies=copies)

    def _archive(self, recipe: Recipe, options: Options, steps: _Steps) -> Archive:
        steps.begin(f"bootstrapping {recipe.os.title}")
        return bootstrap(
            recipe.os_name,
            recipe.os,
            self._site,
            steps.line,
            epoch=context.epoch(recipe.cell),
            refresh=options.refresh_base,
        )

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
    """Where a build is. In an engine's log a layer is recognised by the lock that it mounts."""

    _BEGINS = re.compile(r"\b(RUN|COPY|imgbuild: layer)\b")

    def __init__(self, progress: Progress) -> None:
        self.current = "starting"
        self._progress = progress
        self._marks: dict[str, str] = {}

    def begin(self, name: str) -> None:
        self.current = name
        self._progress.step(name)

    def expect(self, recipe: Recipe) -> None:
        """From now on lines come from an engine that builds this recipe."""
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


def _gist(error: BuildError) -> str:
    """Why, in a few words: an engine's complaint is long, and its last line says it."""
    said = error.tail[-1] if error.tail else error.what
    return said.rpartition("msg=")[2][-GIST_WIDTH:]

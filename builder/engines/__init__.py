"""Engines behind one Protocol, by name. To add one: its module, and one line here."""

from __future__ import annotations

from builder.engines.apptainer import Apptainer
from builder.engines.base import Engine, Image, Naming
from builder.engines.buildah import Buildah
from builder.engines.buildkit import BuildKit
from builder.errors import UserError, nearest

ENGINES: dict[str, type[Engine]] = {
    BuildKit.name: BuildKit,
    Buildah.name: Buildah,
    Apptainer.name: Apptainer,
}
# What `auto` tries, in order; a SIF is made only when asked for.
_AUTO = (BuildKit.name, Buildah.name)


def choose(name: str = "auto") -> Engine:
    """The engine of that name, or the first of `auto` that works; raises UserError with why not."""
    if name != "auto" and name not in ENGINES:
        raise UserError(f"unknown engine {name!r}", hint=nearest(name, [*ENGINES, "auto"]))
    problems = []
    for candidate in _AUTO if name == "auto" else (name,):
        engine = ENGINES[candidate]()
        problem = engine.problem()
        if problem is None:
            return engine
        problems.append(f"{candidate}: {problem}")
    raise UserError(
        f"no engine can be used ({'; '.join(problems)})",
        hint="`imgbuild doctor` says what to install" if name == "auto" else "try `--engine auto`",
    )


def require(engine: Engine) -> None:
    """Raise UserError when an engine cannot be used here."""
    if problem := engine.problem():
        raise UserError(f"{engine.name}: {problem}", hint="`imgbuild doctor` says what to install")


def built(name: str, namings: tuple[Naming, ...]) -> tuple[Engine, Image, Naming]:
    """The engine that holds an image with one of these contents; raises UserError if none does."""
    stale = ""
    for candidate in _AUTO if name == "auto" else (name,):
        engine = ENGINES[candidate]()
        if engine.problem():
            continue
        for naming in namings:
            if image := engine.find(naming):
                return engine, image, naming
        if old := engine.latest(namings[0]):
            stale = f"; {old.reference} was built from something else"
    cell = namings[0].cell_id
    where = "any engine" if name == "auto" else name
    raise UserError(
        f"{cell} is not built with {where}{stale}", hint=f"run `imgbuild build --matrix {cell}`"
    )


__all__ = ["ENGINES", "Engine", "built", "choose", "require"]

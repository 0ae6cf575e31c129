"""Engines behind one Protocol, by name. To add one: its module, and one line here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builder.engines.apptainer import Apptainer
from builder.engines.base import Engine, Image, Publisher
from builder.engines.buildah import Buildah
from builder.engines.buildkit import BuildKit
from builder.errors import BuildError, UserError, nearest
from builder.naming import Naming
from builder.project import SIF_FOLDER

ENGINES: dict[str, type[Engine]] = {
    BuildKit.name: BuildKit,
    Buildah.name: Buildah,
    Apptainer.name: Apptainer,
}
# What `auto` tries, in order; a SIF is made only when asked for.
_AUTO = (BuildKit.name, Buildah.name)


def choose(name: str = "auto", sifs: Path = SIF_FOLDER) -> Engine:
    """The engine of that name, or the first of `auto` that works; raises UserError with why not."""
    return next(usable(name, sifs))


def require(engine: Engine) -> None:
    """Raise UserError when an engine cannot be used here."""
    if problem := engine.problem():
        raise UserError(f"{engine.name}: {problem}", hint="`imgbuild doctor` says what to install")


def built(
    name: str, namings: tuple[Naming, ...], sifs: Path = SIF_FOLDER
) -> tuple[Engine, Image, Naming]:
    """The engine that holds an image with one of these contents; raises UserError if none does."""
    stale = ""
    for engine in usable(name, sifs):
        for naming in namings:
            if image := engine.find(naming):
                return engine, image, naming
        if old := engine.latest(namings[0]):
            stale = f"; {old.reference} was built from something else"
    cell = namings[0].cell_id
    where, how = ("any engine", "") if name == "auto" else (name, f" --engine {name}")
    raise UserError(
        f"{cell} is not built with {where}{stale}",
        hint=f"run `imgbuild build --matrix {cell}{how}`",
    )


def holds(engine: Engine, image: str) -> bool:
    """Whether an engine has an image of that name already; nothing is fetched."""
    if isinstance(engine, Publisher):
        try:
            engine.names(Image(reference=image, size=0))
        except (BuildError, OSError):  # Docker's own "not found" is an OSError
            return False
        return True
    return "://" in image or Path(image).exists()


def usable(name: str, sifs: Path) -> Iterator[Engine]:
    """The engines of `name` that work here, one by one; raises UserError when there is none."""
    if name != "auto" and name not in ENGINES:
        raise UserError(f"unknown engine {name!r}", hint=nearest(name, [*ENGINES, "auto"]))
    problems, names = [], _AUTO if name == "auto" else (name,)
    for candidate in names:
        engine = Apptainer(sifs) if candidate == Apptainer.name else ENGINES[candidate]()
        if problem := engine.problem():
            problems.append(f"{candidate}: {problem}")
        else:
            yield engine
    if len(problems) == len(names):
        raise UserError(
            f"no engine can be used ({'; '.join(problems)})",
            hint="`imgbuild doctor` says what to install",
        )


__all__ = ["ENGINES", "Engine", "built", "choose", "holds", "require", "usable"]

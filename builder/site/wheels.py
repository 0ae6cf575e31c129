"""Which wheel files install where, by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from builder.facts import MACHINES
from builder.model import Recipe

Pin = tuple[str, str]
# glibc minor versions whose manylinux tags have names of their own (PEP 513, 571, 599).
_LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A Python ("3.11") on a Linux with a glibc ("2.36"), on a CPU as wheels name it."""

    python: str
    glibc: str
    machine: str = "x86_64"

    @classmethod
    def of(cls, recipe: Recipe) -> Fit:
        """What the image of a recipe takes."""
        os, machine = recipe.os, MACHINES[recipe.cell.arch]
        return cls(python=os.python, glibc=os.glibc, machine=machine)

    @cached_property
    def _tags(self) -> frozenset[Tag]:
        python = tuple(int(part) for part in self.python.split(".")[:2])
        platforms = [f"linux_{self.machine}"]
        for minor in range(int(self.glibc.split(".")[1]), 4, -1):
            platforms.append(f"manylinux_2_{minor}_{self.machine}")
            platforms += [f"{_LEGACY[minor]}_{self.machine}"] if minor in _LEGACY else []
        interpreter = "cp" + "".join(map(str, python))
        return frozenset(
            [
                *cpython_tags(python, platforms=platforms),
                *compatible_tags(python, interpreter, platforms=platforms),
            ]
        )

    def pins(self, files: Iterable[Path]) -> set[Pin]:
        """Name and version of each wheel among `files` that installs here."""
        found: set[Pin] = set()
        for file in files:
            try:
                name, version, _, tags = parse_wheel_filename(file.name)
            except InvalidWheelFilename:
                continue
            if tags & self._tags:
                found.add((name, str(version)))
        return found


def pin_set(pins: Mapping[str, str]) -> set[Pin]:
    """Pins (name -> version) as `Fit.pins` spells them."""
    return {(canonicalize_name(name), version) for name, version in pins.items()}

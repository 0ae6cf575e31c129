"""images/locks/bases.txt: which digest the tag of each base image had when a registry was asked.

A line is REFERENCE@sha256:..., with the tag that matrix.yaml names. Nothing here asks anybody.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from builder.errors import Place, UserError, text_of
from builder.model import Cell, digest_of_pins, seal_of
from builder.project import Project

FILE = "bases.txt"
_PIN = re.compile(r"(\S+)@(sha256:[0-9a-f]{64})")
_HINT = "run `imgbuild lock --bases`"
_AFRESH = f"undo that, or delete the file and {_HINT}"


def read(project: Project) -> dict[str, str]:
    """Reference with its tag -> digest; raises UserError for a file that nobody here wrote."""
    file = next((f for folder in project.lock_dirs if (f := folder / FILE).is_file()), None)
    if file is None:
        return {}
    text = text_of(file, _AFRESH)
    pins = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            continue
        pin = _PIN.fullmatch(line)
        if pin is None:
            raise UserError("is no REFERENCE@sha256:...", place=Place(file, number), hint=_AFRESH)
        pins[pin[1]] = pin[2]
    if seal_of(text) != digest_of_pins(text):
        raise UserError(
            "was changed by hand: its pins are not those that registries told",
            place=Place(file),
            hint=_AFRESH,
        )
    return pins


def write(project: Project, pins: Mapping[str, str]) -> bool:
    """Put the pins in place, whole or not at all; says whether anything changed."""
    lines = "".join(f"{reference}@{digest}\n" for reference, digest in sorted(pins.items()))
    text = (
        "# Base images, as registries served them. Written by `imgbuild lock --bases`; "
        f"do not edit.\n# pins: {digest_of_pins(lines)}\n{lines}"
    )
    file = project.locks / FILE
    if file.is_file() and file.read_bytes() == text.encode():
        return False
    project.locks.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{FILE}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)
    return True


def tagged(cells: Iterable[Cell]) -> dict[str, int]:
    """The bases that matrix.yaml names by tag -> how many of the cells stand on each."""
    counted = Counter(cell.registry_base for cell in cells)
    return {name: count for name, count in sorted(counted.items()) if "@" not in name}


def unpinned(cells: Iterable[Cell], pins: Mapping[str, str]) -> list[str]:
    """A line for each base whose content a registry may change under its tag."""
    return [
        f"unpinned: {name} (used by {count} cell{'' if count == 1 else 's'})"
        for name, count in tagged(cells).items()
        if name not in pins
    ]


def check(project: Project, cells: Iterable[Cell], *, orphans: bool = True) -> list[str]:
    """What is wrong with the committed pins; a base without one is not.

    Without `orphans`, pins of other cells are left out: `cells` are not all there are.
    """
    try:
        pins = read(project)
    except UserError as error:
        return [str(error)]
    own = (project.locks / FILE).is_file()
    unused = sorted(set(pins) - set(tagged(cells))) if own and orphans else []
    return [f"{project.locks / FILE}: no cell uses {name}; {_HINT}" for name in unused]

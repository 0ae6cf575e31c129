"""Caches that were filled while the image was built, copied to where this start has its own.

A seed is a folder `<name>.<digest>` below the folder that `caches` of manifest.json names: its
files go to `<name>` in that cache, once for each digest. Whoever reads them checks by himself
whether they are his, as vLLM does with a hash of the model's source; so that a cache which another
image has filled, too, is no concern.
"""

from __future__ import annotations

import os
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Mapping, Sequence

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "seeds")
_MARK = ".imgbuild-"


def plant(
    environment: Mapping[str, str], rows: Sequence[Dict[str, str]], source: str = FOLDER
) -> None:
    """Copy what the image has for these caches; what cannot be written is left to the server."""
    if not os.path.isdir(source):
        return
    for row in rows:
        place = environment.get(row["variable"])
        folder = os.path.join(source, row["folder"])
        if place and os.path.isdir(folder):
            for seed in sorted(os.listdir(folder)):
                with suppress(OSError):
                    _plant(os.path.join(folder, seed), place)


def _plant(seed: str, place: str) -> None:
    name, _, digest = os.path.basename(seed).rpartition(".")
    target = os.path.join(place, name)
    mark = os.path.join(target, _MARK + digest)
    if os.path.exists(mark):
        return
    os.makedirs(target, exist_ok=True)
    for file in os.listdir(target):
        if file.startswith(_MARK):  # of another image, whose files are overwritten now
            os.unlink(os.path.join(target, file))
    for file in os.listdir(seed):
        _copy(os.path.join(seed, file), os.path.join(target, file))
    with open(mark, "x", encoding="utf-8"):
        pass


def _copy(file: str, target: str) -> None:
    """Whole or not at all: others may start from this cache at the same time."""
    aside = f"{target}.{os.getpid()}"
    try:
        with open(file, "rb") as source, open(aside, "xb") as out:
            out.write(source.read())
        os.replace(aside, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(aside)
        raise

"""Caches that were filled while the image was built, copied to where this start has its own.

A seed is a folder `<name>.<digest>` below the folder that `caches` of manifest.json names: its
files go to `<name>` in that cache, once for each digest. Whoever reads them checks by himself
whether they are his, as vLLM does with a hash of the model's source; so that a cache which another
image has filled, too, is no concern.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from .slim import aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Mapping, Sequence

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "seeds")
_MARK = ".imgbuild-"
_DIGITS = 12  # of a digest


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
    if not _marks(_MARK + digest) or name in {"", ".", ".."}:
        return  # no seed of ours
    target = os.path.join(place, name)
    mark = os.path.join(target, _MARK + digest)
    os.makedirs(place, exist_ok=True)
    with suppress(FileExistsError):
        os.mkdir(target)
    if not stat.S_ISDIR(os.lstat(target).st_mode):
        return  # a link leads to files that are not this cache's
    if os.path.lexists(mark):
        return
    for file in os.listdir(target):
        if _marks(file):  # of another image, whose files are overwritten now
            with suppress(FileNotFoundError):  # another start was first
                os.unlink(os.path.join(target, file))
    for file in os.listdir(seed):
        _copy(os.path.join(seed, file), os.path.join(target, file))
    with suppress(FileExistsError), open(mark, "x", encoding="utf-8"):
        pass


def _marks(name: str) -> bool:
    """Whether a file says which seed was copied."""
    digest = name[len(_MARK) :]
    return (
        name.startswith(_MARK) and len(digest) == _DIGITS and not digest.strip("0123456789abcdef")
    )


def _copy(file: str, target: str) -> None:
    """Whole or not at all: others may start from this cache at the same time."""
    with open(file, "rb") as source, aside.replacing(target) as out:
        out.write(source.read())

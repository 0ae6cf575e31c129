"""Folders of installed packages: what holds for these holds for no other file of a folder.

Such a one is named site-packages or dist-packages, or has `*.dist-info` folders, as what
`pip install --target` fills.
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, List, Tuple

_NAMES = ("site-packages", "dist-packages")
_UP = "../../../"  # from an environment's folder of packages to its root
_ROOT = re.compile(r"^(.+)/lib(?:64)?/python3[^/]*/(?:site|dist)-packages$")


class Sites:
    """Those that are above a path, at it, or below it; asked by files' absolute, normal names.

    It is asked for each file of an image, so that it takes names apart as text.
    """

    def __init__(self, path: str) -> None:
        path = os.path.abspath(path)
        above = _above(path)
        self.all: List[str] = [above] if above else []
        if os.path.isdir(path):
            self.all += _below(path, os.stat(path).st_dev, inside=bool(above))
        # Environments, which packages bring programs and data to.
        self._roots = {found.group(1) for found in map(_ROOT.match, self.all) if found}
        self._of: Dict[str, str] = {site.rstrip("/"): site for site in self.all}

    def of(self, name: str) -> str:
        """The one that a file is in, "" if it is in none."""
        return self._nearest(name.rpartition("/")[0])

    def place(self, name: str) -> Tuple[str, str]:
        """Where rules start from for a file, and its place as a RECORD tells it; empty if none do.

        A package's files outside of its folder are told as `../../../bin/z3`.
        """
        folder = name.rpartition("/")[0]
        site = self._nearest(folder)
        if site:
            return site, name[len(site.rstrip("/")) + 1 :]
        root = folder
        while root and root not in self._roots:
            root = root.rpartition("/")[0]
        return (root, _UP + name[len(root) + 1 :]) if root else ("", "")

    def _nearest(self, folder: str) -> str:
        if folder not in self._of:
            self._of[folder] = self._nearest(folder.rpartition("/")[0]) if folder else ""
        return self._of[folder]


def _above(path: str) -> str:
    """The one that a path is in, or is: by its name if any has one."""
    folders = [path]
    while os.path.dirname(folders[-1]) != folders[-1]:
        folders.append(os.path.dirname(folders[-1]))
    named = [folder for folder in folders if os.path.basename(folder) in _NAMES]
    return next((folder for folder in named or filter(_has_info, folders)), "")


def _has_info(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(_is_info(entry) for entry in entries)
    except OSError:
        return False


def _is_info(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".dist-info") and entry.is_dir(follow_symlinks=False)


def _below(folder: str, device: int, *, inside: bool) -> Iterator[str]:
    """Within one, only others that are named so count: packages hold copies of packages."""
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    if not inside and any(map(_is_info, found)):
        yield folder
        inside = True
    for entry in sorted(found, key=lambda one: one.name):
        if entry.stat(follow_symlinks=False).st_dev != device:
            continue
        named = entry.name in _NAMES
        if named:
            yield entry.path
        yield from _below(entry.path, device, inside=inside or named)

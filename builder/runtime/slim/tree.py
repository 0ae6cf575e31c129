"""A folder: every file once, whatever its names."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat

from . import aside, mounts, one, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Set, Tuple

    Report = Dict[str, Any]


def slim(
    path: str,
    options: one.Options,
    *,
    dry: bool = False,
    told: Callable[[int, int], None] | None = None,
    since: int = 0,
    files: bool = True,
) -> Report:
    """Slim a file, or all below a folder. Raises OSError with the file's name.

    `told` hears of each file: how many so far, and their bytes. Symbolic links below it are not
    followed. Other file systems are not entered, and the report names them. Files whose status has
    not changed `since`, in seconds of the epoch, are not opened. `files`: whether files that no
    such GPU's host needs leave, and equal ones become one; RECORDs of installed packages then say
    what is there.
    """
    root = os.path.realpath(path)  # as RECORDs and mounts are found by names of real folders
    with _locked(root, dry=dry) as alone:
        work = run.Run(root, options, dry=dry, files=files)
        try:
            for first, others, links in inodes(root, since, alone, work.apart):
                work.slim([first, *others], links)
                if told:
                    told(work.seen, work.size)
            work.link()
        finally:  # also of a run that ends here: what it did is done
            work.mend()
        return {**work.report(), "path": path}


@contextlib.contextmanager
def _locked(path: str, *, dry: bool) -> Iterator[bool]:
    """Keep others from slimming the folder; whether that is sure. Raises OSError if one does."""
    if dry or not os.path.isdir(path):
        yield False
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield _lock(handle, path)
    finally:
        os.close(handle)


def _lock(handle: int, path: str) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another slim works on it", path) from None
    except OSError:  # a file system without: NFS locks no folder
        return False
    return True


def inodes(
    path: str, since: int = 0, alone: bool = False, apart: List[str] | None = None
) -> Iterator[Tuple[str, List[str], int]]:
    """Each regular file as its first name, its other ones, and how many links it has in all.

    `path` is a real one. `alone`: nobody else slims there, so that what a killed one left aside is
    removed. `apart` gets what is of other file systems.
    """
    info = os.stat(path)
    if not stat.S_ISDIR(info.st_mode):
        if not stat.S_ISREG(info.st_mode):
            raise OSError(0, "neither a file nor a folder", path)
        yield path, [], info.st_nlink
        return
    linked: Dict[Tuple[int, int], List[str]] = {}
    counts: Dict[Tuple[int, int], int] = {}
    walk = _Walk(info.st_dev, [] if apart is None else apart, alone=alone)
    for name, found in walk.files(path):
        if found.st_ctime < since:
            continue
        if found.st_nlink == 1:
            yield name, [], 1
        else:
            key = (found.st_dev, found.st_ino)
            linked.setdefault(key, []).append(name)
            counts[key] = found.st_nlink
    for key, names in linked.items():
        yield names[0], names[1:], counts[key]


class _Walk:
    """Regular files of one file system."""

    def __init__(self, device: int, apart: List[str], *, alone: bool) -> None:
        self._device = device
        self._apart = apart
        self._alone = alone
        self._mounted: Set[str] = mounts.points()

    def files(self, folder: str) -> Iterator[Tuple[str, os.stat_result]]:
        """Those below a folder, in the order of their names."""
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            if entry.is_symlink():
                continue
            info = entry.stat(follow_symlinks=False)
            if mounts.apart(entry, info, self._device, self._mounted):
                self._apart.append(entry.path)
            elif stat.S_ISDIR(info.st_mode):
                yield from self.files(entry.path)
            elif stat.S_ISREG(info.st_mode) and not aside.is_one(entry.name):
                yield entry.path, info
            elif stat.S_ISREG(info.st_mode) and self._alone:
                aside.clear(entry.path)

"""Files of the same content: one on the disk, and the others as links to it.

A wheel holds no links, so what was one beside its versioned names is stored several times.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import NamedTuple

from . import aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Sequence, Tuple

    _State = Tuple[int, int, int]  # inode, bytes, time of the last change in ns

LEAST = 1 << 16  # bytes: below, a layer's archive hardly gains


class File(NamedTuple):
    """One inode."""

    names: Sequence[str]  # those in what is slimmed, at least one
    size: int  # bytes, once it is slimmed
    outside: int  # other names, by which its bytes stay


def link(files: Iterable[File], *, dry: bool = False) -> int:
    """Make those of equal content, mode, owner and attributes one file; the bytes that it saves.

    The first keeps its bytes, and all names of another become its own. One that has names elsewhere
    stays: it would take its room all the same; so does one that changes meanwhile. Raises OSError.
    """
    alike: Dict[Tuple[int, ...], List[File]] = {}
    for file in files:
        info = os.stat(file.names[0], follow_symlinks=False)
        if stat.S_ISREG(info.st_mode) and file.size >= LEAST:
            owner = (info.st_uid, info.st_gid, info.st_dev)
            key: Tuple[int, ...] = (info.st_size, info.st_mode, *owner)
            alike.setdefault(key, []).append(file)
    saved = 0
    for some in alike.values():
        first: Dict[Tuple[bytes, Tuple[Tuple[str, bytes], ...]], Tuple[File, _State]] = {}
        for file in some if len(some) > 1 else ():
            name = file.names[0]
            content, state = _read(name)
            kept, whole = first.setdefault((content, _attributes(name)), (file, state))
            if kept is file or file.outside:
                continue
            # Whoever writes to one meanwhile keeps it, and what he wrote.
            same = [
                dry or (_state(kept.names[0]) == whole and _linked(kept.names[0], other, state))
                for other in file.names
            ]
            saved += file.size if all(same) else 0
    return saved


def _linked(name: str, other: str, state: _State) -> bool:
    """Whether `other` is one more name of a file now; not where it is no longer in this state."""
    if _state(other) != state:
        return False
    aside.link(name, other)
    return True


def _state(name: str) -> _State:
    return _told(os.stat(name, follow_symlinks=False))


def _told(info: os.stat_result) -> _State:
    return info.st_ino, info.st_size, info.st_mtime_ns


def _attributes(name: str) -> Tuple[Tuple[str, bytes], ...]:
    try:
        names = os.listxattr(name, follow_symlinks=False)
    except OSError:
        return ()  # a file system without
    return tuple((one, os.getxattr(name, one, follow_symlinks=False)) for one in sorted(names))


def digest(name: str) -> bytes:
    """SHA-256 of a file."""
    return _read(name)[0]


def _read(name: str) -> Tuple[bytes, _State]:
    """A file's SHA-256, and the state that it was in before it was read."""
    found = hashlib.sha256()
    with open(name, "rb") as file:
        state = _told(os.fstat(file.fileno()))
        while True:
            part = file.read(1 << 20)
            if not part:
                return found.digest(), state
            found.update(part)

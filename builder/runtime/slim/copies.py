"""Files of the same content: one on the disk, and the others as links to it.

A wheel holds no links, so what was one beside its versioned names is stored several times.
"""

from __future__ import annotations

import hashlib
import os
import stat

from . import one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Tuple

LEAST = 1 << 16  # bytes: below, a layer's archive hardly gains


def link(names: Iterable[str], *, dry: bool = False) -> int:
    """Make those of equal content, mode, owner and attributes one file; the bytes that it saves.

    Each name stands for an inode of its own. The first name keeps its file. Raises OSError.
    """
    alike: Dict[Tuple[int, ...], List[str]] = {}
    for name in names:
        info = os.stat(name, follow_symlinks=False)
        if stat.S_ISREG(info.st_mode) and info.st_size >= LEAST:
            owner = (info.st_uid, info.st_gid, info.st_dev)
            key: Tuple[int, ...] = (info.st_size, info.st_mode, *owner)
            alike.setdefault(key, []).append(name)
    saved = 0
    for (size, *_), some in alike.items():
        first: Dict[Tuple[bytes, Tuple[Tuple[str, bytes], ...]], str] = {}
        for name in some if len(some) > 1 else ():
            kept = first.setdefault((digest(name), _attributes(name)), name)
            if kept != name:
                saved += size
                if not dry:
                    one.link(kept, name)
    return saved


def _attributes(name: str) -> Tuple[Tuple[str, bytes], ...]:
    try:
        names = os.listxattr(name, follow_symlinks=False)
    except OSError:
        return ()  # a file system without
    return tuple((one, os.getxattr(name, one, follow_symlinks=False)) for one in sorted(names))


def digest(name: str) -> bytes:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with open(name, "rb") as file:
        while True:
            part = file.read(1 << 20)
            if not part:
                return found.digest()
            found.update(part)

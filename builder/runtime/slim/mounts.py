"""What of a folder is no part of its file system.

A folder tells it by its device. Files do not: an overlay of several file systems shows its own
device for folders and another for files (kernel.org, "Overlay Filesystem", the table of st_dev),
so that a single file that is mounted is known from the kernel's list alone, proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Set

_LIST = "/proc/self/mountinfo"
_ESCAPED = re.compile(rb"\\([0-7]{3})")


def points() -> Set[str]:
    """Names on which something is mounted; none where the kernel does not tell."""
    try:
        with open(_LIST, "rb") as file:
            rows = [line.split(b" ") for line in file]
    except OSError:
        return set()
    return {os.fsdecode(_ESCAPED.sub(_sign, row[4])) for row in rows if len(row) > 4}


def apart(entry: os.DirEntry[str], info: os.stat_result, device: int, mounted: Set[str]) -> bool:
    """Whether an entry of a folder is of another file system than `device`, its root's.

    Of a file that is mounted, too: nothing can take its place. Its folder's path is a real one.
    """
    if entry.is_dir(follow_symlinks=False):
        return info.st_dev != device
    return entry.path in mounted


def _sign(found: re.Match[bytes]) -> bytes:
    return bytes([int(found.group(1), 8) & 0xFF])

"""What an image is asked for its sizes: `python3 -c TEXT` prints JSON on its last line.

Standard library, Python 3.9. What is on the disk counts, where RECORD names it: a thinned library
may be smaller than RECORD says, and a file with several names is there once.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re

# What a host puts into a container is no part of the image.
_NOT_OURS = {"dev", "proc", "run", "sys", "tmp"}


def sizes(root: str = "/") -> dict[str, int]:
    """Of all files: those of Python distributions, and in brackets what is none's."""
    seen: set[tuple[int, int]] = set()
    return {**packages(seen), **rest(root, seen)}


def packages(seen: set[tuple[int, int]]) -> dict[str, int]:
    """Python distribution -> bytes of its files but for bytecode, which may be made anew.

    What two share is the first one's by name. Files that were counted join `seen`.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    for one in importlib.metadata.distributions():
        found.setdefault(re.sub(r"[-_.]+", "-", one.metadata["Name"] or "?").lower(), one)
    return {
        name: sum(
            on_disk(str(file.locate()), seen)
            for file in found[name].files or ()
            if file.suffix != ".pyc"
        )
        for name in sorted(found)
    }


def rest(root: str, seen: set[tuple[int, int]]) -> dict[str, int]:
    """Bytecode, what else is below /opt (as compiled kernels), and the system's files."""
    found = {"(bytecode)": 0, "(other)": 0, "(system)": 0}
    for name in sorted(os.listdir(root)):
        if name in _NOT_OURS:
            continue
        for folder, _, files in os.walk(os.path.join(root, name)):
            for file in files:
                kind = "(other)" if name == "opt" else "(system)"
                kind = "(bytecode)" if file.endswith(".pyc") else kind
                found[kind] += on_disk(os.path.join(folder, file), seen)
    return found


def on_disk(path: str, seen: set[tuple[int, int]]) -> int:
    """Bytes of a file, which joins `seen`: 0 where it is there already, or not on the disk."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    if (found.st_dev, found.st_ino) in seen:
        return 0
    seen.add((found.st_dev, found.st_ino))
    return found.st_size


if __name__ == "__main__":
    print(json.dumps(sizes()))

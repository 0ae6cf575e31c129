"""What an image is asked for its sizes: `python3 -c TEXT` prints JSON on its last line.

Standard library, Python 3.9. What is on the disk counts, where RECORD names it: a thinned library
may be smaller than RECORD says, and a file with several names is there once.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re


def packages() -> dict[str, int]:
    """Python distribution -> bytes of its files. What two share is the first one's by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for one in importlib.metadata.distributions():
        found.setdefault(re.sub(r"[-_.]+", "-", one.metadata["Name"] or "?").lower(), one)
    seen: set[tuple[int, int]] = set()
    return {
        name: sum(on_disk(str(file.locate()), seen) for file in found[name].files or ())
        for name in sorted(found)
    }


def on_disk(path: str, seen: set[tuple[int, int]]) -> int:
    """Bytes of a file, which joins `seen`: 0 where it is there already.

    Also 0 where it is not there any more, and of bytecode, which starts write.
    """
    if path.endswith(".pyc"):
        return 0
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    if (found.st_dev, found.st_ino) in seen:
        return 0
    seen.add((found.st_dev, found.st_ino))
    return found.st_size


if __name__ == "__main__":
    print(json.dumps(packages()))

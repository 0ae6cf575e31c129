"""What an image is asked for its sizes: `python3 -c TEXT` prints JSON on its last line.

Standard library, Python 3.9. What is on the disk counts, as RECORD names it: a thinned library is
smaller than RECORD says.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re


def packages() -> dict[str, int]:
    """Python distribution -> bytes of its files."""
    sizes: dict[str, int] = {}
    for found in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"] or "?").lower()
        sizes.setdefault(name, sum(on_disk(str(file.locate())) for file in found.files or ()))
    return sizes


def on_disk(path: str) -> int:
    """Bytes of a file; 0 where it is not there any more, and of bytecode, which starts write."""
    if path.endswith(".pyc"):
        return 0
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


if __name__ == "__main__":
    print(json.dumps(packages()))

"""Starts a part: `python3 -ES /opt/imgbuild/runtime start|tune ...`.

-S leaves site-packages alone, whose .pth files take 50 ms; -E what the user's PYTHON variables say.
"""

from __future__ import annotations

import os
import sys


def package() -> str:
    """This folder's name as a package: Python puts the folder itself onto sys.path."""
    if __package__:
        return __package__
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[0] = os.path.dirname(here)
    return os.path.basename(here)


def main(arguments: list[str]) -> int:
    """Exit code of the part."""
    parts = {"start": "entrypoint", "tune": "tune"}
    if arguments[:1] and arguments[0] in parts:
        name = f"{package()}.{parts[arguments[0]]}"
        __import__(name)
        code: int = sys.modules[name].main(arguments[1:])
        return code
    print(f"usage: runtime {'|'.join(parts)} ...", file=sys.stderr)
    return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

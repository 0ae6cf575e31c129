"""Starts a part: `python3 -ES /opt/imgbuild/runtime start|tune|slim ...`.

-S leaves site-packages alone, whose .pth files take 50 ms; -E what the user's PYTHON variables say.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def package() -> str:
    """This folder's name as a package: Python puts the folder itself onto sys.path."""
    if __package__:
        return __package__
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[0] = os.path.dirname(here)
    return os.path.basename(here)


def _imported(name: str) -> Any:
    __import__(name)
    return sys.modules[name]


def main(arguments: list[str]) -> int:
    """Exit code of the part."""
    parts = {"start": "entrypoint", "tune": "tune", "slim": "slim.command"}
    if arguments[:1] and arguments[0] in parts:
        own = package()
        # nvidia-smi takes 25 ms: it works while the rest is imported.
        query = _imported(f"{own}.gpus").early() if arguments[0] == "start" else None
        main_of = _imported(f"{own}.{parts[arguments[0]]}").main
        code: int = main_of(arguments[1:], query) if query else main_of(arguments[1:])
        return code
    print(f"usage: runtime {'|'.join(parts)} ...", file=sys.stderr)
    return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

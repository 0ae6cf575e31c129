"""Starts a part: `python3 -ES /opt/imgbuild/runtime start|tune|slim ...`.

-S leaves site-packages alone, whose .pth files take 50 ms; -E what the user's PYTHON variables say.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Set


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


def _signals() -> Set[int] | None:
    """Before the imports, whose 30 ms are long enough for a signal; returns PID 1's own mask.

    The kernel drops what PID 1 does not handle: held here, they wait for the reaper. Elsewhere each
    ends the start, and Ctrl-C without a traceback.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getpid() != 1:
        return None
    return signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def main(arguments: list[str]) -> int:
    """Exit code of the part."""
    parts = {"start": "entrypoint", "tune": "tune", "slim": "slim.command"}
    if arguments[:1] and arguments[0] in parts:
        own, more = package(), []
        if arguments[0] == "start":
            mask = _signals()
            # nvidia-smi takes 25 ms: it works while the rest is imported.
            more = [_imported(f"{own}.gpus").early(), mask]
        code: int = _imported(f"{own}.{parts[arguments[0]]}").main(arguments[1:], *more)
        return code
    print(f"usage: runtime {'|'.join(parts)} ...", file=sys.stderr)
    return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Starts a backend: `python3 /opt/imgbuild/servers BACKEND OPTIONS...`.

Exit codes: 0 after SIGTERM, 1 when the server cannot be started as asked, 2 for a wrong option.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

BACKENDS = ("deepspeed", "jax", "xla", "ray")


def package() -> str:
    """This folder's name as a package, importable here and in child processes.

    Python puts the folder that it runs onto sys.path; its parent belongs there instead.
    """
    if __package__:
        return __package__
    here = Path(__file__).resolve().parent
    sys.path[0] = str(here.parent)
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here.parent), *([others] if others else [])])
    return here.name


def main(arguments: list[str]) -> int:
    """Run the backend until it is told to stop; returns the exit code."""
    # While the model is loaded, and after the HTTP server has stopped and raises its signal again.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    name = package()
    engine: Any = importlib.import_module(f"{name}.engine")
    launch: Any = importlib.import_module(f"{name}.launch")
    try:
        backend = launch.choose(arguments, BACKENDS)
        importlib.import_module(f"{name}.on_{backend}").run(arguments[1:])
    except engine.ServerError as error:
        print(f"servers: {error}", file=sys.stderr)
        return 1
    return 0


def _leave(_signal: int, _frame: Any) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

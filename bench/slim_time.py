"""Measures what slimming adds to a build, beside what installing takes in the same run.

    python -m bench.slim_time LOCK [--sm 9.0] [--rounds 3] [--python /usr/bin/python3]

LOCK is a lock's folder. As a build does it, each layer's wheels are installed with uv, as copies
out of its cache, and what that step brought is then slimmed by the system's Python. Seconds on the
wall and of the CPU are a round's sum over the layers; the median round counts. The first round,
which fills uv's cache and the disk's, does not. Writes bench/results/slim_time.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.slim_static import INSTALL, uv_environment
from bench.stamp import ROOT, stamp

LAYERS = ("cuda", "torch", "dependencies", "companions", "framework")
SLIM = ROOT / "builder/runtime/slim"


def timed(command: Sequence[str | Path], **more: Any) -> tuple[float, float, str]:
    """Seconds on the wall and of the CPU, and what it prints. Raises CalledProcessError."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **more)
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, sum(after[:2]) - sum(before[:2]), done.stdout


def once(lock: Path, sm: str, python: str, folder: Path) -> dict[str, Any]:
    """A round: seconds of each layer, and sums."""
    quiet = {**uv_environment(), "UV_LINK_MODE": "copy", "UV_NO_PROGRESS": "1"}
    venv = folder / "venv"
    timed(["uv", "venv", "--quiet", "--no-project", "--python", python, venv], env=quiet)
    layers: dict[str, dict[str, Any]] = {}
    for layer in (name for name in LAYERS if (lock / f"{name}.txt").is_file()):
        began = int(time.time())
        install = timed(
            [*INSTALL, "--python", venv, "--find-links", ROOT / "images/wheels",
             "--requirement", lock / f"{layer}.txt"],
            env=quiet,
        )  # fmt: skip
        slim = timed(
            [python, "-ES", SLIM, "--sm", sm, "--uncovered", "empty", "--since", str(began),
             "--json", venv],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        total = json.loads(slim[2])["total"]
        layers[layer] = {
            "install_s": round(install[0], 2),
            "slim_s": round(slim[0], 2),
            "slim_cpu_s": round(slim[1], 2),
            "libraries": total["elf"],
            "library_bytes": [total["before"], total["after"]],
        }
    names = ("install_s", "slim_s", "slim_cpu_s")
    sums = {name: round(sum(one[name] for one in layers.values()), 2) for name in names}
    return {**sums, "layers": layers}


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.slim_time", description=__doc__)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--sm", default="9.0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/slim_time.json")
    given = parser.parse_args(arguments)
    rounds = []
    for number in range(given.rounds + 1):
        with tempfile.TemporaryDirectory(prefix="slim-time-") as made:
            rounds.append(once(given.lock, given.sm, given.python, Path(made)))
        sys.stderr.write(f"round {number}: {rounds[-1]['slim_s']} s\n")
    counted = rounds[1:] or rounds
    middle = sorted(counted, key=lambda one: one["slim_s"])[len(counted) // 2]
    told = {
        **stamp(), "of": given.lock.name, "sm": given.sm,
        "slim_s": [one["slim_s"] for one in counted],
        "median_slim_s": statistics.median(one["slim_s"] for one in counted),
        "slim_to_install": round(middle["slim_s"] / middle["install_s"], 3),
        "median_round": middle,
    }  # fmt: skip
    given.output.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

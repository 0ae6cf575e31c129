"""Whole-process times of the command line, beside a peer in the same run.

Writes bench/results/cli.json: seconds (minimum, median, maximum of RUNS runs, taken in turn), the
machine, the date, the commit, and each command's median as a ratio to the peer's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.stamp import ROOT, stamp
from builder import matrix
from builder.project import Project

RUNS = 15
BIN = Path(sys.executable).parent
# pip is the Python command line that everybody knows, in the same environment.
PEER = "pip --help"
UNCHANGED = "imgbuild build --matrix cpu-vllm (unchanged)"


def main() -> None:
    """Measure and write."""
    with tempfile.TemporaryDirectory() as scratch:
        commands = {
            PEER: [str(BIN / "pip"), "--help"],
            "imgbuild --help": [str(BIN / "imgbuild"), "--help"],
            "imgbuild render": [str(BIN / "imgbuild"), "render", "-o", scratch],
            "imgbuild render --check": [str(BIN / "imgbuild"), "render", "--check"],
            "imgbuild lock --check": [str(BIN / "imgbuild"), "lock", "--check"],
            # Built once before the runs, if it is not there.
            UNCHANGED: [str(BIN / "imgbuild"), "build", "--matrix", "cpu-vllm"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        # An installed program has its bytecode; the first run of a changed one writes it.
        env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        for run in range(RUNS + 1):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
                if run:  # the first warms the disk's cache
                    seconds[name].append(time.perf_counter() - start)
    peer = statistics.median(seconds[PEER])
    result = {
        **stamp(),
        "cells": len(matrix.load(Project.find(ROOT / "matrix.yaml").matrix_file).cells),
        "runs": RUNS,
        "peer": PEER,
        "commands": {
            name: {
                "min_s": round(min(times), 4),
                "median_s": round(statistics.median(times), 4),
                "max_s": round(max(times), 4),
                "ratio_to_peer": round(statistics.median(times) / peer, 3),
            }
            for name, times in seconds.items()
        },
    }
    target = ROOT / "bench" / "results" / "cli.json"
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(target.read_text(encoding="utf-8"), end="")  # noqa: T201 - what a bench is for


if __name__ == "__main__":
    main()

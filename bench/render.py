"""`imgbuild render` of 100, 1,000 and 10,000 cells, beside hpccm with as many images.

Each time is of a whole process that writes two files a cell into an empty folder. The two are run
in turn. Writes bench/results/render.json: wall and CPU seconds (median, minimum and maximum), the
median of each pair's ratio, and how the time grows with the cells. Where there is a /dev/shm, the
files are written there: what a disk adds is the disk's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import many
from bench.stamp import ROOT, stamp
from builder import matrix
from builder.model import BaseKind, OsPackages, Recipe, Runtime
from builder.prepare import Workbench
from builder.project import Project

RUNS = {100: 9, 1_000: 9, 10_000: 3}  # cells -> pairs of runs
_MEMORY = Path("/dev/shm")  # noqa: S108 - only the parent of a new folder
_DISTRO = {"debian": "ubuntu22", "rhel": "rockylinux8", "suse": "ubuntu22"}  # hpccm has no SUSE


@dataclass(frozen=True)
class Time:
    """Of one process, in seconds; `cpu` is user and system."""

    wall: float
    cpu: float


def main() -> None:
    """Measure and write."""
    sizes = {}
    for count, runs in RUNS.items():
        with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as scratch:
            sizes[str(count)] = _measured(count, runs, Path(scratch))
    result = {
        **stamp(),
        "peer": "hpccm",
        "files": "memory" if _MEMORY.is_dir() else "disk",
        "cells": sizes,
        # 1.0 is linear; below it, what starts a process still counts.
        "growth_of_cpu": {
            "100 to 1000": _growth(sizes, 100, 1_000),
            "1000 to 10000": _growth(sizes, 1_000, 10_000),
        },
    }
    target = ROOT / "bench" / "results" / "render.json"
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(target.read_text(encoding="utf-8"), end="")  # noqa: T201 - what a bench is for


def _measured(count: int, runs: int, scratch: Path) -> dict[str, Any]:
    project = many.write(Project.find(ROOT / "matrix.yaml"), count, scratch)
    images = scratch / "images.json"
    images.write_text(json.dumps(_described(project)), encoding="utf-8")
    ours: list[Time] = []
    peers: list[Time] = []
    for run in range(runs + 1):
        pair = (
            _timed("builder.cli", "render", "-f", str(project.matrix_file), "-o"),
            _timed("bench.peer", str(images)),
        )
        if run:  # the first warms the disk's cache
            ours.append(pair[0])
            peers.append(pair[1])
    return {
        "pairs": runs,
        "imgbuild": _summary(ours),
        "hpccm": _summary(peers),
        "ratio_to_peer": {
            "wall": _ratio([(own.wall, peer.wall) for own, peer in zip(ours, peers, strict=True)]),
            "cpu": _ratio([(own.cpu, peer.cpu) for own, peer in zip(ours, peers, strict=True)]),
        },
    }


def _timed(module: str, *args: str) -> Time:
    """Run a module of this Python, with an empty folder as its last argument."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        # An installed program has its bytecode; the first run of a changed one writes it.
        env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        before, start = os.times(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", module, *args, folder],
            cwd=ROOT,
            env=env,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        wall, after = time.perf_counter() - start, os.times()
    spent = after.children_user + after.children_system
    return Time(wall, spent - before.children_user - before.children_system)


def _described(project: Project) -> list[dict[str, Any]]:
    """The project's cells for hpccm: the same packages, locks, settings, labels and commands."""
    loaded = matrix.load(project.matrix_file)
    bench = Workbench(project, loaded)
    cells = matrix.select(loaded, None)
    return [_image(bench.prepare(cell, BaseKind.REGISTRY).recipe) for cell in cells]


def _image(recipe: Recipe) -> dict[str, Any]:
    steps = [step for layer in recipe.layers for step in layer.steps]
    return {
        "id": recipe.cell.id,
        "base": recipe.base,
        "distro": _DISTRO[recipe.os.family],
        "packages": [name for step in steps if isinstance(step, OsPackages) for name in step.names],
        "locks": [f"images/locks/{layer.path}" for layer in recipe.lock.layers],
        "copies": [
            [f"builder/{step.source}", step.path] for step in steps if isinstance(step, Runtime)
        ],
        "env": dict(recipe.env),
        "labels": dict(recipe.labels),
        "user": str(recipe.user.uid),
        "home": recipe.user.home,
        "entrypoint": list(recipe.entrypoint),
    }


def _summary(times: list[Time]) -> dict[str, float]:
    return {
        f"{kind}_{name}_s": round(pick([getattr(each, kind) for each in times]), 4)
        for kind in ("wall", "cpu")
        for name, pick in (("min", min), ("median", statistics.median), ("max", max))
    }


def _ratio(pairs: list[tuple[float, float]]) -> float:
    """The median of own to peer's, pair by pair: a busy machine slows both of a pair."""
    return round(statistics.median(own / peer for own, peer in pairs), 3)


def _growth(sizes: dict[str, Any], few: int, more: int) -> float:
    """CPU time a cell, of more, relative to few."""
    each = {count: sizes[str(count)]["imgbuild"]["cpu_median_s"] / count for count in (few, more)}
    return round(float(each[more] / each[few]), 3)


if __name__ == "__main__":
    main()

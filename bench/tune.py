"""cpu-vllm under a CPU limit, tuned beside untuned: tokens a second, as ratios of one run.

Needs Docker and the built image (`imgbuild build --matrix cpu-vllm --engine docker`). For each
limit SERVERS servers each are tuned, untuned (IMGBUILD_TUNE=off), and have the knob which is off by
default: two of one kind differ by some 5%, as their memory lies. They are asked in turn, the others
frozen meanwhile (docker pause), for the same completions of a model that is large enough for
threads to matter (44 million random weights): the machine's speed changes more in minutes than what
is measured. Writes bench/results/tune.json: the tokens/s of each round, the median over the rounds
of the ratio to the untuned servers', and `sets`, what the start said that it set. Where that is ""
for the tuned ones they are like the untuned, and their ratio is a null comparison: it shows noise,
and no effect. The two other kinds' starts set nothing; nobind's variables are those of MODES.

A limit that is named on the command line replaces that limit's figures only.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import load, model
from bench.stamp import ROOT, stamp

IMAGE = "vllm:cpu-vllm"
LIMITS = {
    "--cpus=1": ["--cpus=1"],
    "--cpuset-cpus=0": ["--cpuset-cpus=0"],
    "none": [],
}
MODES = {
    "tuned": ["--env=IMGBUILD_TUNE=on"],
    "untuned": ["--env=IMGBUILD_TUNE=off"],
    "nobind": [
        "--env=IMGBUILD_TUNE=off",
        "--env=VLLM_CPU_OMP_THREADS_BIND=nobind",
        "--env=OMP_NUM_THREADS=1",
    ],
}
TUNED = "imgbuild: tuned: "
SERVERS = 2  # of each mode: 2 GiB of memory each
ROUNDS, REQUESTS, TOKENS = 12, 4, 48
HIDDEN, LAYERS, INNER, HEADS = 768, 6, 2048, 12


def main() -> None:
    """Measure and write."""
    limits = sys.argv[1:] or list(LIMITS)
    target = ROOT / "bench" / "results" / "tune.json"
    known = json.loads(target.read_text(encoding="utf-8"))["limits"] if target.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        model.write(folder, layers=LAYERS, hidden=HIDDEN, inner=INNER, heads=HEADS)
        measured = {name: {**stamp(), **compared(LIMITS[name], folder)} for name in limits}
    result = {
        "model": f"{LAYERS} layers of {HIDDEN}, float32",
        "load": f"{REQUESTS} requests at once, {TOKENS} tokens each, {ROUNDS} rounds",
        "limits": {
            name: {**known, **measured}[name] for name in LIMITS if name in {**known, **measured}
        },
    }
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def compared(limit: list[str], folder: Path) -> dict[str, Any]:
    """Tokens a second of each mode by round, its ratio to the untuned one, and what it has set."""
    rates: dict[str, list[float]] = {mode: [] for mode in MODES}
    with ExitStack() as servers, ThreadPoolExecutor(REQUESTS) as pool:
        running = [
            (mode, *servers.enter_context(served([*limit, *MODES[mode]], folder)))
            for _ in range(SERVERS)
            for mode in MODES
        ]
        sets = {mode: _sets(c for of, c, _ in running if of == mode) for mode in MODES}
        for number in range(-1, ROUNDS):  # the first one warms up
            found: dict[str, list[float]] = {mode: [] for mode in MODES}
            for mode, container, url in running[:: 1 if number % 2 else -1]:
                _output("docker", "unpause", container)
                found[mode].append(load.tokens_per_s(pool, url, REQUESTS, TOKENS))
                _output("docker", "pause", container)
            if number >= 0:
                for mode, of_servers in found.items():
                    rates[mode].append(statistics.mean(of_servers))
    untuned = rates["untuned"]
    return {
        mode: {
            "tokens_per_s": [round(rate, 1) for rate in found],
            "ratio": round(
                statistics.median(a / b for a, b in zip(found, untuned, strict=True)), 3
            ),
            "sets": sets[mode],
        }
        for mode, found in rates.items()
    }


@contextmanager
def served(options: list[str], folder: Path) -> Iterator[tuple[str, str]]:
    """A server that has started, frozen: its container and its address."""
    docker = ["docker", "run", "--rm", "--detach", "--publish=127.0.0.1:0:8000", *options]
    docker += ["--env=VLLM_CPU_KVCACHE_SPACE=1", "--shm-size=1g"]
    docker += [f"--volume={folder}:/model:ro", IMAGE, "--model", "/model", "--dtype", "float32"]
    docker += ["--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "8"]
    container = _output(*docker)
    try:
        port = _output("docker", "port", container, "8000").rpartition(":")[2]
        url = f"http://127.0.0.1:{port}"
        load.wait(url, lambda: _output("docker", "logs", "--tail=30", container))
        _output("docker", "pause", container)
        yield container, url
    finally:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)


def _sets(containers: Iterable[str]) -> str:
    """What the start of a mode's servers has set; several lines where they differ, as masks do."""
    told = [said(_output("docker", "logs", container, errors=True)) for container in containers]
    return "\n".join(dict.fromkeys(told))


def said(log: str) -> str:
    """The start's own line, of a container's log; "" where it had nothing to set."""
    return next((line for line in log.splitlines() if line.startswith(TUNED)), "")


def _output(*command: str, errors: bool = False) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return (done.stdout + done.stderr * errors).strip()


if __name__ == "__main__":
    main()

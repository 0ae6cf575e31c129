"""What an image's start costs over plain exec: preflight, caches, tuner, in time and memory.

The runtime is laid out and compiled as in an image, with the manifest of MANIFEST or the one of
images/manifests that the command line names, and starts /bin/true in the server's place; plain exec
of that is the peer, in turn. Writes bench/results/start.json: the manifest, milliseconds (minimum,
median, maximum of RUNS) and the peak of resident memory, which is gone with the exec.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.stamp import ROOT, stamp

RUNS = 40
MANIFEST = "vllm-0.32.0-cpu.json"
PEER = "plain exec"


def main() -> None:
    """Measure and write."""
    manifest = sys.argv[1] if len(sys.argv) > 1 else MANIFEST
    with tempfile.TemporaryDirectory() as scratch:
        runtime = laid_out(Path(scratch), manifest)
        python = [sys.executable, "-ES"]
        commands = {
            PEER: ["/bin/true"],
            "python -ES": [*python, "-c", "pass"],
            "start": [*python, str(runtime), "start", "/bin/true", "--", "--model", "x"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, command in commands.items():
                seconds[name].append(timed(command))
        memory = peak(runtime)
    peer = statistics.median(seconds[PEER])
    result = {
        **stamp(),
        "manifest": manifest,
        "runs": RUNS,
        "peak_of_start_mib": round(memory / 1024, 1),
        "commands": {
            name: {
                "min_ms": round(1000 * min(times), 1),
                "median_ms": round(1000 * statistics.median(times), 1),
                "max_ms": round(1000 * max(times), 1),
                "over_exec_ms": round(1000 * (statistics.median(times) - peer), 1),
            }
            for name, times in seconds.items()
        },
    }
    target = ROOT / "bench" / "results" / "start.json"
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def laid_out(folder: Path, manifest: str) -> Path:
    """The runtime as it stands in an image."""
    runtime = folder / "imgbuild" / "runtime"
    shutil.copytree(ROOT / "builder/runtime", runtime, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "images/manifests" / manifest, runtime.with_name("manifest.json"))
    compiled = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(runtime))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-ES", *compiled], check=True, env=env)
    return runtime


def timed(command: list[str]) -> float:
    """Seconds until it has ended."""
    start = time.perf_counter()
    child = os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)],
    )
    _, status = os.waitpid(child, 0)
    spent = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{command} ends with {status}")
    return spent


_PEAK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from runtime import entrypoint
def told(*_):
    with open("/proc/self/status") as status:
        sys.exit(next(line.split()[1] for line in status if line.startswith("VmHWM")))
os.execvpe = told
entrypoint.main(["server", "--", "--model", "x"])
"""


def peak(runtime: Path) -> int:
    """KiB of memory that the start has had when it becomes the server."""
    command = [sys.executable, "-ES", "-c", _PEAK, str(runtime.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stderr.split()[-1])


if __name__ == "__main__":
    main()

"""An image's GPU knobs on a real GPU: what each does to tokens/s and to latency, in one run.

    python -m bench.gpu.knobs IMAGE.sif OUT.json

Needs Apptainer and an NVIDIA GPU; the image's server is vLLM. One server per mode, all with the
same model of random weights; they are asked in turn, the others stopped meanwhile, so that drift
counts for nobody. "untuned" is IMGBUILD_TUNE=off; a knob is one variable beside that, of those that
guides to fast inference name. Below a CPU quota of QUOTA_CPUS (a cgroup of its own, for which root
is needed) the knob is to bind the server to as many CPUs.

OUT.json gets, by mode: tokens/s and ms of a one-token answer for each round, seconds from start to
/health, and the median over the rounds of the ratio to the untuned one (above 1 is faster).
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from bench import load, model
from bench.stamp import stamp

OFF = {"IMGBUILD_TUNE": "off"}
MODES: dict[str, dict[str, str]] = {
    "untuned": OFF,
    "tuned": {"IMGBUILD_TUNE": "on"},
    **{
        f"{name}={value}": {**OFF, name: value}
        for name, value in (
            ("OMP_NUM_THREADS", "1"),
            ("CUDA_DEVICE_MAX_CONNECTIONS", "1"),
            ("PYTORCH_ALLOC_CONF", "expandable_segments:True"),
            ("MALLOC_ARENA_MAX", "2"),
        )
    },
}
QUOTA_CPUS = 2
BELOW_QUOTA: dict[str, dict[str, str]] = {"untuned": OFF, "tuned": MODES["tuned"], "bound": OFF}
BOUND = ["taskset", "--cpu-list", f"0-{QUOTA_CPUS - 1}"]
GROUP = Path("/sys/fs/cgroup/imgbuild-bench")
ROUNDS, REQUESTS, TOKENS = 16, 8, 384
LAYERS, HIDDEN, INNER, HEADS = 24, 1024, 2816, 16
PORT = 18100


def main() -> None:
    """Measure and write."""
    image, target = sys.argv[1], Path(sys.argv[2])
    result: dict[str, Any] = {
        **stamp(),
        "gpu": _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
        "model": f"{LAYERS} layers of {HIDDEN}, bfloat16",
        "load": f"{REQUESTS} requests at once, {TOKENS} tokens each, {ROUNDS} rounds",
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model.write(folder / "model", layers=LAYERS, hidden=HIDDEN, inner=INNER, heads=HEADS)
        ports = iter(range(PORT, PORT + 100))
        with server(image, folder, "cold", OFF, next(ports)) as first:
            result["cold_start_s"] = first.started()
            _say(f"the first server took {result['cold_start_s']} s")
        result["without_limit"] = compared(image, folder, MODES, ports)
        write(target, result)  # the next part may be cut off
        result[f"quota_of_{QUOTA_CPUS}_cpus"] = below_quota(image, folder, ports)
    write(target, result)


def write(target: Path, result: dict[str, Any]) -> None:
    """What was measured so far."""
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def below_quota(image: str, folder: Path, ports: Iterator[int]) -> dict[str, Any]:
    """The same in a cgroup, where this machine lets us make one."""
    try:
        (GROUP.parent / "cgroup.subtree_control").write_text("+cpu")
        GROUP.mkdir(exist_ok=True)
        (GROUP / "cpu.max").write_text(f"{QUOTA_CPUS * 100_000} 100000")
    except OSError as error:
        return {"skipped": f"no cgroup with a CPU quota can be made: {error}"}
    try:
        return compared(image, folder, BELOW_QUOTA, ports, joined=_join)
    finally:
        for _ in range(50):  # until the kernel has taken the last process away
            with suppress(OSError):
                GROUP.rmdir()
                break
            time.sleep(0.2)


def _join() -> None:
    (GROUP / "cgroup.procs").write_text(str(os.getpid()))


class Server:
    """An image that serves, as a group of processes."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self._process, self.url, self._log = process, url, log
        self._start = time.monotonic()

    def started(self) -> float:
        """Seconds until it was healthy."""
        load.wait(
            self.url,
            lambda: self._log.read_text(errors="replace")[-4000:],
            self._process.poll,
        )
        return round(time.monotonic() - self._start, 1)

    def signal(self, number: int) -> None:
        """To all processes of its session: an init puts the server into a group of its own."""
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if os.getsid(int(entry.name)) == self._process.pid:
                    os.kill(int(entry.name), number)

    def end(self) -> None:
        """Kill it and all its children."""
        self.signal(signal.SIGKILL)
        self._process.wait()


@contextmanager
def server(
    image: str,
    folder: Path,
    name: str,
    env: dict[str, str],
    port: int,
    *,
    joined: Callable[[], None] | None = None,
) -> Iterator[Server]:
    """Start it; killed at the end."""
    cache, log = folder / "cache", folder / f"{port}.log"
    cache.mkdir(exist_ok=True)
    # FlashInfer would compile its sampler in each server, for minutes.
    settings = {**env, "IMGBUILD_CACHE": "/cache", "VLLM_USE_FLASHINFER_SAMPLER": "0"}
    command = [*(BOUND if name == "bound" else []), "apptainer", "run", "--nv", "--cleanenv"]
    command += [f"--env={key}={value}" for key, value in settings.items()]
    command += [f"--bind={folder}/model:/model:ro", f"--bind={cache}:/cache", image]
    command += ["--model", "/model", "--port", str(port), "--max-model-len", "512"]
    command += ["--max-num-seqs", "16", "--kv-cache-memory-bytes", str(1 << 30)]
    command += ["--gpu-memory-utilization", "0.05", "--cudagraph-capture-sizes", "1", "2", "4", "8"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=joined,  # noqa: PLW1509 - before any thread
        )
    running = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        yield running
    finally:
        running.end()


def compared(
    image: str,
    folder: Path,
    modes: dict[str, dict[str, str]],
    ports: Iterator[int],
    joined: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Each mode's rates, latencies and ratios."""
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    delays: dict[str, list[float]] = {mode: [] for mode in modes}
    with ExitStack() as stack, ThreadPoolExecutor(REQUESTS) as pool:
        running = {
            mode: stack.enter_context(server(image, folder, mode, env, next(ports), joined=joined))
            for mode, env in modes.items()
        }
        starts = {}
        for mode, one in running.items():
            starts[mode] = one.started()
            _say(f"{mode}: healthy after {starts[mode]} s")
        for one in running.values():
            one.signal(signal.SIGSTOP)
        for number in range(ROUNDS + 1):  # the first one warms up
            _say(f"round {number} of {ROUNDS}")
            for mode, one in running.items():
                one.signal(signal.SIGCONT)
                rate = load.tokens_per_s(pool, one.url, REQUESTS, TOKENS)
                delay = min(_delay(one.url) for _ in range(5))
                one.signal(signal.SIGSTOP)
                if number:
                    rates[mode].append(rate)
                    delays[mode].append(delay)
    return {
        mode: {
            "started_with_the_others_s": starts[mode],
            "tokens_per_s": [round(rate, 1) for rate in rates[mode]],
            "one_token_ms": [round(1000 * delay, 2) for delay in delays[mode]],
            "throughput": _ratio(rates[mode], rates["untuned"]),
            "latency": _ratio(delays["untuned"], delays[mode]),
        }
        for mode in modes
    }


def _ratio(ours: list[float], peers: list[float]) -> dict[str, float]:
    """The mean over the rounds, and its standard error."""
    ratios = [a / b for a, b in zip(ours, peers, strict=True)]
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    return {"ratio": round(statistics.mean(ratios), 3), "standard_error": round(error, 3)}


def _say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


def _delay(url: str) -> float:
    start = time.perf_counter()
    load.ask(url, 0, 1)
    return time.perf_counter() - start


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()

"""cpu-vllm under a CPU limit, tuned beside untuned: tokens a second, as ratios of one run.

Needs Docker and the built image (`imgbuild build --matrix cpu-vllm --engine docker`). For each
limit one server each is tuned, untuned (IMGBUILD_TUNE=off), and has the knob which is off by
default. They are asked in turn, the others frozen meanwhile (docker pause), for the same
completions of a model that is large enough for threads to matter (44 million random weights): the
machine's speed changes more in minutes than what is measured. Writes bench/results/tune.json: the
tokens/s of each round, and the median over the rounds of the ratio to the untuned server's.

A limit that is named on the command line replaces that limit's figures only.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.stamp import ROOT, stamp
from builder.runtime import tinymodel

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
ROUNDS, REQUESTS, TOKENS = 12, 4, 48
HIDDEN, LAYERS, INNER, HEADS = 768, 6, 2048, 12


def main() -> None:
    """Measure and write."""
    limits = sys.argv[1:] or list(LIMITS)
    target = ROOT / "bench" / "results" / "tune.json"
    known = json.loads(target.read_text(encoding="utf-8"))["limits"] if target.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        write_model(model)
        measured = {name: {**stamp(), **compared(LIMITS[name], model)} for name in limits}
    result = {
        "model": f"{LAYERS} layers of {HIDDEN}, float32",
        "load": f"{REQUESTS} requests at once, {TOKENS} tokens each, {ROUNDS} rounds",
        "limits": {
            name: {**known, **measured}[name] for name in LIMITS if name in {**known, **measured}
        },
    }
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def compared(limit: list[str], model: Path) -> dict[str, Any]:
    """Tokens a second of each server by round, and each mode's ratio to the untuned one."""
    rates: dict[str, list[float]] = {mode: [] for mode in MODES}
    with ExitStack() as servers, ThreadPoolExecutor(REQUESTS) as pool:
        running = {
            mode: servers.enter_context(served([*limit, *MODES[mode]], model)) for mode in MODES
        }
        for number in range(ROUNDS + 1):  # the first one warms up
            for mode, (container, url) in running.items():
                _output("docker", "unpause", container)
                rate = _round(pool, url)
                _output("docker", "pause", container)
                if number:
                    rates[mode].append(rate)
    untuned = rates["untuned"]
    return {
        mode: {
            "tokens_per_s": [round(rate, 1) for rate in found],
            "ratio": round(
                statistics.median(a / b for a, b in zip(found, untuned, strict=True)), 3
            ),
        }
        for mode, found in rates.items()
    }


@contextmanager
def served(options: list[str], model: Path) -> Iterator[tuple[str, str]]:
    """A server that has started, frozen: its container and its address."""
    docker = ["docker", "run", "--rm", "--detach", "--publish=127.0.0.1:0:8000", *options]
    docker += ["--env=VLLM_CPU_KVCACHE_SPACE=1", "--shm-size=1g"]
    docker += [f"--volume={model}:/model:ro", IMAGE, "--model", "/model", "--dtype", "float32"]
    docker += ["--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "8"]
    container = _output(*docker)
    try:
        port = _output("docker", "port", container, "8000").rpartition(":")[2]
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/health", container)
        _output("docker", "pause", container)
        yield container, url
    finally:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)


def _round(pool: ThreadPoolExecutor, url: str) -> float:
    start = time.perf_counter()
    counts = list(pool.map(lambda number: _ask(url, number), range(REQUESTS)))
    return sum(counts) / (time.perf_counter() - start)


def _ask(url: str, number: int) -> int:
    body = {
        "model": "/model",
        "prompt": f"{number} once upon a time",
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{url}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310 - as above
        count: int = json.load(answer)["usage"]["completion_tokens"]
    return count


def _wait(url: str, container: str) -> None:
    for _ in range(1200):
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - as above
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(_output("docker", "logs", "--tail=30", container))


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def write_model(folder: Path) -> None:
    """A Llama of random weights, with the tiny model's tokenizer."""
    tinymodel.write(folder)
    config = json.loads((folder / "config.json").read_text())
    config.update(hidden_size=HIDDEN, num_hidden_layers=LAYERS, intermediate_size=INNER)
    config.update(num_attention_heads=HEADS, num_key_value_heads=HEADS, head_dim=HIDDEN // HEADS)
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = config["vocab_size"]
    shapes = {"model.embed_tokens.weight": [vocabulary, HIDDEN], "model.norm.weight": [HIDDEN]}
    shapes["lm_head.weight"] = [vocabulary, HIDDEN]
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            shapes[f"{at}.self_attn.{name}_proj.weight"] = [HIDDEN, HIDDEN]
        for name in ("gate", "up"):
            shapes[f"{at}.mlp.{name}_proj.weight"] = [INNER, HIDDEN]
        shapes[f"{at}.mlp.down_proj.weight"] = [HIDDEN, INNER]
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}.{name}.weight"] = [HIDDEN]
    header: dict[str, Any] = {}
    blobs, at_byte = [], 0
    for name, shape in shapes.items():
        blob = _weights(shape)
        header[name] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [at_byte, at_byte + len(blob)],
        }
        blobs.append(blob)
        at_byte += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text + b"".join(blobs)
    (folder / "model.safetensors").write_bytes(data)
    for file in (folder, *folder.iterdir()):
        file.chmod(0o755 if file.is_dir() else 0o644)
    folder.parent.chmod(0o755)


def _weights(shape: list[int]) -> bytes:
    """bfloat16 of a size that keeps the sums near one; ones for a norm."""
    if len(shape) == 1:
        return b"\x80\x3f" * shape[0]
    count = shape[0] * shape[1]
    # The upper byte is the sign and most of the exponent: 0x3c is 0.008 to 0.03.
    signs = bytes(0x3C if value < 128 else 0xBC for value in range(256))
    both = bytearray(2 * count)
    both[0::2] = os.urandom(count)
    both[1::2] = os.urandom(count).translate(signs)
    return bytes(both)


if __name__ == "__main__":
    main()

"""Which of cuFFT's GPU code transforms load: all sizes up to --most, some beyond, on this GPU.

    python3 -m bench.gpu.fft [--most 2048]

Runs where a GPU and PyTorch with CUDA's libraries are, with that Python, which holds no imgbuild.
Runs the transforms with the library as it is, twice; with a copy of it that has no LTO IR; with
one that is slimmed for this GPU, as images are; and with driver-compiled PTX forbidden. Prints
JSON: of each, how many transforms gave other bits than the whole library, and which. Exit code 1
where one of the copies differs: drops.json says that the LTO IR is not needed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.stamp import stamp
from builder.runtime.slim import elf, fatbin, one

_REPOSITORY = Path(__file__).resolve().parents[2]


def library() -> Path:
    """The libcufft that PyTorch brings or finds."""
    import torch  # noqa: PLC0415

    torch.fft.fft(torch.zeros(8, device="cuda"))
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return next(Path(line.split()[-1]) for line in maps if "/libcufft.so" in line)


def without(path: Path, target: Path, kinds: tuple[str, ...]) -> dict[str, int]:
    """A copy of the library whose entries of these kinds are zeros; how many bytes of each."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(path.read_bytes())
    gone: dict[str, int] = {}
    with one.opened(str(path)) as data, target.open("r+b") as file:
        out = mmap.mmap(file.fileno(), 0)
        for container in fatbin.containers(data, elf.read(data).head):
            for entry in container.entries:
                if entry.name.split()[-1] in kinds:
                    start = entry.at + entry.header
                    out[start : entry.end] = bytes(entry.end - start)
                    gone[entry.name] = gone.get(entry.name, 0) + entry.end - start
        out.close()
    return gone


def sizes(most: int) -> Iterator[int]:
    """Every one up to `most`; then powers, their neighbours, primes and some by chance."""
    yield from range(2, most + 1)
    chance = random.Random(1)  # noqa: S311
    large = {base**power for base in (2, 3, 5, 7, 11) for power in range(2, 21)}
    large |= {2**power + offset for power in range(11, 20) for offset in (-1, 1)}
    large |= {chance.randrange(most, 1 << 19) for _ in range(200)}
    yield from sorted(size for size in large if most < size <= 1 << 20)


def transforms(most: int) -> dict[str, str]:
    """Name of each transform -> hash of its result; runs in a process of its own."""
    import torch  # noqa: PLC0415

    torch.manual_seed(7)
    real = torch.randn(1 << 21, device="cuda")
    told: dict[str, str] = {}

    def tried(name: str, make: Any) -> None:
        try:
            out = make()
            flat = torch.view_as_real(out) if out.is_complex() else out
            data = flat.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()
            told[name] = hashlib.sha256(data).hexdigest()[:16]
        except RuntimeError as error:
            told[name] = f"error: {str(error)[:120]}"

    fft = torch.fft
    for size in sizes(most):
        for kind in (torch.float32, torch.float64):
            line = real[: 2 * size].to(kind).view(2, size)
            both = torch.complex(line, line.flip(-1))
            label = str(kind)[6:]
            tried(f"c2c {size} {label}", lambda: fft.fft(both))  # noqa: B023
            tried(f"r2c {size} {label}", lambda: fft.rfft(line))  # noqa: B023
            tried(f"c2r {size} {label}", lambda: fft.irfft(both, n=size))  # noqa: B023
        torch.backends.cuda.cufft_plan_cache.clear()
    for power in range(1, 15):
        line = real[: 2 << power].half().view(2, -1)
        tried(f"c2c {1 << power} float16", lambda: fft.fft(line.to(torch.complex32)))  # noqa: B023
    for shape in ((8, 8), (31, 64), (100, 120), (512, 512), (16, 17, 18), (64, 64, 64)):
        count = int(torch.tensor(shape).prod())
        block = real[:count].view(shape)
        tried(f"fftn {shape}", lambda: fft.fftn(block))  # noqa: B023
        tried(f"rfftn {shape}", lambda: fft.rfftn(block.double()))  # noqa: B023
    return told


def ran(most: int, preload: Path | None = None, **env: str) -> dict[str, str]:
    """The transforms in a new process, with this library before the one that PyTorch would load."""
    if preload:
        env["LD_PRELOAD"] = str(preload)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.gpu.fft", "--transforms", f"--most={most}"],
        cwd=_REPOSITORY,
        env={**os.environ, **env},
        check=False,
        stdout=subprocess.PIPE,
        timeout=500,
    )
    if done.returncode:
        return {"": f"the process ended with {done.returncode}"}
    told: dict[str, str] = json.loads(done.stdout)
    return told


def main() -> int:
    """Print what was found; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transforms", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--most", type=int, default=2048, metavar="SIZE")
    parser.add_argument("--work", type=Path, default=Path("/tmp/fft"))  # noqa: S108
    given = parser.parse_args()
    if given.transforms:
        sys.stdout.write(json.dumps(transforms(given.most)))
        return 0
    import torch  # noqa: PLC0415

    whole = library()
    start = time.monotonic()
    first, second = ran(given.most), ran(given.most)
    stable = {name for name in first if first[name] == second[name]}
    told: dict[str, Any] = {
        **stamp(),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "library": whole.name,
        "sha256": hashlib.sha256(whole.read_bytes()).hexdigest(),
        "transforms": len(first),
        "vary": sorted(set(first) - stable),
        "errors": sum(value.startswith("error") for value in first.values()),
        "seconds": round((time.monotonic() - start) / 2, 1),
    }
    bare, slim = given.work / "bare" / whole.name, given.work / "slim" / whole.name
    gone = without(whole, bare, ("lto",))
    slim.parent.mkdir(parents=True, exist_ok=True)
    slim.write_bytes(whole.read_bytes())
    major, minor = torch.cuda.get_device_capability()
    options = one.Options((10 * major + minor,), uncovered=one.EMPTY, linked=False)
    report = one.slim(str(slim), options)
    for name, out, left in (
        ("no LTO IR", ran(given.most, bare), gone),
        ("slimmed", ran(given.most, slim), report["removed"]),
        ("no PTX compiled", ran(given.most, CUDA_DISABLE_PTX_JIT="1"), {}),
    ):
        other = sorted(each for each in stable if out.get(each) != first[each])
        told[name] = {
            "bytes": left,
            "differ": len(other),
            "which": other[:40],
            "say": sorted({out.get(each, out.get("", "missing")) for each in other})[:5],
        }
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return 1 if told["no LTO IR"]["differ"] or told["slimmed"]["differ"] else 0


if __name__ == "__main__":
    sys.exit(main())

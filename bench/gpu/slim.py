"""Whether a slimmed PyTorch is the same on a GPU: the driver's answers, and operators' results.

    python3 -m bench.gpu.slim [--uncovered empty] [--containers 200]

Runs where a GPU and PyTorch with CUDA's libraries are, with that Python, which holds no imgbuild.
Copies the libraries (10 GB below --work), slims the copy for this GPU, then
  1. hands containers of both to the driver (cuLibraryLoadData) and compares what it says of each:
     the error, the number of kernels, their names;
  2. runs operators in a process for each and compares every bit of the results.
Prints JSON; exit code 1 where anything differs that does not differ between two runs of the whole.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import mmap
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.stamp import stamp
from builder.runtime.slim import elf, fatbin, one, tree
from tests.oracle.memory import Memory

_FOLDERS = ("torch", "nvidia", "triton", "cusparselt")
_REPOSITORY = Path(__file__).resolve().parents[2]


def copied(work: Path) -> Path:
    """A copy of the packages with GPU code, which links to all others stand beside."""
    import torch  # noqa: PLC0415 - what is looked at

    packages = Path(torch.__file__).parents[1]
    target = work / "site-packages"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for entry in packages.iterdir():
        if entry.name in _FOLDERS:
            shutil.copytree(entry, target / entry.name, symlinks=True)
        else:
            (target / entry.name).symlink_to(entry)
    return packages


class Driver:
    """What libcuda says of a container."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        context = ctypes.c_void_p()
        for name, *args in (
            ("cuInit", 0),
            ("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0),
            ("cuCtxSetCurrent", context),
        ):
            code = getattr(self._cuda, name)(*args)
            if code:
                raise SystemExit(f"{name}: error {code}")

    def answer(self, text: bytes) -> list[Any]:
        """Error of loading it, and the names of its kernels."""
        library, number = ctypes.c_void_p(), ctypes.c_uint()
        nothing = (None, None, 0, None, None, 0)
        code = self._cuda.cuLibraryLoadData(ctypes.byref(library), text, *nothing)
        if code:
            return [code]
        self._cuda.cuLibraryGetKernelCount(ctypes.byref(number), library)
        kernels = (ctypes.c_void_p * number.value)()
        self._cuda.cuLibraryEnumerateKernels(kernels, number, library)
        names = []
        for kernel in kernels:
            name = ctypes.c_char_p()
            self._cuda.cuKernelGetName(ctypes.byref(name), ctypes.c_void_p(kernel))
            names.append((name.value or b"").decode())
        self._cuda.cuLibraryUnload(library)
        return [0, len(names), hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()]


def compared(old: Path, new: Path, driver: Driver, most: int) -> Iterator[dict[str, Any]]:
    """Of a library's containers, those of which the driver says something else; the first: all."""
    with one.opened(str(old)) as before, new.open("rb") as file:
        found = fatbin.containers(before, elf.read(before).head) if before else []
        if not found:
            return
        after = Memory(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # type: ignore[arg-type]
        was = Memory(before)
        chosen = random.Random(1).sample(found, min(most, len(found)))  # noqa: S311
        errors: dict[str, int] = {}
        for each in chosen:
            address = was.address(each.at)
            size = int.from_bytes(after.read(address + 8, 8), "little")
            told = driver.answer(before[each.at : each.end])
            now = driver.answer(after.read(address, 16 + size))
            errors[str(told[0])] = errors.get(str(told[0]), 0) + 1
            if told != now:
                names = [entry.name for entry in each.entries]
                yield {"library": old.name, "at": each.at, "holds": names, "was": told, "is": now}
        yield {"library": old.name, "containers": len(chosen), "errors": errors}


def ran(packages: Path) -> dict[str, str]:
    """The operators with these packages."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "bench.gpu.operators", "--json"],
        cwd=_REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{_REPOSITORY}{os.pathsep}{packages}"},
        check=True,
        stdout=subprocess.PIPE,
        timeout=700,
    )
    told: dict[str, str] = json.loads(done.stdout)["results"]
    return told


def main() -> int:
    """Print what was found; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uncovered", choices=(one.KEEP, one.EMPTY), default=one.KEEP)
    parser.add_argument("--containers", type=int, default=200, metavar="N", help="of each library")
    parser.add_argument("--work", type=Path, default=Path("/tmp/slim"))  # noqa: S108
    given = parser.parse_args()
    import torch  # noqa: PLC0415

    major, minor = torch.cuda.get_device_capability()
    packages = copied(given.work)
    target = given.work / "site-packages"
    options = one.Options((10 * major + minor,), uncovered=given.uncovered)
    total = tree.slim(str(target), options)
    driver = Driver()
    start = time.monotonic()
    rows = [
        row
        for name in sorted(file["path"] for file in total["files"] if file.get("containers"))
        for row in compared(
            packages / Path(name).relative_to(target), Path(name), driver, given.containers
        )
    ]
    first, second, slim = ran(packages), ran(packages), ran(target)
    differ = {
        name: [first[name], slim.get(name)]
        for name in first
        if first[name] == second[name] != slim.get(name)
    }
    told = {
        **stamp(),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "slim": {**total["total"], "seconds": total["seconds"]},
        "driver": rows,
        "driver_seconds": round(time.monotonic() - start, 1),
        "operators": len(first),
        "vary": [name for name in first if first[name] != second[name]],
        "errors": {name: what for name, what in first.items() if ":" in what},
        "differ": differ,
    }
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return 1 if differ or any("was" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

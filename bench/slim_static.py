"""Proves without GPUs that slimmed libraries serve each GPU what the whole ones do.

    python -m bench.slim_static PATH --sm 80,89,90 [--cuobjdump PROGRAM] [--output FILE]

PATH: a folder of wheels as installed, a library, or a lock's folder, whose wheels are installed
into a temporary folder first (with uv: links into its cache, where that is on the same disk). Each
library is slimmed aside, for one SM at a time, as images are; see tests/oracle/unchanged.py. Then
readelf must warn of nothing new, and the dynamic loader must say what it says of the whole one.
cuobjdump: `pip install --target DIR nvidia-cuda-cuobjdump`. Exit code 1: something differs.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.stamp import ROOT, stamp
from builder.runtime.slim import one, targets, tree
from tests.oracle.cuobjdump import Unread
from tests.oracle.unchanged import Library

INSTALL = (  # the wheels of a layer's lock, as images have them
    *("uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
    *("--only-binary=:all:", "--index-strategy=unsafe-best-match"),
)
_LOAD = """
import ctypes, os, sys
try:
    ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOW)
except OSError as error:
    print(str(error).replace(sys.argv[1], "it"), flush=True)
else:
    print("loads", flush=True)
os._exit(0)
"""


@dataclass
class Sum:
    """What was found for one SM."""

    libraries: int = 0  # with GPU code
    containers: int = 0
    in_place: int = 0  # of these, where cuobjdump looks for them in the whole library
    listed: int = 0  # of these, what cuobjdump lists and does not extract: compared by us alone
    agreed: Counter[str] = field(default_factory=Counter)  # by what is taken of a container
    files: int = 0  # that the slimmer changes, with GPU code or without
    readelf: int = 0  # of these, without a new warning
    loads: int = 0  # of these, what the loader loads, whole and slimmed
    loads_not: Counter[str] = field(default_factory=Counter)  # whole or slimmed, and why
    refused: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    seconds: float = 0

    def told(self) -> dict[str, Any]:
        """For JSON."""
        out = dict(vars(self))
        out["agreed"] = dict(sorted(self.agreed.items()))
        out["loads_not"] = dict(self.loads_not.most_common())
        out["seconds"] = round(self.seconds)
        return out


class Proof:
    """Goes through files, and sums up by SM."""

    def __init__(self, tool: Path, sms: list[int], folder: Path, scratch: Path) -> None:
        self._tool, self._scratch = tool, scratch
        self.sums = {sm: Sum() for sm in sms}
        found = {str(path.parent) for path in folder.rglob("lib*.so*")} if folder.is_dir() else ()
        self._environment = os.environ | {"LD_LIBRARY_PATH": ":".join(sorted(found))}

    def file(self, path: Path, name: str) -> None:
        """Prove one."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as made:
            aside = Path(made)
            try:
                library = Library(self._tool, path, aside)
            except Unread as error:
                for total in self.sums.values():
                    total.differing.append(f"{name}: cuobjdump: {error}")
                return
            told: dict[str, list[str]] = {}  # hash of a slimmed file -> what is wrong with it
            for sm, total in self.sums.items():
                start = time.monotonic()
                slimmed = aside / f"sm_{sm}" / path.name
                slimmed.parent.mkdir()
                linked(path, slimmed)
                report = one.slim(str(slimmed), one.Options((sm,), uncovered=one.EMPTY))
                self._code(library, slimmed, name, sm)
                if report.get("refused"):
                    total.refused.append(f"{name}: {report['refused']}")
                elif report.get("changed"):
                    self._loader(path, slimmed, name, total, told)
                shutil.rmtree(slimmed.parent)
                total.seconds += time.monotonic() - start

    def _code(self, library: Library, slimmed: Path, name: str, sm: int) -> None:
        total = self.sums[sm]
        if not library.containers:
            return
        total.libraries += 1
        total.containers += library.containers
        total.in_place += library.in_place
        try:
            verdict = library.compared(slimmed, sm)
        except (Unread, AssertionError) as error:
            total.differing.append(f"{name}: {error}")
            return
        total.agreed += verdict.agreed
        total.listed += verdict.listed
        total.differing += [f"{name}: {what}" for what in verdict.differing]

    def _loader(
        self, path: Path, slimmed: Path, name: str, total: Sum, told: dict[str, list[str]]
    ) -> None:
        with slimmed.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest not in told:
            told[digest] = [*sorted(warnings(slimmed) - self._warnings(path)), ""]
            told[digest] += [self._loaded(path), self.load(slimmed)]
        *new, _, before, after = told[digest]
        total.files += 1
        total.readelf += not new
        total.differing += [f"{name}: readelf: {line}" for line in new]
        if before != after:
            total.differing.append(f"{name}: loader: {before}; slimmed: {after}")
        elif before == "loads":
            total.loads += 1
        else:
            total.loads_not[before] += 1

    def load(self, path: Path) -> str:
        """What the dynamic loader says of a library."""
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, path], env=self._environment, cwd=self._scratch,
            capture_output=True, text=True, errors="replace", timeout=300, check=False,
        )  # fmt: skip
        said = done.stdout.strip().rpartition("\n")[2].replace(str(path.parent), "")
        return said if not done.returncode else f"exit code {done.returncode}"

    # Of the file that was asked for last: each is asked for once an SM.
    @functools.lru_cache(maxsize=1)  # noqa: B019 - there is one proof a process
    def _loaded(self, path: Path) -> str:
        with tempfile.TemporaryDirectory(dir=self._scratch) as made:
            whole = Path(made, path.name)  # away from its neighbours, as the slimmed one is
            linked(path, whole)
            return self.load(whole)

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _warnings(self, path: Path) -> set[str]:
        return warnings(path)


def warnings(path: Path) -> set[str]:
    """What readelf complains of, without the places."""
    done = subprocess.run(
        ["readelf", "-aW", path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, errors="replace", timeout=900, check=False,
    )  # fmt: skip
    lines = {re.sub(r"\b(0x)?[0-9a-f]*\d[0-9a-f]*\b", "N", line) for line in
             done.stderr.replace(str(path), "it").splitlines()}  # fmt: skip
    return lines | ({f"exit code {done.returncode}"} if done.returncode else set())


def linked(path: Path, name: Path) -> None:
    """Give a file a second name, or make a copy."""
    try:
        name.hardlink_to(path)
    except OSError:  # another disk
        shutil.copyfile(path, name)


def installed(lock: Path, folder: Path) -> None:
    """Put a lock's wheels there."""
    python = re.search(r"-py(\d)(\d+)-", f"{lock.name}-")
    version = [f"--python-version={python[1]}.{python[2]}"] if python else []
    for layer in sorted(lock.glob("*.txt")):
        command: list[str | Path] = [*INSTALL, "--target", folder, *version, "--requirement", layer]
        subprocess.run(command, env=uv_environment(), check=True)


def uv_environment() -> dict[str, str]:
    """In which uv is found: beside this Python, or where it is anyway."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def files(path: Path) -> Iterator[Path]:
    """What the slimmer would look at, each inode once."""
    for name, _, _ in tree.inodes(str(path)):
        with one.opened(name) as data:
            ours = data is not None
        if ours:
            yield Path(name)


def proven(path: Path, tool: Path, sms: list[int], scratch: Path) -> dict[str, Any]:
    """The result, of a folder or a file."""
    proof = Proof(tool, sms, path, scratch)
    for each in files(path):
        name = each.name if each == path else str(each.relative_to(path))
        proof.file(each, name)
        sys.stderr.write(f"{name}\n")
    return {f"sm_{sm}": total.told() for sm, total in proof.sums.items()}


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.slim_static", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--sm", type=targets.parse, default=[80, 89, 90])
    parser.add_argument("--cuobjdump", type=Path, default=shutil.which("cuobjdump"))
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/slim_static.json")
    given = parser.parse_args(arguments)
    if not given.cuobjdump:
        parser.error("--cuobjdump: it is not in PATH")
    path = given.path.resolve()
    start = time.monotonic()
    told: dict[str, Any] = stamp() | {"of": path.name}  # of the code that runs, as it is now
    with tempfile.TemporaryDirectory(prefix="slim-static-") as made:
        scratch = Path(made, "scratch")
        scratch.mkdir()
        if list(path.glob("*.txt")) and path.parent.name == "locks":
            installed(path, Path(made, "wheels"))
            path = Path(made, "wheels")
        result = proven(path, given.cuobjdump.resolve(), given.sm, scratch)
    version = subprocess.run(
        [given.cuobjdump, "--version"], capture_output=True, text=True, check=True
    )
    told |= {
        "cuobjdump": re.findall(r"V([\d.]+)", version.stdout)[-1],
        "seconds": round(time.monotonic() - start),
        "sms": result,
    }
    given.output.write_text(json.dumps(told, indent=2) + "\n")
    return 1 if any(total["differing"] for total in result.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

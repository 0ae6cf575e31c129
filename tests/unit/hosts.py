"""Recorded hosts: tests/fixtures/hosts/NAME.txt, one file each, unpacked into a folder.

# What the host is.
cpus: 0-15                  /sys/devices/system/cpu/online
siblings: 2                 CPUs of a core: the first half of all are the cores' first threads
nodes: 0-7; 8-15            /sys/devices/system/node/node*/cpulist
touch: /dev/nvidia0         files of which only the name counts
junk: /proc/meminfo         files of all 256 bytes, in several orders
-- /proc/self/cgroup --     a file, up to the next such line
0::/
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.runtime import host
from builder.runtime.numbers import numbers
from tests.unit.support import ROOT

FOLDER = ROOT / "tests/fixtures/hosts"
NAMES = sorted(file.stem for file in FOLDER.glob("*.txt"))
_CPU = "/sys/devices/system/cpu"


@dataclass(frozen=True)
class Recorded:
    """A host before it is unpacked: path -> content."""

    title: str
    files: dict[str, bytes]

    def unpack(self, folder: Path) -> host.Root:
        for path, content in self.files.items():
            file = folder / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return host.Root(str(folder))


def read(name: str) -> Recorded:
    head, *rest = (FOLDER / f"{name}.txt").read_text().split("\n-- ")
    title, *directives = head.rstrip("\n").splitlines()
    files: dict[str, bytes] = {}
    told = [directive.partition(":")[::2] for directive in directives]
    cpus = next((numbers(value) for key, value in told if key == "cpus"), [])
    for key, value in told:
        files.update(_DIRECTIVES[key](value.strip(), cpus))
    for section in rest:
        path, _, text = section.partition(" --\n")
        files[path] = f"{text.rstrip()}\n".encode()
    return Recorded(title.removeprefix("# "), files)


def facts(name: str, folder: Path) -> dict[str, Any]:
    return host.discover(read(name).unpack(folder))


def _cpus(value: str, _: list[int]) -> dict[str, bytes]:
    return {f"{_CPU}/online": f"{value}\n".encode()}


def _siblings(value: str, cpus: list[int]) -> dict[str, bytes]:
    threads = int(value)
    cores = len(cpus) // threads
    files = {f"{_CPU}/smt/active": b"1\n" if threads > 1 else b"0\n"}
    for index, cpu in enumerate(cpus):
        shared = cpus[index % cores :: cores]
        files[f"{_CPU}/cpu{cpu}/topology/thread_siblings_list"] = (
            ",".join(map(str, shared)) + "\n"
        ).encode()
    return files


def _nodes(value: str, _: list[int]) -> dict[str, bytes]:
    return {
        f"/sys/devices/system/node/node{index}/cpulist": f"{cpus.strip()}\n".encode()
        for index, cpus in enumerate(value.split(";"))
    }


def _touch(value: str, _: list[int]) -> dict[str, bytes]:
    return dict.fromkeys(value.split(), b"")


def _junk(value: str, _: list[int]) -> dict[str, bytes]:
    shuffled = random.Random(4)
    return {
        path: b"".join(bytes(shuffled.sample(range(256), 256)) for _ in range(4))
        for path in value.split()
    }


_DIRECTIVES = {
    "cpus": _cpus,
    "siblings": _siblings,
    "nodes": _nodes,
    "touch": _touch,
    "junk": _junk,
}

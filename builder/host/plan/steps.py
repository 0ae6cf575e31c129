"""A plan as data: steps that put a host right, and what no step can.

A step is whole by itself: what it writes, what it tells the running kernel, what it installs, how
it sees that all is so already, and what takes it back. Formats make text of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from builder.host.check.rows import Setting

# What a step changes: the kinds of the rows' settings that a program can, and what only wishes ask.
Kind = Literal[
    "sysctl",
    "sysfs",
    "kernel-argument",
    "no-kernel-argument",
    "service",
    "nvidia-smi",
    "ulimit",
    "mount",
    "package",
    "mig",
]


@dataclass(frozen=True, kw_only=True)
class File:
    """A whole file, text."""

    path: str
    content: str
    mode: str = "0644"


@dataclass(frozen=True, kw_only=True)
class Live:
    """A file of the running kernel (or several, by a pattern of the shell), and what is written."""

    path: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """One line for a POSIX shell."""

    do: str
    check: str = ""  # succeeds where all is so; "": `do` runs after a file of the step has changed
    undo: str = ""  # "": nothing takes it back but the step's files
    writes: str = ""  # a file that `do` changes, to be kept before


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change: from what is to what is advised or wished."""

    id: str
    row: str  # of `host check`; "": only a wish asks for it
    kind: Kind
    title: str
    now: str
    advised: str
    why: str
    source: str
    settings: tuple[Setting, ...] = ()
    packages: tuple[str, ...] = ()  # NAME, or NAME>=VERSION
    files: tuple[File, ...] = ()
    commands: tuple[Command, ...] = ()
    units: tuple[str, ...] = ()  # of systemd, to be enabled and started
    live: tuple[Live, ...] = ()
    reboot: bool = False  # what it changes is read at boot
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Left:
    """Advice that no step follows, and who is to follow it how."""

    row: str
    title: str
    now: str
    setting: str  # as "kubelet cpuManagerPolicy=static"; "": the row names none
    why: str
    change: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All of it, in the order to do it."""

    system: str  # as os-release names it
    family: str  # "": none that is known here
    manager: str  # "apt", "dnf", "zypper", or ""
    steps: tuple[Step, ...]
    left: tuple[Left, ...]

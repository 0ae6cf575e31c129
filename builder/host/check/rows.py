"""A row of `imgbuild host check`: what was found, what is advised, and everything a plan needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from builder.facts import Fact, Name, Text

_FILE = Path(__file__).with_name("rows.yaml")


class Status(StrEnum):
    """How a row stands."""

    OK = "ok"
    ADVISED = "advised"  # another setting would be better
    FAILED = "failed"  # a required row: what is wanted cannot run
    UNKNOWN = "unknown"  # it could not be seen; `reason` says why
    NONE = "n/a"  # it does not concern this host; `reason` says why


# What a change is made with, for a plan of several: the kind says how, name and value what.
Kind = Literal[
    "sysctl",  # name=value, now and in /etc/sysctl.d
    "sysfs",  # a file and what is written to it
    "kernel-argument",  # of the kernel's command line
    "no-kernel-argument",
    "service",  # a systemd unit that should be "enabled" or "disabled"
    "nvidia-smi",  # an option and its value, of one GPU where the value is GPU=VALUE
    "ulimit",  # a limit of limits.conf
    "mount",  # a mounted file system and its size in bytes
    "kubelet",  # a field of the kubelet's configuration
    "package",  # what to install, or the version to have at least
    "firmware",  # a setting of the BIOS or the hypervisor: no command
]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One change that would put a row right."""

    kind: Kind
    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a look at the host told; the rest of a row is the same for all hosts."""

    status: Status
    now: str  # as found
    advised: str = ""  # "": what rows.yaml says
    reason: str = ""  # why it is unknown, failed, or does not concern this host
    settings: tuple[Setting, ...] = ()


class Advice(Fact):
    """What rows.yaml says of a row."""

    theme: Name
    title: Text
    advised: Text
    required: bool = False  # whether its failure ends with exit code 1
    why: Text
    impact: Text
    source: Text
    change: Text


class Thresholds(Fact):
    """The numbers and dates that rows judge by; each has its source in rows.yaml."""

    kernel: Text
    swappiness: int
    nofile: int
    memlock: int
    shm_per_gpu: int
    toolkit: Text
    open_only: tuple[Text, ...]
    open_names: tuple[Text, ...]
    closed_only: tuple[Text, ...]
    closed_last: int  # the last branch that knows those


class Branch(Fact):
    """A driver branch: the month after which it gets no more fixes."""

    kind: Text
    until: Text | None = None  # as "2028-06"; None: it is one that newer ones replace


class System(Fact):
    """A release of a distribution: the last day of its security fixes without a contract."""

    until: Text  # as "2029-05-31"
    source: Text


class Book(Fact):
    """All of rows.yaml."""

    thresholds: Thresholds
    branches: dict[Text, Branch]
    systems: dict[Text, dict[Text, System]]  # ID of os-release -> VERSION_ID or its major
    rows: dict[Name, Advice] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the answer."""

    id: str
    theme: str
    title: str
    status: Status
    now: str
    advised: str
    reason: str
    why: str
    impact: str
    source: str
    change: str
    required: bool
    settings: tuple[Setting, ...]


@cache
def book() -> Book:
    """The committed facts."""
    return Book.model_validate(yaml.safe_load(_FILE.read_text(encoding="utf-8")), strict=False)


def shown(text: str, most: int = 240) -> str:
    """What a file said, as it may be shown: one line, and no signs that a terminal obeys."""
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else "?" for sign in line)[:most]


def row(name: str, finding: Finding) -> Row:
    """A finding with what rows.yaml says of its row."""
    told = book().rows[name]
    return Row(
        id=name,
        theme=told.theme,
        title=told.title,
        status=finding.status,
        now=shown(finding.now),
        advised=shown(finding.advised) or told.advised,
        reason=shown(finding.reason),
        why=told.why,
        impact=told.impact,
        source=told.source,
        change=told.change,
        required=told.required,
        settings=tuple(
            Setting(kind=one.kind, name=shown(one.name), value=shown(one.value))
            for one in finding.settings
        ),
    )


def ok(now: str, advised: str = "") -> Finding:
    """All is as advised."""
    return Finding(status=Status.OK, now=now, advised=advised)


def better(now: str, *settings: Setting, advised: str = "", reason: str = "") -> Finding:
    """Another setting is advised."""
    return Finding(
        status=Status.ADVISED, now=now, advised=advised, reason=reason, settings=settings
    )


def failed(now: str, reason: str, *settings: Setting, advised: str = "") -> Finding:
    """What is required is not there."""
    return Finding(status=Status.FAILED, now=now, advised=advised, reason=reason, settings=settings)


def unknown(reason: str, now: str = "not known") -> Finding:
    """It could not be seen."""
    return Finding(status=Status.UNKNOWN, now=now, reason=reason)


def not_here(reason: str) -> Finding:
    """It does not concern this host."""
    return Finding(status=Status.NONE, now="-", reason=reason)

"""What is to be done, one step after another: as a shell script, or as data.

A command is the list of its words, so that nothing a user gives becomes a shell's. What undoes a
step, and what only looks, stays a comment in the script.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

Command = tuple[str, ...]
_WIDTH = 96
_FAILED = "FAILED|SUSPENDED"  # states that a queued resource does not leave by itself


class Kind(StrEnum):
    """Whether a script does it."""

    DO = "do"
    LOOK = "look"
    UNDO = "undo"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing, and why."""

    name: str
    why: str
    commands: tuple[Command, ...]
    kind: Kind = Kind.DO
    until: str | None = None  # asked again until this is the answer


def data(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """As JSON has it; commands are lists of words, for no shell."""
    return [
        {**asdict(step), "kind": str(step.kind), "commands": [list(one) for one in step.commands]}
        for step in steps
    ]


def script(steps: Iterable[Step], says: Iterable[str]) -> str:
    """For a POSIX shell; ends at the first command that fails."""
    steps = tuple(steps)
    lines = ["#!/bin/sh", *(line for say in says for line in _wrapped(say))]
    if any("$" in word for step in steps for one in step.commands for word in one):
        lines.append(
            "# shellcheck disable=SC2016 # the worker's shell is to expand it, not this one"
        )
    lines.append("set -eu")
    for step in steps:
        lines += ["", *_wrapped(f"{step.name}: {step.why}")]
        mark = "" if step.kind is Kind.DO else "# "
        for command in step.commands:
            made = _waiting(command, step.until) if step.until else shown(command).splitlines()
            lines += [f"{mark}{line}" for line in made]
    return "\n".join(lines) + "\n"


def shown(command: Command) -> str:
    """A command as a shell reads it; a long one with an option a line."""
    whole = shlex.join(command)
    if len(whole) <= _WIDTH:
        return whole
    lines = [""]
    for word in map(shlex.quote, command):
        if word.startswith("--") and lines[-1].strip():
            lines.append(f"  {word}")
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(lines)


def _waiting(command: Command, wanted: str) -> list[str]:
    return [
        "state=",
        f'while [ "$state" != {wanted} ]; do',
        f"  state=$({shlex.join(command)})",
        '  case "$state" in',
        f"    {wanted}) ;;",
        f"    {_FAILED})",
        '      echo "it is $state" >&2',
        "      exit 1",
        "      ;;",
        "    *) sleep 30 ;;",
        "  esac",
        "done",
    ]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )

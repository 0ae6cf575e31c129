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
_MISSED = 20  # questions in a row without an answer, half a minute apart


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
    unless: Command | None = None  # where this finds it, it was done before


def data(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """As JSON has it; commands are lists of words, for no shell."""
    return [
        {
            **asdict(step),
            "kind": str(step.kind),
            "commands": [list(one) for one in step.commands],
            "unless": list(step.unless) if step.unless else None,
        }
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
        made: list[str] = []
        for command in step.commands:
            made += _waiting(command, step.until) if step.until else shown(command).splitlines()
        lines += [f"{mark}{line}" for line in (_once(made, step.unless) if step.unless else made)]
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


def _once(lines: list[str], found: Command) -> list[str]:
    """For who runs the script again; no word of these commands breaks a line."""
    within = [f"  {line}" for line in lines]
    return [f"if ! {shlex.join(found)} > /dev/null 2>&1; then", *within, "fi"]


def _waiting(command: Command, wanted: str) -> list[str]:
    """Days may pass, and with them a network's bad minute."""
    return [
        "state=",
        "missed=0",
        f'while [ "$state" != {wanted} ]; do',
        f"  if state=$({shlex.join(command)}); then",
        "    missed=0",
        "  else",
        "    missed=$((missed + 1))",
        f'    [ "$missed" -lt {_MISSED} ] || exit 1',
        "  fi",
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

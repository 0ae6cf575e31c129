"""A plan as a POSIX shell script: changes what differs, keeps what was there, says what it does."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path

from builder.host.plan.formats.words import comment, headline, left_lines
from builder.host.plan.steps import File, Plan, Step


@cache
def _functions(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _head(plan: Plan, title: str) -> list[str]:
    return ["#!/bin/sh", f"# {title}", "set -eu", f"MANAGER={plan.manager}"]


def render(plan: Plan) -> str:
    """The script that makes the changes."""
    title = f"imgbuild host plan for {plan.system}: changes what is not as it should be."
    lines = [*_head(plan, title), _functions("apply.sh").rstrip("\n"), ""]
    for step in plan.steps:
        lines += [*_step(step), ""]
    lines += left_lines(plan)
    return "\n".join([*lines, "finish"]) + "\n"


def undo(plan: Plan) -> str:
    """The script that takes back whatever such scripts have changed."""
    title = "imgbuild host plan --undo: takes back what its script has changed."
    return "\n".join([*_head(plan, title), _functions("undo.sh")])


def _step(step: Step) -> list[str]:
    lines = comment(f"{step.why}. Source: {step.source}.")
    lines += comment(step.note) if step.note else []
    lines.append(f"step {step.id} {shlex.quote(headline(step))}")
    if step.packages:
        lines.append("packages " + " ".join(map(shlex.quote, step.packages)))
    for file in step.files:
        lines += _file(file)
        lines += [f"read_later {file.path}"] if step.kind == "sysctl" else []
    for one in step.commands:
        lines.append("run " + " ".join(map(shlex.quote, (one.check, one.do, one.undo, one.writes))))
    lines += [f"unit {shlex.quote(unit)}" for unit in step.units]
    lines += [f"live {shlex.quote(one.path)} {shlex.quote(one.value)}" for one in step.live]
    return [*lines, *(["boot"] if step.reboot else [])]


def _file(file: File) -> list[str]:
    mark = "EOF"
    while mark in file.content.splitlines():
        mark += "_"
    return [f"put {file.path} {file.mode} << '{mark}'", file.content.rstrip("\n"), mark]

"""The commands of a Ray cluster as one script for all its hosts, and as data."""

from __future__ import annotations

import shlex
import textwrap
from typing import Any

from builder.deploy import rayapp, rayhosts
from builder.deploy.rayhosts import Engine, Hosts
from builder.deploy.served import Served

Object = dict[str, Any]

_WIDTH = 96
# A folder closed to others, and in it a file that any user of a container may read.
# One that is there keeps its mode: it may be somebody's.
_MADE = (
    "(umask 077 && mkdir -p {folder})",
    'test -z "$(find {folder} -prune -perm /0077)" || {{ echo {open} >&2; exit 1; }}',
    "test -s {token} || od -An -v -tx1 -N32 /dev/urandom | tr -d ' \\n' > {token}",
    "test -s {token}",
    "chmod 0444 {token}",
)


def data(served: Served, wanted: Hosts) -> Object:
    """Arguments as they are, for who starts processes and no shell."""
    workers = range(1, wanted.count)
    stopped = ["head", *(f"worker-{number}" for number in workers)]
    return {
        "cell": served.cell_id,
        "token": {"file": wanted.token, "shell": _token(wanted)},
        "head": rayhosts.head(served, wanted),
        "workers": [rayhosts.worker(served, wanted, number) for number in workers],
        "status": rayhosts.status(served, wanted),
        "server": rayhosts.server(served, wanted),
        "stop": {role: rayhosts.stop(wanted, role) for role in stopped},
        "url": f"http://{wanted.head}:{served.port}",
        "health": served.health if wanted.spread else rayapp.PROXY_HEALTH,
        "ports": [
            {"port": one.number, "what": one.what, "on": one.on, "asked_by": one.asked_by}
            for one in rayhosts.ports(served, wanted)
        ],
    }


def script(served: Served, wanted: Hosts) -> str:
    """For `sh FILE PART` on each host; shellcheck has nothing to say of it."""
    made = data(served, wanted)
    workers = {f"worker-{n}": command for n, command in enumerate(made["workers"], start=1)}
    # In the shell's place, so that who ends what he has started ends the node.
    stays = ["exec"] if wanted.engine is Engine.APPTAINER else []
    parts = {
        "token": [
            "# Once; then copy the folder to the same place on all hosts, closed as it is.",
            *made["token"]["shell"],
        ],
        "head": lines([*stays, *made["head"]]),
        **{role: lines([*stays, *command]) for role, command in workers.items()},
        "status": lines(made["status"]),
        "server": lines(made["server"]),
        **{f"stop-{role}": lines(command) for role, command in made["stop"].items() if command},
    }
    text = ["#!/bin/sh", *_says(served, wanted, list(parts))]
    if wanted.engine is Engine.APPTAINER:  # of Docker and Podman it knows that they start shells
        text.append("# shellcheck disable=SC2016 # the container's shell is to expand it")
    text += ["set -eu", "", 'case "${1-}" in']
    for part, body in parts.items():
        text += [f"{part})", *(f"  {line}" if line else "" for line in body), "  ;;"]
    usage = shlex.quote(f"one of: {' '.join(parts)}")
    text += ["*)", f"  echo {usage} >&2", "  exit 2", "  ;;", "esac"]
    return "\n".join(text) + "\n"


def lines(command: list[str]) -> list[str]:
    """A command for a shell, wrapped between its options."""
    made = [""]
    for word in _units(command):
        if made[-1] and len(made[-1]) + len(word) > _WIDTH:
            made.append("")
        made[-1] += f" {word}" if made[-1] else word
    return [
        ("  " if number else "") + line + (" \\" if number < len(made) - 1 else "")
        for number, line in enumerate(made)
    ]


def _units(command: list[str]) -> list[str]:
    """Quoted words, each option with its value."""
    made: list[str] = []
    after_option = False
    for word in command:
        quoted = shlex.quote(word)
        if after_option and not word.startswith("-"):
            made[-1] += f" {quoted}"
            after_option = False
            continue
        made.append(quoted)
        after_option = word.startswith("--") and "=" not in word
    return made


def _token(wanted: Hosts) -> list[str]:
    folder, _, _ = wanted.token.rpartition("/")
    opened = (
        f"{folder} is open to others; take one for the token alone (--token-folder), or close it"
    )
    named = {"folder": folder, "token": wanted.token, "open": opened}
    named = {name: shlex.quote(text) for name, text in named.items()}
    return [step.format(**named) for step in _MADE]


def _engines(count: int) -> str:
    return "one engine" if count == 1 else f"{count} engines, one a host,"


def _says(served: Served, wanted: Hosts, parts: list[str]) -> list[str]:
    """What it is, how it is used, and the table of ports; values of a user's are not in it."""
    what = (
        f"one engine over {wanted.count} hosts: tensor parallel {wanted.gpus}, pipeline "
        f"parallel {wanted.count}"
        if wanted.spread
        else f"{_engines(wanted.computing)} behind Ray Serve"
    )
    made = [f"{served.cell_id}: {served.title} {served.version}, {what}."]
    made += [
        "Made by `imgbuild deploy ray`; docs/ray.md says why. Run `sh FILE PART` in this order:"
    ]
    made += textwrap.wrap(" ".join(parts), 90, initial_indent="  ", subsequent_indent="  ")
    if wanted.engine is Engine.APPTAINER:
        made += [
            "Nodes and `vllm serve` stay in the foreground: start them under what watches them."
        ]
    elif wanted.spread:
        made += ["The server stays in the foreground: start it under what watches it."]
    made += [
        "The model is in the same folder on all hosts.",
        "",
        "Ports, none of them for the internet:",
    ]
    for port in rayhosts.ports(served, wanted):
        made.append(f"  {port.number:<13}{port.on:<12}{port.what:<25}asked by {port.asked_by}")
    return [f"# {line}".rstrip() for line in made]

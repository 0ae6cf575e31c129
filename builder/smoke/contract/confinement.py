"""Checks that it runs where little is granted, as clusters run it: no root, no home, no network."""

from __future__ import annotations

import os
from typing import Any

from builder.engines.base import UnsupportedError
from builder.errors import BuildError, quoted
from builder.smoke.contract.seen import ANYWHERE, SCRATCH, sees
from builder.smoke.subject import Subject

# Kubernetes and OpenShift give a uid that nobody knows, with group 0 or without.
STRANGERS = ("123456:0", "123456:123456")
LONG = f"{SCRATCH}/{'t' * (150 - len(SCRATCH) - 1)}"


def user(subject: Subject) -> str:
    """Nobody special, and by number: Kubernetes' runAsNonRoot does not look names up."""
    printed = subject.says("-u", entrypoint="id").strip()
    if not printed.isdigit():
        raise BuildError(f"`id -u` prints {quoted(printed)}")
    uid = int(printed)
    if subject.is_sif:
        if uid != os.getuid():
            raise BuildError(f"uid {uid}, and the caller's is {os.getuid()}")
        return f"uid {uid}, the caller's"
    named = (subject.config.user or "").partition(":")[0]
    if uid == 0:
        raise BuildError("the image runs as root")
    if not named.isdigit():
        raise BuildError(f"USER is {named!r}, not a number")
    return f"uid {uid}"


def any_uid(subject: Subject) -> str:
    """A uid without a passwd entry, with group 0 and without."""
    homes = []
    for stranger in STRANGERS:
        seen = _writes(sees(subject, "writable", user=stranger), stranger)
        if (runs_as := f"{seen['uid']}:{seen['gid']}") != stranger:
            raise BuildError(f"it runs as {runs_as}, and {stranger} was asked for")
        if seen["passwd"]:
            raise BuildError(f"{stranger} is no stranger to it, but {seen['passwd']!r}")
        homes.append(f"{stranger} has the home {seen['places']['HOME']}")
    return ", ".join(homes)


def read_only(subject: Subject) -> str:
    """One writable folder is enough, for the framework's import too."""
    seen = sees(subject, "writable", subject.module, read_only=True, tmpfs=(SCRATCH,))
    _writes(seen)
    if not seen["read_only"]:
        raise BuildError("its root stays writable")
    imported = f"{subject.module} imports, and " if subject.module else ""
    return f"{imported}{len(seen['places'])} places are writable, HOME is {seen['places']['HOME']}"


def no_home(subject: Subject) -> str:
    """HOME is a folder that is not there and cannot be made."""
    seen = _writes(sees(subject, "writable", **ANYWHERE))
    return f"HOME becomes {seen['places']['HOME']}"


def _writes(seen: dict[str, Any], who: str = "") -> dict[str, Any]:
    if seen["refused"]:
        tail = [f"{name}: {why}" for name, why in seen["refused"].items()]
        whose = f" for {who}" if who else ""
        raise BuildError(f"not writable{whose}: {', '.join(seen['refused'])}", tail=tail)
    return seen


def no_network(subject: Subject) -> str:
    """It starts, the framework imports, and loopback works."""
    seen = sees(subject, "offline", subject.module, network=False)
    if seen["routes"]:
        raise BuildError(f"it keeps a route by {', '.join(seen['routes'])}")
    return f"{f'{subject.module} imports' if subject.module else 'it starts'}, without any route"


def tmpdir(subject: Subject) -> str:
    """Sockets can be bound below a TMPDIR that is longer than a socket's path may be."""
    try:
        seen = sees(subject, "tmpdir", env={"TMPDIR": LONG}, tmpfs=(LONG,))
    except UnsupportedError:
        # Without that folder: the sockets have to be somewhere else.
        seen = sees(subject, "tmpdir", env={"TMPDIR": LONG})
    else:
        if seen["real"] != LONG:
            raise BuildError(f"TMPDIR has {len(LONG)} characters, and {seen['real']} is used")
    return f"a socket is bound in {seen['folder']}"

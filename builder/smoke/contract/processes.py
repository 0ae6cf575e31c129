"""Checks of what runs in it: SIGTERM reaches that, and orphans that end are taken away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from builder.engines.base import Container
from builder.errors import BuildError
from builder.smoke.contract import inside
from builder.smoke.contract.seen import INSIDE, sees
from builder.smoke.subject import Subject, last_words

STOP_SECONDS = 10.0
OWN_CODE, KILLED = 43, 128 + 15
START_SECONDS = 60.0  # of a stand-in, which only prints a line


def sigterm(subject: Subject) -> str:
    """It reaches what runs, soon, and the exit code comes back."""
    told = [_stand_in(subject, OWN_CODE, str(OWN_CODE)), _stand_in(subject, KILLED)]
    if subject.static or subject.cannot_serve:
        why = "--static" if subject.static else subject.cannot_serve
        return f"{', '.join(told)}; no server: {why}"
    with _removed(subject.start()) as container:
        subject.healthy(container)
        told.append(_ends(container, "the server", (0, KILLED)))
    return ", ".join(told)


def _stand_in(subject: Subject, code: int, *handler: str) -> str:
    """A command in the server's place, which ends with that code."""
    asked = subject.container(subject.python, "-c", INSIDE, "wait", *handler)
    with _removed(subject.engine.start(asked)) as container:
        _ready(container)
        return _ends(container, "a command", (code,))


@contextmanager
def _removed(container: Container) -> Iterator[Container]:
    try:
        yield container
    finally:
        container.remove()


def _ready(container: Container) -> None:
    deadline = time.monotonic() + START_SECONDS
    while inside.READY not in container.log():
        if (code := container.exit_code()) is not None:
            tail = last_words(container)
            raise BuildError(f"a command ended at once with exit code {code}", tail=tail)
        if time.monotonic() > deadline:
            tail = last_words(container)
            raise BuildError(f"a command did not start in {START_SECONDS:g} s", tail=tail)
        time.sleep(0.1)


def _ends(container: Container, what: str, codes: tuple[int, ...]) -> str:
    start = time.monotonic()
    try:
        code = container.stop(STOP_SECONDS)
    except BuildError:
        tail = last_words(container)
        raise BuildError(f"{what} ignored SIGTERM for {STOP_SECONDS:g} s", tail=tail) from None
    if code not in codes:
        wanted = " or ".join(map(str, codes))
        tail = last_words(container)
        raise BuildError(f"{what} gives exit code {code}, not {wanted}", tail=tail)
    return f"{what} gives {code} after {time.monotonic() - start:.1f} s"


def zombies(subject: Subject) -> str:
    """Orphans that end are taken away."""
    seen = sees(subject, "zombies")
    if seen["zombies"]:
        raise BuildError(f"nobody reaps: {', '.join(seen['zombies'])} (init: {seen['init']})")
    return f"{inside.ORPHANS} orphans, reaped by {seen['init']}"

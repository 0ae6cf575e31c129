"""Checks that the framework in it is the cell's release, by an import, by pip, by a program."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from builder.errors import BuildError
from builder.smoke.contract.seen import ANYWHERE
from builder.smoke.report import Skip
from builder.smoke.subject import Subject

Check = Callable[[Subject], str]


def version(subject: Subject) -> str:
    """The framework that is imported is the cell's release."""
    return subject.version(partial(subject.says, **ANYWHERE))


def distribution(name: str) -> Check:
    """The same by what pip knows, for upstream's images: their imports may want a GPU."""
    code = f"from importlib.metadata import version; print(version({name!r}))"

    def check(subject: Subject) -> str:
        return subject.confirms(name, subject.says(subject.python, "-c", code, **ANYWHERE))

    return check


def program(*command: str, on_device: bool = False, is_release: bool = True) -> Check:
    """The image's start runs a program of the framework's, which names its release.

    `on_device`: it stops where the device is missing. Not `is_release`: it names another one.
    """
    shown = f"`{' '.join(command)}`"

    def check(subject: Subject) -> str:
        if on_device and subject.cannot_serve:
            raise Skip(f"{shown} {subject.cannot_serve}")
        printed = subject.says(*command, **ANYWHERE)
        if is_release:
            return subject.confirms(shown, printed)
        if not printed.strip():
            raise BuildError(f"{shown} prints nothing")
        return f"{shown}: {printed.strip().splitlines()[-1]}"

    return check

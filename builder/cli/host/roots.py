"""The option `--root`: a recorded host in place of this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from builder.errors import UserError
from builder.host.check import Host

_Command = TypeVar("_Command", bound=Callable[..., Any])


def option(what: str) -> Callable[[_Command], _Command]:
    """`--root` for a verb that would do `what`."""
    return click.option(
        "--root",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        default=Path("/"),
        help=f"{what} a recorded host instead of this one; no process is run then.",
    )


def opened(root: Path) -> Host:
    """The host below a folder; raises UserError for a folder that is none."""
    host = Host(root)
    if not host.live and host.is_empty():
        raise UserError(
            f"--root {root}: nothing of a host is there, neither etc, proc nor sys",
            hint="name a folder that `imgbuild host record` has written, or a mounted disk",
        )
    return host

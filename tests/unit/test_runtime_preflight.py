"""The preflight says what the matrix says, in the same words; and what only a host can show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder import manifest
from builder.facts import Accelerator, Build, Gpu, Matrix, Release, Stack
from builder.matrix import rules
from builder.runtime import gpus, host, preflight
from builder.runtime import manifest as runtime_manifest
from tests.unit import hosts
from tests.unit.support import ROOT

# Older and newer than each floor there is, and those themselves.
DRIVERS = [
    *("450.80.02", "470.256.02", "525.60.13", "535.104.05", "535.183.01", "550.54.14"),
    *("550.163.01", "560.28.03", "570.26", "570.124.06", "575.51.03", "580.65.05", "580.65.06"),
    *("580.95.05", "590.44.01", "600"),
]
ASKED = {"driver": "driver", "gpu_code": "gpu-code", "kernel_code": "kernel-code"}


def facts_of(gpu: Gpu | None, driver: str) -> dict[str, Any]:
    """A host with this GPU and driver, on which nothing else is wrong."""
    device = gpu and {
        "index": 0,
        "uuid": "GPU-0",
        "name": gpu.title,
        "bus": None,
        "sm": gpu.sm,
        "memory_mib": 80_000,
        "driver": driver,
        "mig": False,
    }
    facts = host.discover(
        host.Root("/nonexistent"), {"driver": driver, "devices": [device] if device else []}
    )
    facts["gpus"] |= {
        "control": True,
        "nodes": ["/dev/nvidia0"],
        "libraries": [{"folder": "/usr/lib64", "version": driver, "compat": False}],
    }
    return facts


def test_the_preflight_judges_as_the_matrix_does(matrix: Matrix) -> None:
    """Every build with CUDA, every GPU and a range of drivers."""
    stack = next(s for s in matrix.stacks.values() if s.accelerator is Accelerator.CUDA)
    os = next(iter(matrix.os.values()))
    compared = 0
    drivers = {*DRIVERS, *(s.driver for s in matrix.stacks.values() if s.driver)}
    for framework_name, framework in matrix.frameworks.items():
        for release in framework.releases:
            for build in release.builds:
                if build.accelerator is not Accelerator.CUDA:
                    continue
                about = manifest.contents(matrix, framework_name, framework, release, build)
                about = json.loads(json.dumps(about))
                for gpu in (None, *matrix.gpus.values()):
                    for driver in sorted(drivers):
                        theirs = objections(
                            release, build, stack.model_copy(update={"driver": driver}), gpu, os
                        )
                        found = preflight.check(facts_of(gpu, driver), about)
                        said = {f["name"]: f for f in found}
                        assert set(said) == {ASKED[rule] for rule in theirs}, (
                            framework_name,
                            release.version,
                            build.name,
                            gpu and gpu.title,
                            driver,
                        )
                        for rule in theirs:
                            finding = said[ASKED[rule]]
                            own = next(r for r in rules.RULES if r.name == rule)
                            assert finding["fatal"]
                            assert (finding["why"], finding["source"]) == (own.why, own.source)
                            assert own.why in preflight.told(finding)
                            assert own.source in preflight.told(finding)
                            assert "None" not in preflight.told(finding)
                        compared += 1
    assert compared > 1000


def test_the_preflight_knows_which_code_runs_where_as_the_matrix_does(matrix: Matrix) -> None:
    """All pairs of SMs that matrix.yaml names, each build's lists, and the rule itself."""
    builds = [b for f in matrix.frameworks.values() for r in f.releases for b in r.builds]
    lists = {tuple(sms) for b in builds for sms in (b.sms, b.kernel_sms)}
    gpus = {gpu.sm for gpu in matrix.gpus.values()}
    named = sorted(gpus | {sm for sms in lists for sm in sms})
    assert len(named) > 8
    for sm in named:
        for sms in (*lists, *((one,) for one in named)):
            wanted = any(
                one.partition(".")[0] == sm.partition(".")[0]
                and int(one.partition(".")[2]) <= int(sm.partition(".")[2])
                for one in sms
            )
            told = (preflight.runs_on(sms, sm), rules.runs_on(sms, sm))
            assert told == (wanted, wanted), (sms, sm)


def objections(release: Release, build: Build, stack: Stack, gpu: Gpu | None, os: Any) -> set[str]:
    """What the matrix's rules object to, of those that a host can be asked."""
    place = rules.Place(stack=stack, gpu=gpu, systems=(os,), torch_of=None, as_of=os.end_of_life)
    verdict = rules.judge(rules.Candidate(release=release, build=build, place=place))
    found = set(verdict.objections) & set(ASKED)
    # One sentence is enough for a GPU that neither has code for.
    return found - {"kernel_code"} if "gpu_code" in found else found


@pytest.mark.parametrize("version", ["580.65.06", "535.104", "9", "1.2.3.4"])
def test_versions_compare_by_their_numbers(version: str) -> None:
    assert preflight.numbers(version) == tuple(int(part) for part in version.split("."))


def test_the_geforce_of_the_matrix_are_known_by_their_names(matrix: Matrix) -> None:
    for gpu in matrix.gpus.values():
        assert preflight.is_geforce(gpu.title) == gpu.geforce, gpu.title
    assert not preflight.is_geforce(None)


# What only a host can show.

CUDA: dict[str, Any] = {
    "title": "vLLM",
    "accelerator": "cuda",
    "cuda": "13.0",
    "driver_floor": "580.65.06",
    "sms": ["9.0"],
    "kernel_sms": [],
    "rules": {},
}
H100 = Gpu(title="NVIDIA H100", sm="9.0", source="x")
RTX = Gpu(title="NVIDIA GeForce RTX 4090", sm="9.0", source="x")


def names(facts: dict[str, Any], ranks: int | None = None) -> list[tuple[str, bool]]:
    return [(f["name"], f["fatal"]) for f in preflight.check(facts, CUDA, ranks)]


def test_nothing_is_wrong() -> None:
    assert names(facts_of(H100, "580.65.06")) == []
    assert names(facts_of(H100, "580.65.06"), ranks=1) == []


@pytest.mark.parametrize(
    ("gpu", "driver", "compat", "found"),
    [
        (H100, "580.95.05", "575.57.08", ["shadowed-driver"]),
        (H100, "580.95.05", "590.44.01", []),
        (H100, "550.163.01", "580.95.05", []),  # forward compatibility as it is meant
        (H100, "550.163.01", "575.57.08", ["driver"]),
        (H100, "550.163.01", None, ["driver"]),
        (RTX, "550.163.01", "580.95.05", ["driver", "forward-compatibility"]),
        (RTX, "580.95.05", "590.44.01", ["forward-compatibility"]),
    ],
)
def test_cuda_compat(gpu: Gpu, driver: str, compat: str | None, found: list[str]) -> None:
    facts = facts_of(gpu, driver)
    own = {"folder": "/usr/local/cuda/compat", "version": compat, "compat": True}
    facts["gpus"]["libraries"].insert(0, own)
    assert [name for name, _ in names(facts)] == found
    # Behind the driver's own it does nothing.
    facts["gpus"]["libraries"].reverse()
    assert ("shadowed-driver", True) not in names(facts)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        ("no answer in 2 s", ("nvidia-smi", False)),
        ("No devices were found", ("nvidia-smi", False)),
        ("GPU is lost", ("gpu-lost", True)),
        ("Unable to determine the device handle for gpu 0000:3B:00.0: Unknown Error", None),
        ("Failed to initialize NVML: Unknown Error", ("devices-refused", True)),
        ("Failed to initialize NVML: Driver/library version mismatch", ("driver-mismatch", True)),
        ("GPU 1: GPU requires reset", ("gpu-lost", True)),
    ],
)
def test_what_nvidia_smi_complains_of(error: str, found: tuple[str, bool] | None) -> None:
    facts = facts_of(None, "580.95.05")
    facts["gpus"]["error"] = error
    assert names(facts) == [found or ("gpu-lost", True)]


@pytest.mark.parametrize(
    ("error", "persistence"),
    [("no answer in 2 s", True), ("no end in 2 s", True), ("No devices were found", False)],
)
def test_a_slow_nvidia_smi_is_mended_by_persistence_mode(error: str, persistence: bool) -> None:
    facts = facts_of(None, "580.95.05")
    facts["gpus"]["error"] = error
    (found,) = preflight.check(facts, CUDA)
    assert ("nvidia-smi -pm 1" in found["fix"]) == persistence


def test_a_lost_gpu_beside_others_is_told_and_a_remark_is_not() -> None:
    facts = facts_of(H100, "580.95.05")
    facts["gpus"]["error"] = "GPU 1: GPU is lost"
    assert names(facts) == [("gpu-lost", False)]  # the others are enough
    assert names(facts, 2)[0] == ("gpu-lost", True)
    facts["gpus"]["error"] = "WARNING: infoROM is corrupted at gpu 0000:1B:00.0"
    assert names(facts) == []


@pytest.mark.parametrize(
    ("ranks", "shm_mib", "found"),
    [
        (1, 64, []),
        (None, 64, []),
        (2, 64, [("shm", False)]),
        (2, 256, [("shm", False)]),
        (2, 512, []),
        (2, None, []),
        (3, 4096, [("too-few-gpus", True)]),
    ],
)
def test_tensor_parallelism(
    ranks: int | None, shm_mib: int | None, found: list[tuple[str, bool]]
) -> None:
    facts = facts_of(H100, "580.95.05")
    facts["gpus"]["devices"] *= 2
    facts["shm"] = shm_mib and shm_mib << 20
    assert names(facts, ranks) == found
    if ranks == 2:
        for device in facts["gpus"]["devices"]:
            device["mig"] = True
        assert ("mig", True) in names(facts, ranks)


@pytest.mark.parametrize("container", ["docker", "podman", "apptainer", "kubernetes", None])
def test_the_fix_is_for_this_container(container: str | None) -> None:
    facts = facts_of(None, "580.95.05")
    facts["platform"]["container"] = container
    facts["shm"] = 1 << 20
    (shm,) = preflight.check(facts, CUDA, 2)
    facts["gpus"] |= {"control": False, "nodes": [], "libraries": []}
    (absent,) = preflight.check(facts, CUDA)
    assert (shm["name"], absent["name"]) == ("shm", "no-gpu")
    for other in ("docker", "podman", "apptainer", "kubernetes"):
        if other not in (container, "docker"):
            assert other not in absent["fix"].lower().replace("nvidia", "")
    assert ("docker" in shm["fix"]) == (container in ("docker", None))


def test_the_worst_comes_first_and_each_has_all_its_parts(tmp_path: Path) -> None:
    for name in hosts.NAMES:
        facts = hosts.facts(name, tmp_path / name)
        for accelerator in ("cuda", "cpu", "tpu"):
            found = preflight.check(facts, {**CUDA, "accelerator": accelerator}, 4)
            assert [f["fatal"] for f in found] == sorted((f["fatal"] for f in found), reverse=True)
            assert all(f["what"] and f["fix"] for f in found)
            assert accelerator != "cpu" or not found


@pytest.mark.parametrize(
    ("image", "environment", "found"),
    [
        ("jax-0.12.0.1-tpu", {}, ["no-tpu"]),
        ("jax-0.12.0.1-tpu", {"JAX_PLATFORMS": "cpu"}, []),
        ("jax-0.12.0.1-tpu", {"JAX_PLATFORMS": "tpu,cpu"}, ["no-tpu"]),
        ("jax-0.12.0.1-tpu", {"JAX_PLATFORMS": ""}, ["no-tpu"]),
        ("torch-xla-2.9.0-tpu", {"PJRT_DEVICE": "CPU"}, []),
        ("torch-xla-2.9.0-tpu", {"PJRT_DEVICE": "TPU"}, ["no-tpu"]),
        ("torch-xla-2.9.0-tpu", {"JAX_PLATFORMS": "cpu"}, ["no-tpu"]),
        ("vllm-0.32.0-tpu", {"JAX_PLATFORMS": "proxy"}, ["no-tpu"]),
        ("vllm-0.32.0-cu130", {}, ["no-gpu"]),
        ("vllm-0.32.0-cu130", {"VLLM_TARGET_DEVICE": "cpu"}, []),
        ("vllm-0.32.0-cu130", {"VLLM_TARGET_DEVICE": "CUDA"}, ["no-gpu"]),
        ("vllm-0.32.0-cu130", {"CUDA_VISIBLE_DEVICES": "0"}, ["no-gpu"]),
        ("vllm-0.32.0-cu130", {"CUDA_VISIBLE_DEVICES": ""}, ["gpus-hidden"]),
        ("deepspeed-0.19.8-cu130", {"CUDA_VISIBLE_DEVICES": "-1"}, ["gpus-hidden"]),
        ("deepspeed-0.19.8-cu130", {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ["gpus-hidden"]),
        ("deepspeed-0.19.8-cu130", {"JAX_PLATFORMS": "cpu"}, ["no-gpu"]),
    ],
)
def test_who_chooses_another_device_is_asked_for_none(
    image: str, environment: dict[str, str], found: list[str]
) -> None:
    about = runtime_manifest.read(str(ROOT / f"images/manifests/{image}.json"))
    facts = host.discover(host.Root("/nonexistent"))
    made = preflight.check(facts, about, environment=environment)
    assert [finding["name"] for finding in made] == found
    assert all(finding["fatal"] == (finding["name"] != "gpus-hidden") for finding in made)


@pytest.mark.parametrize("ranks", [None, 1, 2])
@pytest.mark.parametrize(
    ("wanted", "found"), [("0", []), ("7", ["gpus-hidden"]), ("GPU-none", ["gpus-hidden"])]
)
def test_a_number_that_no_gpu_here_has_hides_all(
    wanted: str, found: list[str], ranks: int | None
) -> None:
    facts = facts_of(H100, "580.95.05")
    seen = gpus.visible({"devices": facts["gpus"]["devices"]}, wanted)
    facts["gpus"] |= {"devices": seen["devices"], "hidden": seen["hidden"]}
    facts["shm"] = None
    made = preflight.check(facts, CUDA, ranks, environment={"CUDA_VISIBLE_DEVICES": wanted})
    if ranks == 2 and not found:
        found = ["too-few-gpus"]
    assert [finding["name"] for finding in made] == found
    if found == ["gpus-hidden"]:
        assert not made[0]["fatal"]
        told = f"CUDA_VISIBLE_DEVICES={wanted} names none of the GPUs here, of which there is 1"
        assert told in made[0]["what"]


def test_weights_that_no_gpu_here_holds_are_told(tmp_path: Path) -> None:
    """Two H100 have 159 GiB."""
    facts = hosts.facts("h100-x2-vm", tmp_path)
    assert preflight.check(facts, CUDA, None, {"bytes": 140 << 30}) == []
    (found,) = preflight.check(facts, CUDA, None, {"bytes": 160 << 30})
    assert (found["name"], found["fatal"]) == ("weights", False)
    assert found["what"] == "the weights take 160 GiB, and the visible GPUs have 159 GiB"


def test_a_display_card_beside_does_not_refuse_a_host() -> None:
    facts = facts_of(H100, "580.95.05")
    (h100,) = facts["gpus"]["devices"]
    facts["gpus"]["devices"] = [h100, {**h100, "index": 1, "name": "NVIDIA T400", "sm": "7.5"}]
    assert names(facts) == [("gpu-code", False)]
    facts["shm"] = None
    assert names(facts, 2) == [("gpu-code", True)]

"""From facts to settings: what holds for any host, any row and any wish of the user."""

from __future__ import annotations

import copy
import ctypes
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.runtime import advice, apply, decide, explained, options, rules
from builder.runtime.numbers import number, numbers, spelled
from tests.unit import hosts
from tests.unit.support import ROOT

MANIFESTS = {
    file.stem: json.loads(file.read_text()) for file in (ROOT / "images/manifests").glob("*.json")
}
ROWS: list[dict[str, Any]] = [
    {"kind": "env", "name": "OMP_NUM_THREADS", "rule": "threads"},
    {"kind": "env", "name": "BIND", "rule": "no-binding"},
    {"kind": "env", "name": "MAX_JOBS", "rule": "jobs"},
    {"kind": "env", "name": "KV", "rule": "kv-cache-gib"},
    {"kind": "affinity", "name": "GPU's CPUs", "rule": "gpu-cpus"},
    {"kind": "memory", "name": "GPU's memory", "rule": "gpu-memory"},
    {"kind": "affinity", "name": "TPU's CPUs", "rule": "tpu-cpus"},
    {"kind": "memory", "name": "TPU's memory", "rule": "tpu-memory"},
    {"kind": "flag", "name": "--tensor-parallel-size", "rule": "tensor-parallel"},
    {"kind": "env", "name": "UNKNOWN", "rule": "of a later version"},
    {"kind": "env", "name": "GAINLESS", "rule": "threads", "enabled": False},
]


@st.composite
def any_facts(draw: st.DrawFn) -> dict[str, Any]:
    """Facts as `discover` may tell them, likely or not."""
    cpus = draw(st.lists(st.integers(0, 40), min_size=1, max_size=24, unique=True).map(sorted))
    nodes = draw(st.lists(st.lists(st.integers(0, 40), max_size=12, unique=True), max_size=4))
    numa = [
        {"node": n, "cpus": sorted(mine), "memory_allowed": draw(st.booleans())}
        for n, mine in enumerate(nodes)
    ]
    device = st.fixed_dictionaries(
        {
            "numa": st.none() | st.integers(0, 4),
            "memory_mib": st.none() | st.integers(0, 200_000),
            "mig": st.booleans(),
            "persistence": st.none() | st.booleans(),
        }
    )
    return {
        "cpus": {
            "online": len(cpus),
            "allowed": cpus,
            "quota": draw(st.none() | st.floats(0.001, 64).map(lambda q: round(q, 3))),
            "current": draw(st.none() | st.integers(0, 300)),
        },
        "memory": {"limit": draw(st.none() | st.integers(0, 1 << 42)), "shown": None},
        "tpus": draw(st.integers(0, 8)),
        "tpu_nodes": draw(st.lists(st.integers(0, 4), max_size=2, unique=True)),
        "numa": numa,
        "gpus": {"devices": draw(st.lists(device, max_size=8))},
        "kernel": {"governor": None, "thp": None, "numa_balancing": draw(st.none() | st.just(1))},
        "limits": {},
        "infiniband": [],
        "platform": {"container": None},
    }


MODELS = st.fixed_dictionaries(
    {},
    optional={
        "heads": st.integers(1, 128),
        "kv_heads": st.integers(1, 128),
        "bytes": st.integers(1, 1 << 42),
    },
)


def values(decisions: list[dict[str, Any]]) -> dict[str, str]:
    return {d["name"]: d["value"] for d in decisions if d["status"] == decide.SET}


@given(any_facts(), MODELS)
def test_never_more_threads_than_the_quota_grants(
    facts: dict[str, Any], model: dict[str, Any]
) -> None:
    made = values(decide.decide(facts, ROWS, {}, [], model))
    quota, visible = facts["cpus"]["quota"], len(facts["cpus"]["allowed"])
    for name in ("OMP_NUM_THREADS", "MAX_JOBS"):
        if name in made:
            assert 1 <= int(made[name]) <= max(1, quota or visible)
            assert int(made[name]) <= visible
    if quota and quota < visible:
        assert {"OMP_NUM_THREADS", "BIND"} <= set(made)
    assert ("MAX_JOBS" in made) or not quota or quota >= visible or visible == 1
    if "KV" in made:
        assert 1 <= int(made["KV"]) <= max(1, facts["memory"]["limit"] >> 30)
    assert not {"UNKNOWN", "GAINLESS"} & set(made)


@given(any_facts())
def test_a_mask_is_never_empty_and_within_what_is_allowed(facts: dict[str, Any]) -> None:
    made = values(decide.decide(facts, ROWS, {}, []))
    for whose in ("GPU", "TPU"):
        mask = made.get(f"{whose}'s CPUs")
        if mask is not None:
            cpus = {int(cpu) for cpu in mask.split(",")}
            assert cpus
            assert cpus < set(facts["cpus"]["allowed"])
            assert len(cpus) >= min(int(facts["cpus"]["quota"] or 0), len(cpus))
        node = made.get(f"{whose}'s memory")
        if node is not None:
            assert mask is not None
            assert facts["numa"][int(node)]["memory_allowed"]


@given(any_facts(), MODELS)
def test_tensor_parallelism_divides_the_heads(facts: dict[str, Any], model: dict[str, Any]) -> None:
    size = values(decide.decide(facts, ROWS, {}, [], model)).get("--tensor-parallel-size")
    if size is None:
        return
    count, devices = int(size), facts["gpus"]["devices"]
    assert 2 <= count <= len(devices)
    assert model["heads"] % count == 0
    kv_heads = model.get("kv_heads", model["heads"])
    assert kv_heads % count == 0 or count % kv_heads == 0
    smallest = min(device["memory_mib"] for device in devices) << 20
    assert model["bytes"] / count < smallest
    assert not any(device["mig"] for device in devices)


@given(any_facts(), MODELS)
def test_decisions_are_a_pure_function(facts: dict[str, Any], model: dict[str, Any]) -> None:
    given_ = (facts, ROWS, {"BIND": "x"}, ["--port", "1"], model)
    before = copy.deepcopy(given_)
    first = decide.decide(*given_)
    assert given_ == before
    assert decide.decide(*before) == first
    assert [row["name"] for row in first] == [row["name"] for row in ROWS]
    assert advice.of_host(facts) == advice.of_host(copy.deepcopy(facts))
    assert facts == before[0]
    assert all(isinstance(row["value"], (str, type(None))) for row in first)


LARGE = {"bytes": 141 * 10**9, "heads": 64, "kv_heads": 8}
VLLM, SGLANG, TGI, TRT, RAY = (
    MANIFESTS[name]["server"]
    for name in (
        *("vllm-0.32.0-cu130", "sglang-0.5.23-cu130", "tgi-3.3.7-cu124"),
        *("tensorrt-llm-1.2.1-cu131", "ray-2.59.0-cu130"),
    )
)
SPELLINGS = [
    (VLLM, ["--tensor-parallel-size", "2"]),
    (VLLM, ["--tensor-parallel-size=2"]),
    (VLLM, ["--tensor_parallel_size", "2"]),
    (VLLM, ["--tensor_parallel_size=2"]),
    (VLLM, ["--tensor-parallel_size=2"]),
    (VLLM, ["--tensor-parallel", "2"]),  # argparse takes a beginning for the whole
    (VLLM, ["--tensor=2"]),
    (VLLM, ["--te", "2"]),
    (VLLM, ["-tp", "2"]),
    (VLLM, ["-tp=2"]),
    (VLLM, ["--tensor-parallel-size", "8", "-tp", "2"]),  # the last holds
    (SGLANG, ["--tp", "2"]),
    (SGLANG, ["--tp-size", "2"]),
    (SGLANG, ["--tensor-parallel-size", "2"]),
    (TRT, ["--tp_size=2"]),
    (TGI, ["--num-shard", "2"]),
]


@pytest.mark.parametrize(
    ("server", "own"), SPELLINGS, ids=lambda value: value[0] if type(value) is list else ""
)
def test_the_users_flag_in_all_spellings(server: dict[str, Any], own: list[str]) -> None:
    arguments = ["org/model", *own, "--port", "1"]
    assert options.given(server["parallel_flags"], arguments) == "2"
    assert options.ranks(server, arguments, {}) == 2
    rows = [{"kind": "flag", "name": server["parallel_flags"][0], "rule": "tensor-parallel"}]
    (made,) = decide.decide(FOUR_GPUS, rows, {}, arguments, LARGE, server=server)
    assert (made["status"], made["value"]) == (decide.YOURS, "2")
    assert apply.flags([made]) == []


GPU = {"numa": None, "memory_mib": 81559, "mig": False, "persistence": True}
FOUR_GPUS: dict[str, Any] = {
    "cpus": {"online": 4, "allowed": [0, 1, 2, 3], "quota": 1.0, "current": 0},
    "memory": {"limit": 64 << 30, "shown": None},
    "tpus": 0,
    "tpu_nodes": [],
    "numa": [],
    "gpus": {"devices": [GPU] * 4},
}


def parallel(
    server: dict[str, Any], arguments: list[str], environment: dict[str, str] | None = None
) -> str:
    row = {**ROWS[8], "name": server["parallel_flags"][0]}
    made = decide.decide(FOUR_GPUS, [row], environment or {}, arguments, LARGE, server=server)
    return str(made[0]["status"])


@pytest.mark.parametrize(
    ("server", "own"),
    [
        (VLLM, ["--pipeline-parallel-size", "2"]),
        (VLLM, ["-pp=2"]),
        (SGLANG, ["--pp_size", "2"]),
        (VLLM, ["--data-parallel-size=4"]),
        (SGLANG, ["--dp", "4"]),
        (VLLM, ["--nnodes", "2"]),
        (SGLANG, ["--dist-init-addr", "a:1"]),
        (VLLM, ["--distributed-executor-backend", "ray"]),
        (VLLM, ["--quantization", "fp8"]),
        (VLLM, ["--cpu-offload-gb", "40"]),
        (VLLM, ["--config", "/etc/vllm.yaml"]),
        (TRT, ["--extra_llm_api_options", "x.yaml"]),
        (TGI, ["--sharded", "false"]),
        (TGI, ["--quantize", "fp8"]),
        (RAY, ["--replicas", "2"]),
        (VLLM, ["--pipeline=2"]),
    ],
)
def test_a_flag_is_set_only_where_nobody_has_arranged_otherwise(
    server: dict[str, Any], own: list[str]
) -> None:
    assert parallel(server, ["org/model", "--port", "1", "--max-model-len=9"]) == decide.SET
    assert parallel(server, ["org/model", *own]) == decide.NEEDLESS


def test_a_variable_of_the_servers_own_says_the_same() -> None:
    assert parallel(TGI, ["m"], {"NUM_SHARD": "1"}) == decide.YOURS
    assert parallel(VLLM, ["m"], {"NUM_SHARD": "1"}) == decide.SET
    assert options.ranks(TGI, [], {"NUM_SHARD": "4"}) == 4
    assert options.ranks(TGI, ["--num-shard", "2"], {"NUM_SHARD": "4"}) == 2


def test_a_ray_cluster_has_more_gpus_than_this_host() -> None:
    assert parallel(VLLM, ["m"], {"RAY_ADDRESS": "auto"}) == decide.NEEDLESS
    assert parallel(VLLM, ["m"], {"RAY_ADDRESS": ""}) == decide.SET
    assert options.here(LARGE, VLLM, ["m"], {"RAY_ADDRESS": "auto"}) == {}


FLOAT32 = {**LARGE, "bytes": 100 << 30, "float32": True}


@pytest.mark.parametrize(
    ("server", "own", "gib"),
    [
        (VLLM, [], 50),
        (SGLANG, ["--dtype", "bfloat16"], 50),
        (TGI, ["--dtype=float16"], 50),
        (VLLM, ["--dtype", "float32"], 100),
        (VLLM, ["--dtype=float"], 100),
        (TRT, [], 100),  # nobody knows
        ({}, [], 100),
    ],
)
def test_weights_of_32_bits_are_loaded_as_16(
    server: dict[str, Any], own: list[str], gib: int
) -> None:
    """100 GiB on disk fit on one GPU of 80 then."""
    assert options.here(FLOAT32, server, own)["bytes"] == gib << 30
    rows = [{"kind": "flag", "name": "--tp", "rule": "tensor-parallel"}]
    (made,) = decide.decide(FOUR_GPUS, rows, {}, own, FLOAT32, server=server)
    assert made["value"] == (None if gib == 50 else "2")
    assert options.loaded({"float32": True}, server, own) == {"float32": True}


@pytest.mark.parametrize(
    ("image", "own"),
    [
        ("vllm-0.32.0-cu130", ["--numa-bind"]),
        ("vllm-0.32.0-cu130", ["--numa-bind-nodes", "0", "0"]),
        ("vllm-0.32.0-cu130", ["--numa_bind_cpus=0-3"]),
        ("ray-2.59.0-cu130", ["--numa-bind"]),
        ("sglang-0.5.23-cu130", ["--numa-node", "0"]),
    ],
)
def test_whom_the_framework_binds_is_not_bound(image: str, own: list[str], tmp_path: Path) -> None:
    facts = hosts.facts("dgx-h100", tmp_path)
    about = MANIFESTS[image]
    made = decide.decide(facts, about["tuning"], {}, own, server=about["server"])
    bound = [row for row in made if row["kind"] in ("affinity", "memory")]
    assert [row["status"] for row in bound] == [decide.YOURS] * 2
    assert all(row["value"].startswith("--numa") for row in bound)
    without = decide.decide(facts, about["tuning"], {}, [], server=about["server"])
    assert [row["status"] for row in without if row["name"] in BOUND] == [decide.SET] * 2


@pytest.mark.parametrize(
    ("server", "own", "count"),
    [
        (VLLM, [], 1),
        (VLLM, ["-tp", "2"], 2),
        (VLLM, ["-dp", "2"], 4),
        (SGLANG, [], 1),
        (TGI, [], 4),  # its launcher takes all GPUs
        (TGI, ["--num-shard", "1"], 1),
        (RAY, ["--replicas", "2"], 4),
    ],
)
def test_how_many_gpus_are_used(server: dict[str, Any], own: list[str], count: int) -> None:
    user = decide._User({}, own, server)
    assert len(decide._used(FOUR_GPUS, user, user.ranks())["gpus"]["devices"]) == count


def test_ranks_of_several_hosts_are_not_known_here() -> None:
    """16 ranks on two hosts of eight GPUs are not too many."""
    arguments = ["--tp", "16", "--nnodes", "2", "--node-rank", "0"]
    assert options.given(SGLANG["parallel_flags"], arguments) == "16"
    assert options.ranks(SGLANG, arguments, {}) is None
    assert options.ranks(SGLANG, [], {}) is None
    assert options.ranks(SGLANG, ["--tp", "auto"], {}) is None


BOUND = ("CPUs of the GPU's NUMA node", "memory of the GPU's NUMA node")


@pytest.mark.parametrize(
    ("own", "model", "node"),
    [
        (["-tp", "4"], {}, "0"),
        (["-tp", "4", "--quantization", "fp8"], {}, "0"),
        (["-tp", "1"], {}, "0"),
        ([], LARGE, "0"),  # four are decided
        (["-tp", "8"], {}, None),  # across both sockets
        (["-tp", "5"], {}, None),
        ([], {}, "0"),  # the server takes one
        (["--config", "x"], {}, None),  # who knows
        (["-tp", "many"], {}, None),
        (["-tp", "4", "-pp", "2"], {}, None),
        (["-tp", "4", "--config", "x"], {}, None),
        (["-tp", "4", "--nnodes", "2"], {}, None),
    ],
)
def test_the_node_is_that_of_the_gpus_that_are_used(
    tmp_path: Path, own: list[str], model: dict[str, Any], node: str | None
) -> None:
    """The first ones, of eight on two sockets; and the rows stay in the table's order."""
    facts = hosts.facts("dgx-h100", tmp_path)
    about = MANIFESTS["vllm-0.32.0-cu130"]
    made = decide.decide(facts, about["tuning"], {}, own, model, server=about["server"])
    assert [row["name"] for row in made] == [row["name"] for row in about["tuning"]]
    cpus, memory = (next(row for row in made if row["name"] == name) for name in BOUND)
    assert memory["value"] == node
    assert (cpus["value"] is None) == (node is None)
    if cpus["value"]:
        assert spelled(map(int, cpus["value"].split(","))) == "0-55,112-167"


def test_gpus_that_cuda_counts_in_another_order_are_all_taken_for_used(tmp_path: Path) -> None:
    facts = hosts.facts("dgx-h100", tmp_path)
    facts["gpus"]["devices"][0]["name"] = "NVIDIA T400"
    about = MANIFESTS["vllm-0.32.0-cu130"]
    made = decide.decide(facts, about["tuning"], {}, ["-tp", "4"], server=about["server"])
    assert next(row for row in made if row["name"] == BOUND[1])["value"] is None


NODES = (list(range(8)), list(range(8, 16)))


@pytest.mark.parametrize(
    ("nodes", "allowed", "memory", "cpus", "node"),
    [
        (NODES, range(16), True, "0,1,2,3,4,5,6,7", "0"),
        (NODES, range(16), False, "0,1,2,3,4,5,6,7", None),  # --cpuset-mems=1
        (NODES, range(5, 16), True, None, None),  # three of eleven: the rest is somebody else's
        (NODES, range(5, 11), True, "5,6,7", "0"),  # half of what we have
        (NODES, range(4, 11), True, "4,5,6,7", "0"),
        (([0, 1], list(range(2, 16))), range(16), True, "0,1", "0"),  # small, and whole
        (NODES, range(8), True, None, None),  # all that we have, there already
        (NODES, range(8, 16), True, None, None),
    ],
)
@pytest.mark.parametrize("whose", ["GPU", "TPU"])
def test_which_part_of_a_node_is_bound_to(
    whose: str,
    nodes: tuple[list[int], list[int]],
    allowed: range,
    memory: bool,
    cpus: str | None,
    node: str | None,
) -> None:
    facts = {
        **FOUR_GPUS,
        "cpus": {"online": 16, "allowed": [*allowed], "quota": None, "current": 8},
        "tpus": 4,
        "tpu_nodes": [0],
        "numa": [
            {"node": 0, "cpus": nodes[0], "memory_allowed": memory},
            {"node": 1, "cpus": nodes[1], "memory_allowed": True},
        ],
        "gpus": {"devices": [{**GPU, "numa": 0}]},
    }
    made = values(decide.decide(facts, [row for row in ROWS if whose in row["name"]], {}, []))
    assert made == {
        name: value
        for name, value in (
            (f"{whose}'s CPUs", cpus),
            (f"{whose}'s memory", node),
        )
        if value is not None
    }


def limits(limit: int | None, shown: int | None) -> dict[str, Any]:
    return {**FOUR_GPUS, "memory": {"limit": limit, "shown": shown}}


@pytest.mark.parametrize(
    ("limit", "shown", "model", "value"),
    [
        (None, None, {}, None),
        (8, 8, {}, None),  # docker run --memory=8g: vLLM sees it itself
        (8, None, {}, "4"),  # a Slurm job's, under Apptainer
        (8, 64, {}, "4"),
        (8, None, {"bytes": 3 << 30}, "2"),
        (8, None, {"bytes": 16 << 30}, "1"),
    ],
)
def test_a_kv_cache_within_a_limit_that_vllm_does_not_see(
    limit: int | None, shown: int | None, model: dict[str, Any], value: str | None
) -> None:
    facts = limits(limit and limit << 30, shown and shown << 30)
    about = MANIFESTS["vllm-0.32.0-cpu"]
    rows = [row for row in about["tuning"] if row["rule"] == "kv-cache-gib"]

    def made(environment: dict[str, str], *own: str) -> tuple[str, str | None]:
        (row,) = decide.decide(facts, rows, environment, own, model, server=about["server"])
        return row["status"], row["value"]

    assert made({})[1] == value
    assert made({"VLLM_CPU_KVCACHE_SPACE": "7"}) == (decide.YOURS, "7")
    own = ("--gpu-memory-utilization", "0.5")
    assert made({}, *own) == (decide.YOURS, " ".join(own))
    assert made({}, "--kv-cache-memory-bytes=1G")[0] == decide.YOURS
    for more in (("-tp", "2"), ("-dp=2",), ("-pp", "2")):  # each rank takes as much
        assert made({}, *more) == (decide.NEEDLESS, None)


def test_a_tpus_node_is_none_where_there_is_no_tpu(tmp_path: Path) -> None:
    facts = hosts.facts("dgx-h100", tmp_path)
    assert rules.RULES["tpu-cpus"](facts, {}) is None
    assert rules.RULES["tpu-memory"]({**facts, "tpus": 4}, {}) == 0


@pytest.mark.parametrize(
    ("tpus", "told", "node"),
    [
        (4, [], 0),  # Google's own advice, where the host does not say
        (8, [], None),  # of which half hang on each node
        (4, [0], 0),
        (4, [1], 1),
        (8, [1], 1),
        (4, [0, 1], None),  # TPU7x: two chips on each
        (8, [0, 1], None),
        (4, [7], None),  # a node that is not there
    ],
)
def test_tpus_of_two_nodes_are_bound_to_none(
    tmp_path: Path, tpus: int, told: list[int], node: int | None
) -> None:
    facts = {**hosts.facts("dgx-h100", tmp_path), "tpus": tpus, "tpu_nodes": told}
    assert rules.RULES["tpu-memory"](facts, {}) == node
    cpus = rules.RULES["tpu-cpus"](facts, {})
    assert cpus == (None if node is None else ",".join(map(str, facts["numa"][node]["cpus"])))


@pytest.mark.parametrize("value", ["64", "", " "])
def test_the_users_variables_stay(value: str) -> None:
    """An empty one too: it is how one opts out of a single setting."""
    names = [row["name"] for row in ROWS if row["kind"] == "env" and row.get("enabled", True)]
    environment = dict.fromkeys(names, value)
    made = decide.decide(FOUR_GPUS, ROWS, environment, [])
    assert [d["value"] for d in made if d["status"] == decide.YOURS] == [value] * len(names)
    assert not set(apply.environment(made)) & set(environment)


@given(st.data())
def test_no_recorded_host_and_no_image_overrides_the_user(data: st.DataObject) -> None:
    about = MANIFESTS[data.draw(st.sampled_from(sorted(MANIFESTS)))]
    names = [row["name"] for row in about["tuning"] if row["kind"] == "env"]
    assert all(row["effect"] for row in about["tuning"])
    environment = data.draw(
        st.dictionaries(st.sampled_from(names), st.text(alphabet="019 x", max_size=3))
        if names
        else st.just({})
    )
    made = decide.decide(data.draw(any_facts()), about["tuning"], environment, [], LARGE)
    assert not set(apply.environment(made)) & set(environment)
    for decision in made:
        if decision["name"] in environment:
            assert decision["status"] in (decide.YOURS, decide.OFF)


@pytest.mark.parametrize("name", hosts.NAMES)
def test_recorded_hosts_hold_the_same_promises(name: str, tmp_path: Path) -> None:
    facts = hosts.facts(name, tmp_path)
    before = copy.deepcopy(facts)
    made = values(decide.decide(facts, ROWS, {}, [], LARGE))
    assert facts == before
    allowed, quota = facts["cpus"]["allowed"], facts["cpus"]["quota"]
    if "OMP_NUM_THREADS" in made:
        assert 1 <= int(made["OMP_NUM_THREADS"]) <= max(1, quota)
    for whose in ("GPU's CPUs", "TPU's CPUs"):
        if whose in made:
            assert set(map(int, made[whose].split(","))) < set(allowed)


def test_every_rule_of_the_matrix_is_known() -> None:
    named = {row["rule"] for about in MANIFESTS.values() for row in about["tuning"]}
    assert named <= set(rules.RULES)


def test_explained() -> None:
    rows = [
        {**ROWS[0], "why": "w", "source": "s", "effect": "1.8x"},
        {**ROWS[2], "why": "w"},
        {**ROWS[10], "why": "no gain"},
    ]
    made = decide.decide(FOUR_GPUS, rows, {"MAX_JOBS": "9"}, [])
    made.append({"status": decide.REFUSED, "name": "N", "value": "1", "why": "no"})
    advised = [{"what": "a", "why": "b", "command": "c"}]
    assert explained.lines(made, advised) == [
        "set OMP_NUM_THREADS=1: w; effect: 1.8x [s]",
        "left MAX_JOBS=9: you have set it",
        "off GAINLESS: no gain",
        "not set N=1: no",
        "host: a: b. On the host: c",
    ]
    assert explained.lines([], []) == ["nothing to set here"]


def test_advice_names_what_works_in_this_container(tmp_path: Path) -> None:
    facts = hosts.facts("infiniband-memlock", tmp_path)
    commands = {}
    for container in ("docker", "podman", "apptainer", "kubernetes", None):
        facts["platform"]["container"] = container
        (advised,) = advice.of_host(facts)
        commands[container] = advised["command"]
    assert commands["docker"] == "docker run --ulimit memlock=-1"
    assert commands["podman"] == "podman run --ulimit memlock=-1"
    assert commands["apptainer"] == commands[None]
    assert "limits.conf" in commands["apptainer"]
    assert "systemd" in commands["kubernetes"]


def test_the_models_disk() -> None:
    facts = {**FOUR_GPUS, "kernel": dict.fromkeys(("governor", "thp", "numa_balancing"))}
    facts |= {"limits": {}, "infiniband": []}
    disk = {"disk": "sda", "scheduler": "bfq", "rotates": False}
    (advised,) = advice.of_host(facts, disk)
    assert advised["command"] == "echo none > /sys/block/sda/queue/scheduler"
    assert advice.of_host(facts, {**disk, "rotates": True}) == []
    assert advice.of_host(facts, {**disk, "scheduler": "none"}) == []


# apply


def decision(kind: str, value: str, status: str = decide.SET) -> dict[str, Any]:
    return {"kind": kind, "name": "N", "value": value, "status": status}


def test_what_is_decided_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: masks.append(cpus))
    monkeypatch.setattr(apply, "_prefer", lambda node: None if node == 1 else "not permitted")
    made = [decision("affinity", "0,2"), decision("memory", "1"), decision("memory", "2")]
    made += [decision("affinity", "7", decide.YOURS), decision("env", "v"), decision("flag", "2")]
    placed = apply.place(made)
    assert [d["status"] for d in placed[:3]] == [decide.SET, decide.SET, decide.REFUSED]
    assert placed[2]["why"] == "not permitted"
    assert placed[3:] == made[3:]
    assert masks == [{0, 2}]
    assert apply.environment(made) == {"N": "v"}
    assert apply.flags(made) == ["N", "2"]


def test_a_refused_mask_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refused)
    (placed,) = apply.place([decision("affinity", "0")])
    assert (placed["status"], placed["why"]) == (decide.REFUSED, "[Errno 22] Invalid argument")


class Libc:
    """A kernel with one memory policy; refuses system calls of some numbers."""

    def __init__(self, policy: int, *refused: int) -> None:
        self.policy, self.refused, self.nodes = policy, refused, 0

    def syscall(self, number: int, *arguments: Any) -> int:
        if number in self.refused:
            ctypes.set_errno(1)
            return -1
        if number in (239, 236):
            arguments[0]._obj.value = self.policy
        else:
            assert number in (238, 237)
            # The kernel's get_nodes() takes one bit fewer than it is told: mm/mempolicy.c.
            self.policy, bits = arguments[0], arguments[2] - 1
            assert bits <= 8 * ctypes.sizeof(arguments[1]._obj)
            self.nodes = arguments[1]._obj.value & ((1 << bits) - 1)
        return 0


@pytest.mark.parametrize(
    ("machine", "policy", "refused", "why"),
    [
        ("x86_64", 0, (), None),
        ("aarch64", 0, (), None),
        ("x86_64", 2, (), "set already"),  # numactl --membind
        ("aarch64", 3, (), "set already"),  # numactl --interleave
        ("x86_64", 1 | 1 << 15, (), "set already"),  # with MPOL_F_STATIC_NODES
        ("x86_64", 0, (239,), "Operation not permitted"),  # as Docker's seccomp profile does
        ("x86_64", 0, (238,), "Operation not permitted"),
    ],
)
def test_a_memory_policy_of_the_users_stays(
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    policy: int,
    refused: tuple[int, ...],
    why: str | None,
) -> None:
    libc = Libc(policy, *refused)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: libc)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    told = apply._prefer(3)
    if why is None:
        assert (told, libc.policy, libc.nodes) == (None, 1, 1 << 3)
    else:
        assert why in str(told)
        assert (libc.policy, libc.nodes) == (policy, 0)


@pytest.mark.parametrize("node", [0, 31, 32, 62, 63])
def test_the_kernel_sees_each_node_that_a_mask_can_name(
    monkeypatch: pytest.MonkeyPatch, node: int
) -> None:
    libc = Libc(0)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: libc)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="x86_64"))
    assert apply._prefer(node) is None
    assert (libc.policy, libc.nodes) == (1, 1 << node)


def test_a_node_that_no_mask_can_name() -> None:
    assert apply._prefer(64) == "not known for this CPU"


# Lists of CPUs.


@given(st.sets(st.integers(0, 5000)))
def test_lists_of_cpus_round_trip(cpus: set[int]) -> None:
    assert numbers(spelled(cpus)) == sorted(cpus)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3,8", [0, 1, 2, 3, 8]),
        (" 0 - 1 , 3 ", [0, 1, 3]),
        ("3,1,1-2", [1, 2, 3]),
        ("", []),
        ("3-1", []),
        ("0-9999999999", []),
        ("0-1,x", []),
        ("²", []),
        ("-1", []),
        ("0,,1", []),
    ],
)
def test_lists_of_cpus(text: str, cpus: list[int]) -> None:
    assert numbers(text) == cpus


@given(st.text())
def test_any_text_is_a_list_or_none(text: str) -> None:
    assert numbers(text) == sorted(set(numbers(text)))
    found = number(text)
    assert found is None or str(found) == text.lstrip("0") or found == 0


def test_containers_with_a_quota_take_different_cpus_of_one_node() -> None:
    """Two nodes of four CPUs, and a quota of one and a half: a pair for each container."""
    facts = {
        **FOUR_GPUS,
        "cpus": {"online": 8, "allowed": list(range(8)), "quota": 1.5, "current": 0},
        "numa": [
            {"node": 0, "cpus": [0, 1, 2, 3], "memory_allowed": True},
            {"node": 1, "cpus": [4, 5, 6, 7], "memory_allowed": True},
        ],
        "platform": {"container": "docker"},
    }

    def mask(**cpus: object) -> str | None:
        chosen = rules.RULES["quota-cpus"]({**facts, "cpus": {**facts["cpus"], **cpus}}, {})
        return None if chosen is None else str(chosen)

    assert [mask(current=n) for n in (0, 2, 3, 5)] == ["0,1", "2,3", "0,3", "5,6"]
    # One of each core, where its siblings stand beside it.
    assert [mask(current=n, firsts=[0, 2, 4, 6]) for n in (0, 4)] == ["0,2", "4,6"]
    assert mask(current=None) == mask(current=99) == "0,1"
    assert mask(quota=6.0) == "0,1,2,3,4,5"  # more than a node has
    assert mask(quota=7.5) is None
    facts["platform"] = {"container": "kubernetes"}  # its shared pool changes while pods run
    assert mask() is None


@pytest.mark.parametrize(
    ("environment", "arguments", "status"),
    [
        ({}, [], decide.SET),
        ({"OMP_PLACES": "{0}"}, [], decide.YOURS),
        ({"VLLM_CPU_OMP_THREADS_BIND": "0-1"}, [], decide.YOURS),
        ({}, ["--tensor-parallel-size", "2"], decide.NEEDLESS),
        ({}, ["-tp", "1"], decide.SET),
        ({}, ["-dp", "2"], decide.NEEDLESS),
        ({}, ["--pipeline-parallel-size=2"], decide.NEEDLESS),
        ({}, ["--quantization", "fp8"], decide.SET),
    ],
)
def test_who_binds_himself_is_not_bound(
    environment: dict[str, str], arguments: list[str], status: str
) -> None:
    facts = {
        **FOUR_GPUS,
        "cpus": {"online": 4, "allowed": [0, 1, 2, 3], "quota": 2.0, "current": 0},
        "platform": {"container": None},
    }
    row = {"kind": "affinity", "name": "CPUs", "rule": "quota-cpus"}
    (made,) = decide.decide(facts, [row], environment, arguments, server=VLLM)
    assert made["status"] == status

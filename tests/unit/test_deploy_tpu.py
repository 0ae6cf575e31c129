"""Servers on TPUs: slices as Google Cloud cuts them, commands for VMs, objects for GKE."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from builder import deploy, matrix
from builder.cli.deploy import command
from builder.deploy.tpu import hosts, outputs, slices
from builder.deploy.tpu import pool as pools
from builder.deploy.tpu import vm as vms
from builder.deploy.tpu.steps import Kind, Step, script, shown
from builder.errors import UserError
from tests.unit.deployed import IMAGE, check, expanded, matrix_of, texts
from tests.unit.support import ROOT

GOLDEN = ROOT / "tests/golden/deploy"
VLLM, JAX, XLA = "tpu-vllm-ubuntu24.04", "tpu-jax", "tpu-torch-xla"
WHERE = {"project": "my-project", "zone": "us-east5-b"}
VMS: dict[str, tuple[str, dict[str, Any]]] = {
    "tpu-vm-one": (VLLM, {"accelerator": "v6e-8", "model": "org/model", "hf_token": "hub"}),
    "tpu-vm-several": (
        VLLM,
        {
            "accelerator": "v5litepod-16",
            "model": "/models/mine",
            "spot": True,
            "image": "us-docker.pkg.dev/my-project/llm/vllm:0.32.0-tpu",
            "env": ("PRICE=5$ or $(HOME)",),
            "arguments": ("--served-model-name", "it's $HOME"),
        },
    ),
    "tpu-vm-jax": (
        JAX,
        {
            "accelerator": "v5p-8",
            "model": "/models/mine",
            "queued": False,
            "reserved": True,
            "name": "llama",
            "network": "net",
            "subnetwork": "sub",
            "service_account": "a@p.iam.gserviceaccount.com",
            "listen": "0.0.0.0",
        },
    ),
    "tpu-vm-ironwood": (VLLM, {"accelerator": "tpu7x-8", "model": "org/model"}),
}
POOL = {"cluster": "llm", "location": "us-east5", **WHERE}
GKE: dict[str, tuple[str, tuple[str, ...], dict[str, Any], dict[str, Any]]] = {
    "gke-tpu-one": (VLLM, ("v6e", "2x4"), {"model": "org/model", "hf_token": "hub"}, POOL),
    "gke-tpu-stateful": (
        XLA,
        ("tpu-v5-lite-podslice", "1x1"),
        {"model": "pvc://models/a", "cache_per_replica": True, "replicas": 2, "spot": True},
        {**POOL, "spot": True},
    ),
    "gke-tpu-several": (
        VLLM,
        ("v6e", "4x4"),
        {
            "model": "org/model",
            "name": "llama",
            "namespace": "llm",
            "replicas": 2,
            "cpus": "100",
            "memory": "300Gi",
            "cache_claim": "caches",
            "arguments": ("--served-model-name", "5$ or $(HOME)"),
            "monitor": True,
            "root": True,
        },
        {**POOL, "reservation": "mine"},
    ),
    "gke-tpu-ironwood": (VLLM, ("v7x", "2x2x2"), {"model": "pvc://models/a"}, POOL),
}


@cache
def served(cell_id: str = VLLM) -> deploy.Served:
    return deploy.of_tpu(matrix.cell(matrix_of(), cell_id))


def vm_of(name: str) -> tuple[deploy.Served, vms.Vm]:
    cell_id, wishes = VMS[name]
    return served(cell_id), vms.vm(served(cell_id), **{"image": IMAGE, **WHERE, **wishes})


def gke_of(name: str) -> tuple[deploy.Served, deploy.Values, pools.Pool]:
    cell_id, tpus, wishes, where = GKE[name]
    image = served(cell_id)
    made = deploy.values(image, image=IMAGE, tpus=slices.by_topology(*tpus), **wishes)
    pool = pools.pool(**where)
    assert pool
    return image, made, pool


def a_vm(cell_id: str = VLLM, **wishes: Any) -> vms.Vm:
    wished = {"image": IMAGE, "accelerator": "v6e-8", "model": "org/model", **WHERE, **wishes}
    return vms.vm(served(cell_id), **wished)


def values(tpus: tuple[str, ...] = ("v6e", "2x2"), **wishes: Any) -> deploy.Values:
    wished = {"image": IMAGE, "model": "org/model", **wishes}
    return deploy.values(served(), tpus=slices.by_topology(*tpus), **wished)


def written(file: Path, text: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        file.write_text(text)
    assert file.read_text() == text


# Slices


def test_every_slice_is_whole_hosts() -> None:
    for one in slices.every():
        assert one.chips % one.machine.chips == 0, one
        assert (one.hosts == 1) == (one.topology in one.machine.one), one


@pytest.mark.parametrize(
    ("name", "topology", "chips", "number", "devices"),
    [
        ("v5litepod-1", "1x1", 1, 1, 1),
        ("v5litepod-8", "2x4", 8, 1, 8),
        ("v5litepod-16", "4x4", 16, 4, 16),
        ("v5p-8", "2x2x1", 4, 1, 4),  # counts TensorCores, two a chip, which are one device
        ("v5p-128", "4x4x4", 64, 16, 64),
        ("v6e-4", "2x2", 4, 1, 4),
        ("v6e-8", "2x4", 8, 1, 8),
        ("v6e-256", "16x16", 256, 64, 256),
        ("tpu7x-2", "1x1x1", 1, 1, 2),  # counts TensorCores, each a device
        ("tpu7x-16", "2x2x2", 8, 2, 16),
    ],
)
def test_accelerator_types(name: str, topology: str, chips: int, number: int, devices: int) -> None:
    one = slices.by_type(name)
    assert (one.topology, one.chips, one.hosts, one.devices) == (topology, chips, number, devices)
    assert one.accelerator == name


def test_runtime_versions() -> None:
    """cloud.google.com/tpu/docs/runtimes; v7x's as public scripts have it."""
    assert {name: one.runtime for name, one in slices.table().generations.items()} == {
        "v5e": "v2-alpha-tpuv5-lite",
        "v5p": "v2-alpha-tpuv5",
        "v6e": "v2-alpha-tpuv6e",
        "v7x": "v2-alpha-tpu7-ubuntu2404",
    }


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("v5e-8", "did you mean 'v5litepod-8'?"),
        ("v7x-8", "did you mean 'tpu7x-8'?"),
        ("V6E-8", "did you mean 'v6e-8'?"),
        ("v6e-7", "known: v6e-1, v6e-4, v6e-8, v6e-16"),
        ("v5p-4", "known: v5p-8"),
        ("h100", "is no accelerator type"),
        ("", "'' is no accelerator type"),
    ],
)
def test_no_accelerator_type(name: str, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        slices.by_type(name)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("v6", "2x2"), "is no kind of TPU that GKE labels nodes with; did you mean 'v6e'?"),
        (("v6e", "2x2x1"), "no topology of TPU v6e (Trillium); known: 1x1, 2x2, 2x4, 4x4"),
        (("v6e", "2x2", "ct5p-hightpu-4t"), "no machine of TPU v6e (Trillium); known: ct6e"),
        (("v6e", "4x4", "ct6e-standard-8t"), "no topology of ct6e-standard-8t; known: 2x4"),
    ],
)
def test_no_topology(asked: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        slices.by_topology(*asked)


def test_of_machines_that_serve_a_topology_the_largest_is_taken() -> None:
    assert slices.by_topology("tpu-v6e-slice", "2x4").machine_name == "ct6e-standard-8t"
    split = slices.by_topology("v6e", "2x4", "ct6e-standard-4t")
    assert (split.hosts, split.machine.chips) == (2, 4)


def test_nodes_of_another_machine_with_the_same_label_are_not_taken() -> None:
    label = "node.kubernetes.io/instance-type"
    whole, split = values(("v6e", "2x4")), values(("v6e", "2x4", "ct6e-standard-4t"))
    assert pods(whole)[0]["spec"]["nodeSelector"][label] == "ct6e-standard-8t"
    assert pods(split)[0]["spec"]["nodeSelector"][label] == "ct6e-standard-4t"
    assert label not in pods(values(("v6e", "4x4")))[0]["spec"]["nodeSelector"]


# TPU VMs


@pytest.mark.parametrize("name", VMS)
def test_golden_of_vms(name: str, request: pytest.FixtureRequest) -> None:
    written(GOLDEN / f"{name}.sh", outputs.script(*vm_of(name)), request)


def words(text: str) -> list[str]:
    """As a POSIX shell splits what shlex.quote has quoted; a backslash joins lines."""
    found, word, quote = [], None, ""
    signs = iter(text)
    for sign in signs:
        if quote:
            if sign == quote:
                quote = ""
            else:
                word = f"{word or ''}{sign}"
        elif sign in "'\"":
            quote, word = sign, word or ""
        elif sign == "\\":
            assert next(signs) == "\n"
        elif sign in " \n":
            found += [word] if word is not None else []
            word = None
        else:
            word = f"{word or ''}{sign}"
    return found + ([word] if word is not None else [])


@given(st.lists(texts.filter(lambda text: "\0" not in text), min_size=1))
def test_a_command_is_read_as_it_was_meant(said: list[str]) -> None:
    assert words(shown(tuple(said))) == said


def docker(wanted: vms.Vm, name: str = "run", cell_id: str = VLLM) -> list[str]:
    """What Docker on a host is given, as the host's shell reads it."""
    (step,) = (one for one in vms.steps(served(cell_id), wanted) if one.name == name)
    (line,) = step.commands
    remote = line[-1].removeprefix("--command=")
    return shlex.split(remote[remote.index("sudo ") :])


@given(texts, texts, st.sampled_from(["v6e-8", "v6e-16"]))
def test_the_server_is_told_what_the_user_wrote(argument: str, value: str, asked: str) -> None:
    try:
        wanted = a_vm(accelerator=asked, arguments=("--x", argument), env=(f"A={value}",))
    except UserError:
        return
    told = docker(wanted)
    assert told[-2:] == ["--x", argument]
    assert f"--env=A={value}" in told


@given(texts)
def test_nothing_a_user_gives_leaves_a_comment(said: str) -> None:
    """What only looks or undoes is commented out on every line."""
    step = Step(name="a", why="b", commands=(("echo", said),), kind=Kind.UNDO)
    lines = script([step], []).split("\n")
    assert all(line.startswith(("#", "set -eu")) for line in lines if line)


@given(texts, st.sampled_from(["name", "project", "zone", "network", "runtime", "hf_token"]))
def test_a_vms_wishes_are_names_or_refused(said: str, option: str) -> None:
    """Those stand in comments, too, where a line that breaks would be a command."""
    try:
        wanted = a_vm(**{option: said})
    except UserError:
        return
    lines = [line for step in vms.steps(served(), wanted) for line in step.commands]
    assert not [word for line in lines for word in line if "\n" in word]


def test_the_token_stands_nowhere() -> None:
    wanted = a_vm(hf_token="hub")
    (run,) = (one for one in vms.steps(served(), wanted) if one.name == "run")
    remote = run.commands[0][-1]
    assert "--secret=hub" in remote
    assert "--env=HF_TOKEN " in remote
    assert "--preserve-env=HF_TOKEN" in remote


def test_rays_token_is_each_hosts_and_stands_nowhere() -> None:
    wanted = a_vm(accelerator="v6e-16", hf_token="hub", ray_token="ray")
    for name in ("run", "join"):
        told = docker(wanted, name)
        assert {"--env=RAY_AUTH_MODE=token", "--env=RAY_AUTH_TOKEN", "--env=HF_TOKEN"} <= set(told)
        (step,) = (one for one in vms.steps(served(), wanted) if one.name == name)
        assert "sudo --preserve-env=HF_TOKEN,RAY_AUTH_TOKEN docker run" in step.commands[0][-1]
        assert "RAY_AUTH_TOKEN=$(gcloud secrets versions access" in step.commands[0][-1]
    assert "no login" not in " ".join(vms.says(served(), wanted))
    open_ = a_vm(accelerator="v6e-16")
    assert "RAY_AUTH_MODE" not in " ".join(docker(open_))
    assert "--ray-token-secret gives it one" in " ".join(vms.says(served(), open_))
    with pytest.raises(UserError, match="--env: RAY_AUTH_MODE is given twice"):
        a_vm(accelerator="v6e-16", ray_token="ray", env=("RAY_AUTH_MODE=x",))


def test_several_hosts_join_a_head_that_waits_for_them() -> None:
    wanted = a_vm(accelerator="v6e-16")
    made = {one.name: one for one in vms.steps(served(), wanted)}
    assert "--worker=0" in made["run"].commands[0]
    assert "--worker=1-3" in made["join"].commands[0]
    told = docker(wanted)
    assert told[told.index("imgbuild") + 2 :][:3] == ["4", "vllm", "serve"]
    assert told[told.index("--tensor-parallel-size") + 1] == "16"
    assert "--env=TPU_MULTIHOST_BACKEND=ray" in told
    assert "--env=JAX_PLATFORMS=" in docker(wanted, "join")


@pytest.mark.parametrize(("shm", "store"), [(None, 8 << 30), ("4Gi", 2 << 30)])
def test_rays_objects_fit_into_shm(shm: str | None, store: int) -> None:
    """Of a host's memory it takes 30 %, and puts them on a disk where /dev/shm has less."""
    wanted = a_vm(accelerator="v6e-16", shm=shm)
    for name in ("run", "join"):
        told = docker(wanted, name)
        assert f"ray start --object-store-memory={store} " in told[told.index("-c") + 1]
    made = pods(values(("v6e", "4x4"), **({} if shm is None else {"shm": shm})))
    for pod in made:
        assert f"--object-store-memory={store} " in pod["spec"]["containers"][0]["args"][2]


def test_a_server_of_one_host_is_given_one() -> None:
    for cell_id in (JAX, XLA):
        with pytest.raises(UserError, match=r"v6e-16 is 4 hosts, and .*'s server uses one"):
            a_vm(cell_id, accelerator="v6e-16", model="/m")


def test_what_tpus_compute_in() -> None:
    assert docker(a_vm())[-2:] == ["--dtype", "bfloat16"]
    assert docker(a_vm(arguments=("--dtype=float32",)))[-1] == "--dtype=float32"
    assert "bfloat16" not in docker(a_vm(arguments=("--dtype", "float32")))


def test_a_host_whose_chips_hang_on_two_nodes_is_not_bound_to_one() -> None:
    """By the image's own start, which counts the chips: it stays tuned otherwise."""
    for accelerator in ("v5litepod-8", "v5litepod-4", "tpu7x-8"):
        assert "IMGBUILD_TUNE" not in " ".join(docker(a_vm(accelerator=accelerator)))
    for accelerator, node in (("v5litepod-8", "both"), ("v5p-8", "the one")):
        (told, *_) = hosts.notes(served(VLLM), a_vm(accelerator=accelerator).tpus)
        assert node in told
    own = docker(a_vm(env=("IMGBUILD_TUNE=explain",)))
    assert [word for word in own if "IMGBUILD_TUNE" in word] == ["--env=IMGBUILD_TUNE=explain"]


def test_what_is_not_verified_says_so() -> None:
    assert "# Not verified: " in outputs.script(*vm_of("tpu-vm-ironwood"))
    assert "Not verified" not in outputs.script(*vm_of("tpu-vm-one"))


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"zone": "us-east5"}, "is a region, and a TPU is in a zone; did you mean 'us-east5-a'?"),
        ({"zone": "x"}, "--zone: 'x' is no zone"),
        ({"project": "My_Project"}, "no project's id; did you mean 'my-project'?"),
        ({"spot": True, "reserved": True}, "--spot with --reserved"),
        ({"model": "pvc://a/b"}, "names no model"),
        ({"model": "./x"}, "no folder that can be mounted"),
        ({"env": ("HF_TOKEN=x",)}, "--hf-token-secret names a secret of Secret Manager"),
        ({"hf_token": "a b"}, "--hf-token-secret: 'a b' is no secret's name"),
        ({"service_account": "me"}, "no service account's address"),
        ({"hf_token": "a/b"}, "--hf-token-secret: 'a/b' is no secret's name; as hub-token"),
        ({"ray_token": "ray"}, "--ray-token-secret: v6e-8 is one host, which needs no Ray"),
        ({"listen": "localhost"}, "--listen: 'localhost' is no IPv4 address"),
        ({"listen": "::1"}, "--listen: '::1' is no IPv4 address"),
        ({"listen": "999.1.1.1"}, "is no IPv4 address; as 127.0.0.1 or 0.0.0.0"),
        ({"image": "vllm"}, "names no version"),
        ({"arguments": ("--port", "1")}, "--port is set already"),
    ],
)
def test_mistakes_are_told_in_one_line(wishes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)) as raised:
        a_vm(**wishes)
    assert len(str(raised.value).splitlines()) == 1


def test_our_own_servers_read_folders() -> None:
    with pytest.raises(UserError, match="as /models/mine"):
        a_vm(JAX)


# GKE


@pytest.mark.parametrize("name", GKE)
def test_golden_of_gke(name: str, request: pytest.FixtureRequest) -> None:
    made = outputs.files(*gke_of(name))
    (objects,) = (text for path, text in made.items() if path.endswith(".yaml"))
    written(GOLDEN / f"{name}.yaml", objects, request)
    written(GOLDEN / f"{name}.sh", made["node-pools.sh"], request)


@pytest.mark.parametrize("name", GKE)
def test_objects_are_kubernetes_own(name: str) -> None:
    image, wanted, _ = gke_of(name)
    for made in deploy.manifests(image, wanted).values():
        check(made)


_ASKED = st.sampled_from(sorted({(one.generation.gke, one.topology) for one in slices.every()}))
_WISHES: dict[str, st.SearchStrategy[Any]] = {
    "spot": st.booleans(),
    "root": st.booleans(),
    "replicas": st.integers(0, 3),
    "cpus": st.just("8"),
    "memory": st.just("64Gi"),
    "cache_claim": st.just("a"),
    "env": st.just(("A=",)),
    "monitor": st.booleans(),
    "network_policy": st.booleans(),
    "arguments": st.just(("--x", "$(A)")),
}


@given(_ASKED, st.fixed_dictionaries({}, optional=_WISHES))
def test_whatever_is_wished_for_is_kubernetes_own(
    asked: tuple[str, str], wishes: dict[str, Any]
) -> None:
    for made in deploy.manifests(served(), values(asked, **wishes)).values():
        check(made)


def test_a_field_that_is_none_is_found_in_a_group() -> None:
    image, wanted, _ = gke_of("gke-tpu-several")
    made = deploy.manifests(image, wanted)["leaderworkerset"]
    spec = made["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]
    spec["containers"][0]["resuorces"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(made)


def pods(wanted: deploy.Values) -> list[dict[str, Any]]:
    made = deploy.manifests(served(), wanted)
    if "leaderworkerset" in made:
        both = made["leaderworkerset"]["spec"]["leaderWorkerTemplate"]
        return [both["leaderTemplate"], both["workerTemplate"]]
    main = made.get("deployment") or made["statefulset"]
    return [main["spec"]["template"]]


@given(_ASKED)
def test_pods_ask_for_all_chips_of_a_host_of_their_slice(asked: tuple[str, str]) -> None:
    wanted = values(asked)
    tpus = wanted.tpus
    assert tpus
    for made in pods(wanted):
        (container,) = made["spec"]["containers"]
        assert container["resources"]["limits"] == {"google.com/tpu": tpus.machine.chips}
        labels = made["spec"]["nodeSelector"]
        assert labels["cloud.google.com/gke-tpu-accelerator"] == tpus.generation.gke
        assert labels["cloud.google.com/gke-tpu-topology"] == tpus.topology
    assert len(pods(wanted)) == (2 if tpus.hosts > 1 else 1)


@given(texts)
def test_a_group_is_told_what_the_user_wrote(argument: str) -> None:
    try:
        wanted = values(("v6e", "4x4"), arguments=("--x", argument))
    except UserError:
        return
    known = {"LWS_LEADER_ADDRESS": "leader"}
    leader, worker = (made["spec"]["containers"][0]["args"] for made in pods(wanted))
    assert expanded(leader[-1], known) == argument
    assert tuple(expanded(word, known) for word in worker) == (*hosts.join("16Gi"), "leader")
    document = yaml.safe_load_all(outputs.stream(served(), wanted))
    (group,) = (made for made in document if made["kind"] == "LeaderWorkerSet")
    read = group["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]["containers"][0]["args"]
    assert read == leader


def test_the_leader_alone_answers() -> None:
    image, wanted, _ = gke_of("gke-tpu-several")
    made = deploy.manifests(image, wanted)
    assert made["service"]["spec"]["selector"]["leaderworkerset.sigs.k8s.io/worker-index"] == "0"
    # The set's controller makes a Service of the set's name.
    assert made["service"]["metadata"]["name"] != made["leaderworkerset"]["metadata"]["name"]
    leader, worker = pods(wanted)
    assert "readinessProbe" in leader["spec"]["containers"][0]
    assert "readinessProbe" not in worker["spec"]["containers"][0]
    everybody = made["networkpolicy"]["spec"]["podSelector"]["matchLabels"].items()
    assert everybody <= worker["metadata"]["labels"].items()
    assert {"from": [{"podSelector": {"matchLabels": dict(everybody)}}]} in (
        made["networkpolicy"]["spec"]["ingress"]
    )


def test_pods_are_confined_unless_the_devices_are_roots() -> None:
    for made in pods(values()) + pods(values(("v6e", "4x4"))):
        assert made["spec"]["securityContext"]["runAsNonRoot"]
        security = made["spec"]["containers"][0]["securityContext"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in security
    (made,) = pods(values(root=True))
    assert made["spec"]["securityContext"]["runAsUser"] == 0
    security = made["spec"]["containers"][0]["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}


def test_a_rollout_does_not_wait_for_a_node_that_does_not_come() -> None:
    made = deploy.manifests(served(), values())["deployment"]
    assert made["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_a_pool_of_several_hosts_is_one_slice() -> None:
    _, wanted, pool = gke_of("gke-tpu-several")
    made = {step.name: step for step in pools.steps(wanted, pool)}
    assert [line[4] for line in made["create"].commands] == ["llama-0", "llama-1"]
    assert all("--num-nodes=4" in line for line in made["create"].commands)
    assert all("--tpu-topology=4x4" in line for line in made["create"].commands)
    _, wanted, pool = gke_of("gke-tpu-ironwood")
    made = {step.name: step for step in pools.steps(wanted, pool)}
    (line,) = made["create"].commands
    assert "--placement-policy=vllm-2x2x2" in line
    assert not [word for word in line if word.startswith("--tpu-topology")]


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"autoscale": "1:2"}, "--autoscale: a slice is a node pool of its own"),
        ({"gpus": 1}, "leave out --gpus"),
        ({"name": "a" * 37}, "36 are left by a node pool's 40"),
        ({"root": True, "any_uid": True}, "--root with --any-uid"),
        ({"memory": "1Gi", "shm": "1Gi"}, "--shm: 1Gi of 1Gi of memory"),
    ],
)
def test_mistakes_of_gke(wishes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        values(**wishes)


def test_a_group_has_no_volume_of_its_own() -> None:
    with pytest.raises(UserError, match="a replica is 4 pods, and one volume is one node's"):
        values(("v6e", "4x4"), cache_per_replica=True)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"zone": None}, "a node pool needs --zone, too"),
        ({"cluster": None, "project": None, "zone": None}, "needs --cluster, --project, --zone"),
        ({"reservation": "a", "spot": True}, "--spot with --reservation"),
        ({"location": "x"}, "--location: 'x' is no zone and no region"),
        ({"location": "us-east1"}, "a cluster in us-east1 has no nodes in us-east5-b; as us-east5"),
        ({"location": "us-east1-b"}, "a cluster in us-east1-b has no nodes in us-east5-b"),
        ({"replicas": 0}, "--cluster with --replicas 0, which needs no nodes"),
    ],
)
def test_mistakes_of_pools(where: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        pools.pool(**{**POOL, **where})


@pytest.mark.parametrize("location", ["us-east5", "us-east5-a", "us-east5-b"])
def test_a_cluster_has_nodes_in_its_region(location: str) -> None:
    where: dict[str, Any] = {**POOL, "location": location}
    made = pools.pool(**where)
    assert made
    assert (made.location, made.zone) == (location, "us-east5-b")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--json", "--output", "x"), "--json with --output or --check"),
        (("--json", "--check"), "--json with --output or --check"),
        (("--check",), "--check needs a folder"),
        (
            ("--cluster", "c", "--project", "my-project", "--zone", "us-east5-b"),
            "name a folder with --output, or ask for --json",
        ),
    ],
)
def test_nothing_that_was_asked_for_is_left_out(more: tuple[str, ...], told: str) -> None:
    line = ["gke-tpu", VLLM, "-f", str(ROOT / "matrix.yaml"), "--model", "org/model"]
    line += ["--image", IMAGE, "--accelerator", "v6e", "--topology", "2x2", *more]
    with pytest.raises(UserError, match=re.escape(told)):
        CliRunner().invoke(command, line, catch_exceptions=False, standalone_mode=False)


def test_no_pool_is_asked_for() -> None:
    assert pools.pool(cluster=None, project=None) is None


# The command


def test_other_cells_are_sent_elsewhere() -> None:
    with pytest.raises(UserError, match="cpu-vllm does not run on TPUs"):
        deploy.of_tpu(matrix.cell(matrix_of(), "cpu-vllm"))
    with pytest.raises(UserError, match="deploy gke-tpu"):
        deploy.of(matrix.cell(matrix_of(), JAX))


def test_the_commands_write_what_the_library_makes(tmp_path: Path) -> None:
    line = [VLLM, "-f", str(ROOT / "matrix.yaml"), "--model", "org/model", "--image", IMAGE]
    line += ["--hf-token-secret", "hub", "--project", "my-project", "--zone", "us-east5-b"]
    run = CliRunner()
    asked = ["tpu-vm", *line, "--accelerator", "v6e-8"]
    assert run.invoke(command, asked).output == (GOLDEN / "tpu-vm-one.sh").read_text()
    file = tmp_path / "up.sh"
    assert run.invoke(command, [*asked, "-o", str(file)]).output == f"{file}\n"
    assert file.read_text() == (GOLDEN / "tpu-vm-one.sh").read_text()
    told = json.loads(run.invoke(command, [*asked, "--json"]).output)
    assert told["accelerator"] == "v6e-8"
    assert [step["name"] for step in told["steps"]][:3] == ["create", "wait", "pull"]
    assert told["steps"][1]["until"] == "ACTIVE"
    asked = ["gke-tpu", *line, "--accelerator", "v6e", "--topology", "2x4"]
    asked += ["--cluster", "llm", "--location", "us-east5"]
    alone = [*asked[: asked.index("--project")], "--accelerator", "v6e", "--topology", "2x4"]
    assert run.invoke(command, alone).output == (GOLDEN / "gke-tpu-one.yaml").read_text()
    told = json.loads(run.invoke(command, [*asked, "--json"]).output)
    assert [made["kind"] for made in told["objects"]][:2] == ["NetworkPolicy", "Service"]
    folder = tmp_path / "out"
    assert run.invoke(command, [*asked, "-o", str(folder)]).exit_code == 0
    assert (folder / "node-pools.sh").read_text() == (GOLDEN / "gke-tpu-one.sh").read_text()
    assert run.invoke(command, [*asked, "-o", str(folder), "--check"]).exit_code == 0
    (folder / "vllm.yaml").write_text("other\n")
    assert run.invoke(command, [*asked, "-o", str(folder), "--check"]).exit_code == 1

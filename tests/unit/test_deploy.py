"""Kubernetes objects: fit for their API, and for the image that they start."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from kubernetes_validate import utils

from builder import deploy
from builder.cli.deploy import command
from builder.deploy import cluster, placement, served, workload
from builder.deploy.server import FETCHING
from builder.errors import DriftError, UserError
from builder.facts import version_key
from builder.matrix import cell, select
from builder.runtime import preflight
from tests.unit.deployed import CASES, IMAGE, MINORS, anything, case, check, expanded, matrix_of
from tests.unit.deployed import served as served_of
from tests.unit.support import ROOT

GOLDEN = ROOT / "tests/golden/deploy"
CHARTS = json.loads((ROOT / "tests/fixtures/deploy/charts.json").read_text())
KUBELET = json.loads((ROOT / "tests/fixtures/deploy/kubelet.json").read_text())["fields"]


def objects(name: str) -> dict[str, dict[str, Any]]:
    return {made["kind"]: made for made in deploy.manifests(*case(name)).values()}


def pod(name: str) -> dict[str, Any]:
    made = objects(name)
    podspec: dict[str, Any] = (made.get("Deployment") or made["StatefulSet"])["spec"]["template"][
        "spec"
    ]
    return podspec


def wanted(cell_id: str = "cuda13.0-vllm-h100", **wishes: Any) -> deploy.Values:
    wishes = {"model": "org/model", "image": IMAGE, **wishes}
    return deploy.values(served_of(cell_id), **wishes)


def test_three_minors_are_asked() -> None:
    assert len(set(MINORS)) == 3
    assert MINORS[-1] == utils.latest_version()


@pytest.mark.parametrize("name", CASES)
def test_objects_are_kubernetes_own(name: str) -> None:
    for made in deploy.manifests(*case(name)).values():
        check(made)


@settings(max_examples=40)
@given(anything())
def test_whatever_is_wished_for_is_kubernetes_own(wishes: dict[str, Any]) -> None:
    for one in deploy.manifests(served_of("cuda13.0-vllm-h100"), wanted(**wishes)).values():
        check(one)


def test_a_field_that_is_none_is_found() -> None:
    made = objects("hub")["Deployment"]
    made["spec"]["template"]["spec"]["containers"][0]["resuorces"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(made)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, deploy.Format.YAML) for name in CASES),
        *((name, form) for name in ("hub", "everything") for form in list(deploy.Format)[1:]),
    ],
)
def test_golden(
    name: str, form: deploy.Format, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.deploy.chart.__version__", "9.9.9")
    made = deploy.files(*case(name), form)
    text = "".join(f"=== {path}\n{content}" for path, content in made.items())
    file = GOLDEN / f"{name}.{form}"
    if request.config.getoption("--update-golden"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert file.read_text() == text


@pytest.mark.parametrize("name", CASES)
def test_the_stream_holds_the_objects(name: str) -> None:
    image, wishes = case(name)
    read = list(yaml.safe_load_all(deploy.stream(image, wishes)))
    assert len(read) == len(deploy.manifests(image, wishes))
    for made, plain in zip(read, deploy.manifests(image, wishes).values(), strict=True):
        assert made["metadata"].pop("namespace", None) == wishes.namespace
        assert made == plain


@pytest.mark.parametrize("name", CASES)
def test_a_base_names_its_files(name: str) -> None:
    made = deploy.files(*case(name), deploy.Format.KUSTOMIZE)
    base = yaml.safe_load(made["base/kustomization.yaml"])
    assert set(base) <= {"apiVersion", "kind", "namespace", "resources"}
    files = {path.removeprefix("base/") for path in made if path.startswith("base/")}
    assert set(base["resources"]) == files - {"kustomization.yaml"}


def test_the_facts_are_those_of_the_image() -> None:
    """What images/manifests says, and the Dockerfile's HEALTHCHECK."""
    for one in select(matrix_of(), None):
        if one.build.accelerator == "tpu":
            continue
        image = deploy.of(one)
        dockerfile = (ROOT / f"images/{one.id}/Dockerfile").read_text()
        found = re.search(r"COPY images/manifests/(\S+)", dockerfile)
        assert found
        manifest = json.loads((ROOT / "images/manifests" / found[1]).read_text())
        assert manifest["server"]["port"] == image.port
        assert manifest["server"]["health"] == image.health
        assert manifest["sms"] == list(image.sms)
        assert manifest["kernel_sms"] == list(image.kernel_sms)
        if image.driver_floor:
            floor = version_key(manifest["driver_floor"])
            assert floor <= version_key(image.driver_floor)
        asked = re.search(
            r"--interval=(\d+)s --timeout=(\d+)s --start-period=(\d+)m --retries=(\d+)", dockerfile
        )
        assert asked
        interval, timeout, minutes, retries = map(int, asked.groups())
        times = (served.INTERVAL, served.TIMEOUT, served.START_PERIOD, served.RETRIES)
        assert times == (interval, timeout, 60 * minutes, retries)
        assert f"USER {image.uid}:{image.gid}" in dockerfile
        assert f"WORKDIR {image.home}" in dockerfile


def test_shared_memory_is_what_the_preflight_asks_for() -> None:
    assert served.SHM_PER_RANK << 20 == preflight._SHM_PER_RANK
    assert wanted(gpus=8).shm == "2Gi"
    assert wanted().shm == "1Gi"


@pytest.mark.parametrize("name", CASES)
def test_pods_are_of_class_guaranteed(name: str) -> None:
    (container,) = pod(name)["containers"]
    limits = container["resources"]["limits"]
    assert limits == container["resources"]["requests"]
    assert isinstance(limits["cpu"], int)


@pytest.mark.parametrize("name", CASES)
def test_pods_are_confined(name: str) -> None:
    """Pod Security's profile `restricted`."""
    made = pod(name)
    (container,) = made["containers"]
    assert made["securityContext"]["runAsNonRoot"]
    assert made["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not made["automountServiceAccountToken"]
    assert not made["enableServiceLinks"]
    names = {variable["name"] for variable in container["env"]}
    assert not names & {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"}
    allowed = {"emptyDir", "persistentVolumeClaim", "name"}
    assert all(set(volume) <= allowed for volume in made["volumes"])


@pytest.mark.parametrize("name", CASES)
def test_what_is_mounted_is_there(name: str) -> None:
    made = objects(name)
    podspec = pod(name)
    volumes = {volume["name"] for volume in podspec["volumes"]}
    claims = made.get("StatefulSet", {}).get("spec", {}).get("volumeClaimTemplates", [])
    volumes |= {claim["metadata"]["name"] for claim in claims}
    mounts = podspec["containers"][0]["volumeMounts"]
    assert {mount["name"] for mount in mounts} == volumes
    assert {"/cache", "/dev/shm", "/tmp", "/home/imgbuild"} <= {m["mountPath"] for m in mounts}


@pytest.mark.parametrize("name", CASES)
def test_selectors_select_the_pods(name: str) -> None:
    made = objects(name)
    main = made.get("Deployment") or made["StatefulSet"]
    labels = main["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        main["spec"]["selector"]["matchLabels"],
        made["Service"]["spec"]["selector"],
        made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ]
    if "NetworkPolicy" in made:
        selectors.append(made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
    for selector in selectors:
        assert selector.items() <= labels


def test_a_monitor_finds_one_service() -> None:
    made = deploy.manifests(*case("everything"))
    selector = made["servicemonitor"]["spec"]["selector"]["matchLabels"].items()
    found = [
        one for one in made.values()
        if one["kind"] == "Service" and selector <= one["metadata"].get("labels", {}).items()
    ]  # fmt: skip
    assert found == [made["service"]]


@pytest.mark.parametrize("name", CASES)
def test_a_start_has_its_time(name: str) -> None:
    image, wishes = case(name)
    probes = pod(name)["containers"][0]
    start = probes["startupProbe"]
    assert start["failureThreshold"] * start["periodSeconds"] >= wishes.startup
    assert {
        probes[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    } == {image.health}
    drain = probes["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(name)["terminationGracePeriodSeconds"] > drain


def test_an_autoscaler_alone_says_how_many() -> None:
    made = objects("everything")
    assert "replicas" not in made["StatefulSet"]["spec"]
    target = made["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "llama"}
    image, _ = case("everything")
    adapter = cluster.adapter(image)
    assert adapter
    metric = made["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert adapter["rules"]["custom"][0]["name"]["as"] == metric == "vllm_num_requests_waiting"


@pytest.mark.parametrize("text", ["-5$ or $(HOME)", "-$$", "-a$", "-$(A)$(B", "-$$(A)", "--x"])
def test_the_server_is_told_what_the_user_wrote(text: str) -> None:
    made = wanted(arguments=(text,), env=(f"A={text}",))
    container = workload.workload(served_of("cuda13.0-vllm-h100"), made)["spec"]["template"][
        "spec"
    ]["containers"][0]
    assert expanded(container["args"][-1], {"HOME": "/", "A": "b"}) == text
    assert expanded(container["env"][-1]["value"], {"HOME": "/", "A": "b"}) == text


def test_a_servers_key_is_a_reference() -> None:
    """SGLang takes its key as an argument alone: the kubelet puts it there."""
    image = served_of("cuda12.8-sglang")
    made = wanted(
        "cuda12.8-sglang",
        arguments=("--api-key", "$(KEY)", "--x", "$(HOME)$$(KEY)"),
        secret_env=("KEY=a/b",),
    )
    told = workload.workload(image, made)["spec"]["template"]["spec"]["containers"][0]["args"]
    known = {"KEY": "secret", "HOME": "/"}
    assert [expanded(text, known) for text in told[-3:]] == ["secret", "--x", "$(HOME)$secret"]
    assert "secret" not in str(told)


@pytest.mark.parametrize(
    "variable", ["TOKENIZERS_PARALLELISM=0", "MAX_TOKENS=1", "AWS_ACCESS_KEY_ID=x", "A=a://b/c:d@e"]
)
def test_what_is_no_secret_may_stand_in_the_open(variable: str) -> None:
    assert wanted(env=(variable,)).env


def test_a_variable_comes_once() -> None:
    """Of a list that is merged by names a server-side apply takes no second."""
    made = wanted(
        model="pvc://a/b",
        env=("HF_HUB_OFFLINE=0",),
        secret_env=("IMGBUILD_CACHE=a/b",),
        hf_token="x",
    )
    image = served_of("cuda13.0-vllm-h100")
    podspec = workload.workload(image, made)["spec"]["template"]["spec"]
    names = [variable["name"] for variable in podspec["containers"][0]["env"]]
    assert names == ["HF_TOKEN", "IMGBUILD_CACHE", "HF_HUB_OFFLINE"]


def test_arguments_are_the_servers() -> None:
    assert pod("sglang")["containers"][0]["args"] == [
        "--model-path", "org/model", "--host", "0.0.0.0", "--port", "30000", "--tp-size", "2",
        "--enable-metrics",
    ]  # fmt: skip
    assert pod("tensorrt-llm")["containers"][0]["args"][:1] == ["org/model"]
    assert "--tensor-parallel-size" not in pod("cpu")["containers"][0]["args"]
    image = served_of("cuda13.0-vllm-h100")
    own = wanted(gpus=4, arguments=("-tp=2", "--pipeline-parallel-size", "2"))
    assert "--tensor-parallel-size" not in workload.arguments(image, own)


# Placement


def fits(terms: list[dict[str, Any]], labels: dict[str, str]) -> bool:
    """As the scheduler does: one term, all of its expressions."""

    def holds(expression: dict[str, Any]) -> bool:
        value = labels.get(expression["key"])
        match expression["operator"]:
            case "In":
                return value in expression["values"]
            case "Gt" | "Lt" as operator:
                if value is None or not value.isdecimal():
                    return False
                bound = int(expression["values"][0])
                return int(value) > bound if operator == "Gt" else int(value) < bound
        raise AssertionError(expression)

    return any(all(map(holds, term["matchExpressions"])) for term in terms)


def node(driver: str, sm: str, product: str = "") -> dict[str, str]:
    major, minor, revision = (*driver.split("."), "")[:3]
    computes = sm.split(".")
    return {
        "nvidia.com/cuda.driver-version.major": major,
        "nvidia.com/cuda.driver-version.minor": minor,
        "nvidia.com/cuda.driver-version.revision": revision,
        "nvidia.com/gpu.compute.major": computes[0],
        "nvidia.com/gpu.compute.minor": computes[1],
        "nvidia.com/gpu.product": product,
    }


def terms(cell_id: str, **wishes: Any) -> list[dict[str, Any]]:
    made = placement.affinity(served_of(cell_id), wanted(cell_id, **wishes))
    assert made
    found: list[dict[str, Any]] = made["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    return found


DRIVERS = [
    "525.60.12", "525.60.13", "550.54.14", "570.26", "575.51.03", "580.65.05", "580.65.06",
    "580.65.10", "580.66", "580.126.16", "580.64.99", "590.44.01", "615.71.09",
]  # fmt: skip
SMS = ["7.0", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"]


@pytest.mark.parametrize(
    "cell_id",
    ["cuda13.0-vllm", "cuda13.0-vllm-h100", "cuda12.8-sglang", "cuda13.0-tensorrt-llm",
     "cuda12.4-vllm-v100", "cuda12.4-tgi", "cuda13.0-vllm-l4", "cuda13.0-vllm-rtx5090"],
)  # fmt: skip
def test_nodes_are_those_that_the_preflight_lets_pass(cell_id: str) -> None:
    """Each driver with each GPU: the scheduler's word is that of the rules."""
    image = served_of(cell_id)
    assert image.driver_floor

    def has_code(sm: str) -> bool:
        def covers(sms: tuple[str, ...]) -> bool:
            major, minor = version_key(sm)
            return any(version_key(one)[0] == major and version_key(one)[1] <= minor for one in sms)

        return covers(image.sms) and (not image.kernel_sms or covers(image.kernel_sms))

    for driver in DRIVERS:
        new = version_key(driver) >= version_key(image.driver_floor)
        known = not image.last_driver or version_key(driver)[0] <= int(image.last_driver)
        for sm in SMS:
            expected = new and known and has_code(sm)
            assert fits(terms(cell_id), node(driver, sm)) == expected, (driver, sm)


def test_a_product_may_be_named() -> None:
    named = terms("cuda13.0-vllm-h100", gpu_products=("NVIDIA-H100-NVL",))
    assert fits(named, node("580.95.05", "9.0", "NVIDIA-H100-NVL"))
    assert not fits(named, node("580.95.05", "9.0", "NVIDIA-H200"))


def test_a_cluster_may_have_labels_of_its_own() -> None:
    """Managed clusters without GPU feature discovery label nodes their own way."""
    label = "cloud.google.com/gke-accelerator=nvidia-h100-80gb"
    made = wanted(gpu_labels=False, node_labels=(label,))
    image = served_of("cuda13.0-vllm-h100")
    podspec = workload.workload(image, made)["spec"]["template"]["spec"]
    assert "affinity" not in podspec
    assert podspec["nodeSelector"] == {
        "kubernetes.io/arch": "amd64",
        "cloud.google.com/gke-accelerator": "nvidia-h100-80gb",
    }


def test_a_node_without_labels_is_none() -> None:
    assert not fits(terms("cuda13.0-vllm"), {})


# Beside the workload


def test_the_kubelets_configuration_is_of_its_type() -> None:
    made = cluster.kubelet()
    head = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
    assert head.items() <= made.items()
    kinds = {"string": str, "map[string]string": dict}
    for name, value in made.items():
        if name not in head:
            assert isinstance(value, kinds[KUBELET[name]]), name
            if isinstance(value, dict):
                assert all(isinstance(one, str) for one in value.values())
    assert made["topologyManagerPolicy"] in {
        "none",
        "best-effort",
        "restricted",
        "single-numa-node",
    }


def test_the_operators_values() -> None:
    whole, mig = (cluster.gpu_operator(*case(name)) for name in ("hub", "mig"))
    assert whole
    assert "mig" not in whole  # others may have cut their GPUs
    assert mig
    assert mig["mig"] == {"strategy": "mixed"}
    assert mig["migManager"] == {"enabled": True}
    assert cluster.gpu_operator(*case("cpu")) is None
    files = deploy.files(*case("v100"), deploy.Format.YAML)
    assert (
        "Drivers after R580 do not know NVIDIA V100," in files["cluster/gpu-operator-values.yaml"]
    )


def test_values_are_of_the_charts_that_take_them() -> None:
    """A key that a chart does not know is passed over in silence."""
    for name in ("hub", "mig", "v100"):
        made = cluster.gpu_operator(*case(name))
        assert made
        assert list(unknown(made, CHARTS["gpu-operator"]["values"])) == []
    adapter = cluster.adapter(case("everything")[0])
    assert adapter
    assert list(unknown(adapter, CHARTS["prometheus-adapter"]["values"])) == []
    assert list(unknown({"mig": {"startegy": "mixed"}}, CHARTS["gpu-operator"]["values"]))


def unknown(values: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    """Keys of values that are none of the chart's, or of another type."""
    types = {bool: "boolean", str: "string", list: "array", dict: "object"}
    for group, inner in values.items():
        for key, value in inner.items():
            if known.get(group, {}).get(key) != types[type(value)]:
                yield f"{group}.{key}"


def test_the_charts_own_driver_may_be_too_new_for_a_gpu() -> None:
    """V100's last branch is older than what the chart installs: the file says so."""
    image, _ = case("v100")
    assert image.last_driver
    assert version_key(CHARTS["gpu-operator"]["default_driver"])[0] > int(image.last_driver)
    files = deploy.files(*case("v100"), deploy.Format.YAML)
    assert "of that branch as driver.version" in files["cluster/gpu-operator-values.yaml"]


def test_a_chart_has_what_its_autoscaler_needs() -> None:
    """It may be turned on when the chart is installed."""
    path = "cluster/prometheus-adapter-values.yaml"
    assert path in deploy.files(*case("hub"), deploy.Format.HELM)
    assert path not in deploy.files(*case("hub"), deploy.Format.YAML)
    assert path not in deploy.files(*case("tensorrt-llm"), deploy.Format.HELM)


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({}, []),
        ({"monitor": True}, ["--allow-from names its own"]),
        ({"autoscale": "1:2"}, ["--monitor makes a ServiceMonitor", "--allow-from names its own"]),
        ({"autoscale": "1:2", "monitor": True, "allow_from": ("m",)}, []),
        ({"monitor": True, "network_policy": False}, []),
        ({"cpus": "7"}, ["7 CPUs are no whole cores"]),
        ({"cpus": "8"}, []),
    ],
)
def test_what_may_be_overlooked_is_said(wishes: dict[str, Any], told: list[str]) -> None:
    notes = deploy.notes(wanted(**wishes))
    assert len(notes) == len(told)
    assert all(words in note for words, note in zip(told, notes, strict=True))


def test_notes_stay_out_of_the_stream() -> None:
    line = ["k8s", "cuda13.0-vllm-h100", "-f", str(ROOT / "matrix.yaml"), "--model", "org/model"]
    told = CliRunner().invoke(command, [*line, "--image", IMAGE, "--monitor"])
    assert "--allow-from names its own" in told.stderr
    assert told.stdout == deploy.stream(served_of("cuda13.0-vllm-h100"), wanted(monitor=True))


# Mistakes


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"name": "My_Model"}, "--name: 'My_Model' is no DNS label; did you mean 'my-model'?"),
        ({"name": "7b"}, "--name: '7b' is no DNS label; did you mean 'm-7b'?"),
        ({"name": "x" * 53}, "has 53 characters; 52 are left"),
        ({"name": ""}, "--name: '' is no DNS label"),
        ({"name": "a\n"}, "did you mean 'a'?"),
        ({"namespace": "a.b"}, "--namespace: 'a.b' is no namespace's name; did you mean 'a-b'?"),
        ({"image": "vllm"}, "names no version"),
        ({"image": "vllm:latest"}, "names no version"),
        ({"image": "docker://a/b:1"}, "did you mean 'a/b:1'?"),
        ({"image": "Vllm:1"}, "did you mean 'vllm:1'?"),
        ({"image": "vllm:1\n"}, "no image's reference; did you mean 'vllm:1'?"),
        ({"model": "/models/x"}, "a folder is in a volume: pvc://CLAIM/models/x"),
        ({"model": "https://huggingface.co/org/m/tree/main"}, "did you mean 'org/m'?"),
        ({"model": "hf://org/m"}, "did you mean 'org/m'?"),
        ({"model": "s3://bucket/m"}, "known are names on the hub and pvc://CLAIM/FOLDER"),
        ({"model": "org/m: x"}, "names no model"),
        ({"model": "pvc://Claim/x"}, "--model: 'Claim' is no name of an object; did you mean"),
        ({"model": "pvc://claim/../x"}, "no folder of a volume"),
        ({"memory": "32GB"}, "--memory: '32GB' is no quantity; did you mean '32Gi'"),
        ({"memory": "1.5Gi"}, "is no quantity; a whole number with"),
        ({"memory": "1Gi"}, "--shm: 1Gi of 1Gi of memory; what is written to /dev/shm counts"),
        ({"cpus": "0.5"}, "pins no parts of a CPU"),
        ({"cpus": "4000m"}, "did you mean '4'?"),
        ({"gpus": 0}, "needs a GPU"),
        ({"gpus": 2, "mig": "1g.10gb"}, "NCCL does not talk between MIG instances"),
        ({"mig": "nvidia.com/mig-1g.10gb"}, "did you mean '1g.10gb'?"),
        ({"hugepages": "4Mi=4Gi"}, "as 2Mi=4Gi or 1Gi=8Gi"),
        ({"hugepages": "1Gi=1500Mi"}, "no multiple of 1Gi"),
        ({"env": ("CUDA_VISIBLE_DEVICES=0",)}, "is for who hands out GPUs to set"),
        ({"env": ("HF_TOKEN=hf_x",)}, "--secret-env HF_TOKEN=SECRET/KEY takes it from a Secret"),
        ({"env": ("hf_token=hf_x",)}, "--secret-env hf_token=SECRET/KEY"),
        ({"env": ("AWS_SECRET_ACCESS_KEY=x",)}, "would stand in the open"),
        ({"env": ("HTTPS_PROXY=http://me:pass@proxy:3128",)}, "HTTPS_PROXY holds a password"),
        ({"arguments": ("--api-key", "x")}, "'$(NAME)' stands for it here"),
        ({"arguments": ("--api-key=x",)}, "what --api-key is given would stand in the open"),
        ({"arguments": ("--admin-api-key", "$(A)")}, "would stand in the open"),
        ({"env": ("A",)}, "as NAME=VALUE"),
        ({"env": ("A=1", "A=2")}, "A is given twice"),
        ({"env": ("A=\x00",)}, "which YAML cannot carry"),
        ({"arguments": ("--x", "\ud800")}, "which YAML cannot carry"),
        ({"secret_env": ("A=x",)}, "as SECRET/KEY"),
        ({"pull_secrets": ("a", "a")}, "--pull-secret: a is given twice"),
        ({"hf_token": "x", "secret_env": ("HF_TOKEN=x/y",)}, "HF_TOKEN is given twice"),
        ({"cache_claim": "a", "cache_per_replica": True}, "one volume for all, or one for each"),
        ({"storage_class": "a"}, "--storage-class without --cache-per-replica"),
        ({"autoscale": "0:4"}, "MIN:MAX as 1:4"),
        ({"autoscale": "1:4", "replicas": 2}, "the autoscaler says how many there are"),
        ({"autoscale": "1:4", "target": 0}, "--target: 0 is no load"),
        ({"target": 7}, "--target without --autoscale says nothing"),
        ({"allow_from": ("a",), "network_policy": False}, "--allow-from without --network-policy"),
        ({"startup": "999999h"}, "--startup: 999999h is longer than a week"),
        ({"drain": "169h"}, "--drain: 169h is longer than a week"),
        ({"memory": "8192Pi"}, "--memory: 8192Pi is more than there can be"),
        ({"gpus": 65}, "--gpus: no host has 65"),
        ({"gateway": "g", "hostnames": ("a.b", "a.b")}, "--hostname: a.b is given twice"),
        ({"gateway": "g", "hostnames": tuple(f"a{n}.b" for n in range(17))}, "no more than 16"),
        ({"gateway": "g", "hostnames": ("10.0.0.1",)}, "'10.0.0.1' is no host's name"),
        ({"hf_token": "a.-b"}, "'a.-b' is no name of an object"),
        ({"hf_token": "a-.b"}, "'a-.b' is no name of an object"),
        ({"hf_token": "a/.."}, "names no key of a Secret"),
        ({"node_labels": ("a..b/c=d",)}, "is no label"),
        ({"startup": "45"}, "did you mean '45s'?"),
        ({"gateway": "a/b/c"}, "--gateway"),
        ({"hostnames": ("x.example.org",)}, "--hostname without --gateway"),
        ({"gateway": "g", "hostnames": ("nohost",)}, "--hostname: 'nohost' is no host's name"),
        ({"monitor": True, "monitor_labels": ("helm.sh/chart=b",)}, "helm.sh/chart is set already"),
        ({"monitor": True, "monitor_labels": ("a=b", "a=c")}, "a is given twice"),
        ({"node_labels": ("kubernetes.io/arch=arm64",)}, "kubernetes.io/arch is set already"),
        ({"surge": False, "cache_per_replica": True}, "a StatefulSet never starts one before"),
        ({"mig": ""}, "--mig: '' is no MIG profile"),
        ({"memory": ""}, "--memory: '' is no quantity"),
        ({"cache_claim": ""}, "--cache-claim: '' is no name of an object"),
        ({"startup": ""}, "--startup: '' is no duration"),
        ({"hf_token": ""}, "--hf-token-secret: '' is no name of an object"),
        ({"gateway": ""}, "--gateway: '' is no name of an object"),
        ({"node_labels": ("a",)}, "--node-label: 'a' is no label"),
        ({"gpu_labels": False, "gpu_products": ("a",)}, "--gpu-product without --gpu-labels"),
        ({"arguments": ("8192",)}, "what is the server's follows `--`, an option first"),
        ({"arguments": ("--port=80",)}, "--port is set already, and what asks the server counts"),
        ({"arguments": ("--ssl-keyfile", "a")}, "it asks in plain HTTP; TLS is for a Gateway"),
        ({"arguments": ("--uds=/tmp/a",)}, "with --uds what asks the server has no answer"),
        ({"arguments": ("-x", "--model", "a")}, "--model of imgbuild says it"),
        ({"monitor_labels": ("a=b",)}, "--monitor-label without --monitor"),
        ({"gpu_products": ("NVIDIA H100 NVL",)}, "did you mean 'NVIDIA-H100-NVL'?"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(wishes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as raised:
        wanted(**wishes)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("cell_id", "wishes", "told"),
    [
        ("cpu-vllm", {"gpus": 1}, "runs on CPUs and would leave a GPU idle"),
        ("cpu-ray", {}, "server reads folders, and does not fetch 'org/model'; as pvc://"),
        ("cuda13.0-deepspeed", {"gpus": 2}, "has no tensor parallelism"),
        ("cuda13.0-tensorrt-llm", {"autoscale": "1:2"}, "of TensorRT-LLM's metrics"),
    ],
)  # fmt: skip
def test_what_an_image_cannot_is_refused(cell_id: str, wishes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        wanted(cell_id, **wishes)


def test_a_tpu_cell_is_refused() -> None:
    with pytest.raises(UserError, match="runs on TPUs"):
        deploy.of(cell(matrix_of(), "tpu-jax"))


def test_profiles_with_media_engines_are_spelt_as_the_plugin_does() -> None:
    assert wanted(mig="1g.10gb+me").resource == "nvidia.com/mig-1g.10gb.me"
    assert wanted(mig="1G.10GB").resource == "nvidia.com/mig-1g.10gb"


@pytest.mark.parametrize(
    ("cell_id", "profile", "told"),
    [
        (
            "cuda13.0-vllm-h100",
            "1g.5gb",
            "NVIDIA H100 has no profile '1g.5gb'; did you mean '1g.10gb'?",
        ),
        ("cuda13.0-vllm-h100", "1g.5gb+me", "did you mean '1g.10gb.me'?"),
        ("cuda13.0-vllm-a100", "7g.141gb", "did you mean '7g.80gb'?"),
        ("cuda13.0-vllm-h100", "1g.35gb", "NVIDIA H100 has no profile '1g.35gb'"),
        ("cuda13.0-vllm", "3g.10gb", "of the GPUs that cuda13.0-vllm runs on none has a profile"),
        ("cuda12.4-vllm-v100", "1g.10gb", "NVIDIA V100 is not divided by MIG; these are: a100"),
        ("cuda13.0-vllm-l4", "1g.10gb", "NVIDIA L4 is not divided by MIG"),
    ],
)
def test_a_profile_that_no_such_card_has(cell_id: str, profile: str, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        wanted(cell_id, mig=profile)


@pytest.mark.parametrize(
    ("cell_id", "profile"),
    [
        ("cuda13.0-vllm-h100", "1g.12gb"),  # of the 94 GB card
        ("cuda13.0-vllm-a100", "1g.5gb"),
        ("cuda13.0-vllm-rtxpro6000", "2g.48gb"),
        ("cuda13.0-vllm-gh200", "1g.24gb"),  # of which nothing is known
        ("cuda13.0-vllm", "1g.34gb"),
    ],
)
def test_a_profile_that_some_such_card_has(cell_id: str, profile: str) -> None:
    assert wanted(cell_id, mig=profile).mig == profile


def test_a_hub_is_fetched_from_a_volume_is_not() -> None:
    assert wanted().startup == FETCHING
    assert wanted(model="pvc://a/b").startup == served.START_PERIOD
    assert ports(wanted(model="pvc://a/b")) == [53, 53]
    assert ports(wanted()) == [53, 53, 443]


def ports(made: deploy.Values) -> list[int]:
    """That the server may reach."""
    policy = deploy.manifests(served_of("cuda13.0-vllm-h100"), made)["networkpolicy"]
    return [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]


@pytest.mark.parametrize(
    ("variable", "port"),
    [
        ("HTTPS_PROXY=http://proxy.example.org:3128", 3128),
        ("https_proxy=proxy:8080", 8080),
        ("ALL_PROXY=socks5h://[::1]", 1080),
        ("HF_ENDPOINT=http://mirror.example.org/hub", 80),
        ("HF_ENDPOINT=https://mirror.example.org", 443),
        ("HTTPS_PROXY=http://proxy:port", None),
        ("HTTPS_PROXY=", None),
        ("NO_PROXY=a:1", None),
    ],
)
def test_a_proxy_may_be_reached(variable: str, port: int | None) -> None:
    """What the user sends the server to is not forbidden it."""
    assert ports(wanted(model="pvc://a/b", env=(variable,))) == [53, 53, *([port] if port else [])]
    assert set(ports(wanted(env=(variable,)))) == {53, 443} | ({port} if port else set())


def test_openshifts_names_may_be_asked_for() -> None:
    assert ports(wanted(any_uid=True)) == [53, 53, 5353, 5353, 443]


# The command


def test_the_command_writes_what_the_library_makes(tmp_path: Path) -> None:
    line = ["k8s", "cuda13.0-vllm-h100", "-f", str(ROOT / "matrix.yaml"), "--model", "org/model"]
    line += ["--image", IMAGE]
    run = CliRunner()
    assert run.invoke(command, line).output == deploy.stream(*case("hub"))
    for form in deploy.Format:
        folder = tmp_path / form
        told = run.invoke(command, [*line, "--format", form.value, "-o", str(folder)])
        assert told.exit_code == 0, told.output
        made = deploy.files(*case("hub"), form)
        assert {str(file.relative_to(folder)) for file in folder.rglob("*.*")} == set(made)
        for path, text in made.items():
            assert (folder / path).read_text() == text
        again = [*line, "--format", form.value, "-o", str(folder)]
        assert run.invoke(command, again).output == ""
        assert run.invoke(command, [*again, "--check"]).exit_code == 0
        (folder / next(iter(made))).write_text("other\n")
        assert run.invoke(command, [*again, "--check"]).exit_code == 1


@pytest.mark.parametrize("first", [["--cache-per-replica"], []])
def test_a_workload_of_another_kind_goes(first: list[str], tmp_path: Path) -> None:
    """Helm would install a Deployment beside the StatefulSet that it has become."""
    line = ["k8s", "cuda13.0-vllm-h100", "-f", str(ROOT / "matrix.yaml"), "--model", "org/model"]
    line += ["--image", IMAGE, "--format", "helm", "-o", str(tmp_path)]
    then = [] if first else ["--cache-per-replica"]
    run = CliRunner()
    assert run.invoke(command, [*line, *first]).exit_code == 0
    templates = tmp_path / "vllm/templates"
    (templates / "mine.yaml").write_text("a user's own\n")
    before = {file.name for file in templates.iterdir()}
    assert run.invoke(command, [*line, *first, "--check"]).exit_code == 0
    assert run.invoke(command, [*line, *then, "--check"]).exit_code == 1
    told = run.invoke(command, [*line, *then]).output
    stateful, stateless = {"statefulset.yaml", "service-headless.yaml"}, {"deployment.yaml"}
    gone, come = (stateful, stateless) if first else (stateless, stateful)
    assert {file.name for file in templates.iterdir()} == before - gone | come
    assert all(f"{templates / name} is removed" in told for name in gone)
    assert run.invoke(command, [*line, *then, "--check"]).exit_code == 0
    back = templates / min(gone)
    back.write_text("back\n")
    checked = run.invoke(command, [*line, *then, "--check"])
    assert isinstance(checked.exception, DriftError)
    assert "-back\n" in checked.exception.diff


def test_a_charts_folder_is_its_own() -> None:
    image = served_of("cuda13.0-vllm-h100")
    with pytest.raises(UserError, match="the chart's folder would be `cluster/`"):
        deploy.files(image, wanted(name="cluster"), deploy.Format.HELM)
    assert deploy.files(image, wanted(name="cluster"), deploy.Format.YAML)


def test_a_registry_stands_for_the_image() -> None:
    line = ["k8s", "cpu-vllm", "-f", str(ROOT / "matrix.yaml"), "--model", "org/model"]
    run = CliRunner()
    told = run.invoke(command, [*line, "--registry", "r.example.org:5000/llm"])
    assert "image: r.example.org:5000/llm/vllm:0.32.0-cpu\n" in told.output
    told = run.invoke(command, [*line, "--registry", "r.example.org/llm/"])
    assert "image: r.example.org/llm/vllm:0.32.0-cpu\n" in told.output
    assert "is no registry" in str(run.invoke(command, [*line, "--registry", ""]).exception)
    assert isinstance(run.invoke(command, line).exception, UserError)
    assert isinstance(
        run.invoke(command, [*line, "--image", "a:1", "--format", "helm"]).exception, UserError
    )
    served_arguments = [*line, "--image", "a:1", "--", "--max-model-len", "8192"]
    assert '- --max-model-len\n        - "8192"\n' in run.invoke(command, served_arguments).output

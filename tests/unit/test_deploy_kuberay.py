"""Objects for KubeRay: fit for its CRDs, for Kubernetes' own types, and for the image."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import deploy
from builder.cli.deploy import command
from builder.deploy import rayapp, rayservice
from builder.errors import UserError
from builder.servers import on_ray
from tests.unit.deployed import check, expanded, served, texts
from tests.unit.support import ROOT

GOLDEN = ROOT / "tests/golden/deploy"
# The fields of four minors' CRDs, as far as the objects here reach into them: what is below a pod's
# template is checked as a Pod of Kubernetes' own. Rules in CEL are not run.
CRDS = json.loads((ROOT / "tests/fixtures/deploy/kuberay.json").read_text())["versions"]
IMAGE = "registry.example.org/llm/ray@sha256:" + "0123456789abcdef" * 4
# Name -> cell, wishes.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "service": ("cuda13.0-ray", {"gpus": 2, "replicas": 2, "arguments": ("--enforce-eager",)}),
    "service-everything": (
        "cuda13.0-ray-h100",
        {
            "name": "llama",
            "namespace": "llm",
            "gpus": 4,
            "replicas": 3,
            "surge": False,
            "gpu_products": ("NVIDIA-H100-80GB-HBM3",),
            "node_labels": ("pool=gpu",),
            "cpus": "16",
            "memory": "128Gi",
            "hugepages": "2Mi=4Gi",
            "cache_claim": "caches",
            "env": ("PRICE=5$ or $(HOME)",),
            "secret_env": ("OTHER=a/b",),
            "hf_token": "hub",
            "pull_secrets": ("registry",),
            "runtime_class": "nvidia",
            "priority_class": "inference",
            "drain": "2m",
            "allow_from": ("gateways",),
            "auth_secret": "ray-token",
            "redis": "redis.cache:6379",
            "redis_password": "redis/secret",
            "operator_namespace": "kuberay",
            "head_cpus": "4",
            "head_memory": "16Gi",
            "arguments": ("--served-model-name", "it's $HOME"),
        },
    ),
    "service-mig": ("cuda13.0-ray", {"mig": "1g.10gb", "replicas": 7, "any_uid": True}),
    "service-cpu": ("cpu-ray", {"network_policy": False}),
    "cluster": ("cuda12.8-ray", {"cluster_only": True, "replicas": 2, "version": "1.5"}),
    "cluster-1.4": (
        "cuda13.0-ray",
        {"cluster_only": True, "version": "1.4", "auth_secret": "ray-token"},
    ),
}


def wanted(cell_id: str = "cuda13.0-ray", **wishes: Any) -> deploy.Kuberay:
    wishes = {"model": "pvc://models/llama", "image": IMAGE, **wishes}
    return deploy.kuberay(served(cell_id), **wishes)


def case(name: str) -> tuple[deploy.Served, deploy.Kuberay]:
    cell_id, wishes = CASES[name]
    return served(cell_id), wanted(cell_id, **wishes)


def read(image: deploy.Served, one: deploy.Kuberay) -> dict[str, dict[str, Any]]:
    """Kind -> object, as a reader of the stream has it."""
    return {made["kind"]: made for made in yaml.safe_load_all(deploy.kuberay_stream(image, one))}


def main(made: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return made.get("RayService") or made["RayCluster"]


def cluster(made: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = main(made)["spec"]
    return spec.get("rayClusterConfig") or spec


def templates(made: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    spec = cluster(made)
    return [spec["headGroupSpec"]["template"], spec["workerGroupSpecs"][0]["template"]]


def check_all(made: dict[str, dict[str, Any]], version: str) -> None:
    """Against the CRDs of that minor and all later ones, and Kubernetes' own types."""
    for minor, kinds in CRDS.items():
        if minor >= version:
            kind = main(made)["kind"]
            jsonschema.Draft202012Validator(kinds[kind]).validate(main(made)["spec"])
    for template in templates(made):
        metadata = {"name": "a", **template["metadata"]}
        check({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    for kind, one in made.items():
        if not kind.startswith("Ray"):
            check(one)


def test_the_minors_are_those_that_can_be_named() -> None:
    assert tuple(CRDS) == deploy.KUBERAY


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    text = deploy.kuberay_stream(*case(name))
    file = GOLDEN / f"{name}.kuberay"
    if request.config.getoption("--update-golden"):
        file.write_text(text)
    assert file.read_text() == text


@pytest.mark.parametrize("name", CASES)
def test_objects_are_kuberays_and_kubernetes_own(name: str) -> None:
    image, one = case(name)
    made = read(image, one)
    assert main(made)["apiVersion"] == "ray.io/v1"
    check_all(made, one.version)


@settings(max_examples=25)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "gpus": st.integers(1, 8),
            "replicas": st.integers(1, 5),
            "surge": st.booleans(),
            "cluster_only": st.booleans(),
            "version": st.sampled_from(deploy.KUBERAY),
            "auth_secret": st.just("token"),
            "redis": st.sampled_from(["redis:6379", "rediss://r.example.org:6380"]),
            "hugepages": st.just("1Gi=2Gi"),
            "any_uid": st.booleans(),
            "network_policy": st.booleans(),
            "allow_from": st.just(("a",)),
            "cache_claim": st.just("a"),
            "hf_token": st.just("hub"),
        },
    )
)
def test_whatever_is_wished_for_is_kuberays_own(wishes: dict[str, Any]) -> None:
    try:
        one = wanted(**wishes)
    except UserError:
        return
    check_all(read(served("cuda13.0-ray"), one), one.version)


def test_a_field_that_is_none_is_found() -> None:
    for where in ("authOptions", "headGroupSpec"):
        made = read(*case("service"))
        cluster(made)[where]["modes"] = "token"
        with pytest.raises(jsonschema.ValidationError):
            check_all(made, "1.6")
    with pytest.raises(jsonschema.ValidationError):  # it came with 1.5
        check_all(read(*case("service")), "1.4")


@given(texts)
def test_the_application_is_told_what_the_user_wrote(argument: str) -> None:
    """Through YAML in YAML, and then by the image's own reader of options."""
    image = served("cuda13.0-ray")
    try:
        one = wanted(arguments=("--x", argument))
    except UserError:
        return
    config = yaml.safe_load(read(image, one)["RayService"]["spec"]["serveConfigV2"])
    (app,) = config["applications"]
    assert app["args"]["arguments"][-1] == argument
    assert config["http_options"]["port"] == image.port


@given(texts)
def test_a_variable_is_what_the_user_wrote(value: str) -> None:
    try:
        one = wanted(env=(f"A={value}",))
    except UserError:
        return
    for template in templates(read(served("cuda13.0-ray"), one)):
        (container,) = template["spec"]["containers"]
        told = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert expanded(told["A"], {}) == value


@pytest.mark.parametrize("name", CASES)
def test_the_images_own_entrypoint_starts_what_kuberay_made(name: str) -> None:
    """KubeRay leaves a container's arguments alone where the pod says so, and fills a variable."""
    for template in templates(read(*case(name))):
        assert template["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}
        (container,) = template["spec"]["containers"]
        assert "command" not in container
        assert container["args"][:2] == ["bash", "-c"]
        # The kubelet replaces $(NAME) alone.
        assert expanded(container["args"][2], {}) == container["args"][2]
        assert container["args"][2].endswith("; exec $KUBERAY_GEN_RAY_START_CMD")


@pytest.mark.parametrize("name", CASES)
def test_the_head_has_no_gpu_and_gets_no_work(name: str) -> None:
    image, one = case(name)
    spec = cluster(read(image, one))
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    head = spec["headGroupSpec"]["template"]["spec"]
    assert not any("nvidia" in key for key in head["containers"][0]["resources"]["limits"])
    assert "affinity" not in head
    assert "tolerations" not in head
    (group,) = spec["workerGroupSpecs"]
    worker = group["template"]["spec"]["containers"][0]["resources"]
    assert worker["limits"] == worker["requests"]
    gpus = {key: count for key, count in worker["limits"].items() if "nvidia" in key}
    assert sum(gpus.values()) == int(group["rayStartParams"].get("num-gpus", 0))
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


@pytest.mark.parametrize("name", CASES)
def test_pods_are_confined(name: str) -> None:
    for template in templates(read(*case(name))):
        made = template["spec"]
        (container,) = made["containers"]
        assert made["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounted) == {volume["name"] for volume in made["volumes"]}
        assert {"/cache", "/dev/shm", "/tmp", "/home/imgbuild"} <= set(mounted.values())


@pytest.mark.parametrize("name", CASES)
def test_no_probe_needs_what_the_image_has_not(name: str) -> None:
    """KubeRay's own run bash and wget in a worker; those that are here are not replaced."""
    for template in templates(read(*case(name))):
        (container,) = template["spec"]["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert set(container[probe]) & {"exec", "httpGet"} == {"httpGet"}


@pytest.mark.parametrize("name", CASES)
def test_selectors_select_the_pods(name: str) -> None:
    made = read(*case(name))
    head, worker = (template["metadata"]["labels"].items() for template in templates(made))
    assert "app.kubernetes.io/name" not in dict(head)  # KubeRay's Services select by its own
    if policy := made.get("NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= head & worker
        peers = [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]]
        assert peers[0]["podSelector"]["matchLabels"].items() <= head & worker
    if budget := made.get("PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"].items() <= worker
        assert not budget["spec"]["selector"]["matchLabels"].items() <= head
        replicas = cluster(made)["workerGroupSpecs"][0]["replicas"]
        assert budget["spec"]["minAvailable"] == replicas - 1 > 0


def test_a_token_is_asked_for_in_each_version() -> None:
    assert cluster(read(*case("service")))["authOptions"] == {"mode": "token"}
    everything = cluster(read(*case("service-everything")))
    assert everything["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    old = read(*case("cluster-1.4"))
    assert "authOptions" not in cluster(old)
    for template in templates(old):
        env = {one["name"]: one for one in template["spec"]["containers"][0]["env"]}
        assert env["RAY_AUTH_MODE"]["value"] == "token"
        assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "ray-token"


def test_the_application_is_the_images_own() -> None:
    """The names by which Ray Serve finds it, and options that it knows."""
    module, _, name = rayapp.IMPORT_PATH.partition(":")
    assert f"builder.{module}" == on_ray.__name__
    assert callable(getattr(on_ray, name))
    told = rayservice.application(*case("service"))["applications"][0]["args"]["arguments"]
    options, engine = on_ray.parse(told)
    assert (options.model, options.replicas) == ("/models/llama", 2)
    assert "--tensor-parallel-size 2" in shlex.join(engine)


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"model": "org/model"}, "does not fetch 'org/model'; as pvc://CLAIM/FOLDER"),
        ({"replicas": 0}, "--replicas: 0 workers serve nothing"),
        ({"name": "a" * 48}, "KubeRay leaves 47 signs"),
        ({"version": "1.3"}, "--kuberay: '1.3' is not known"),
        ({"version": "1.4"}, "sends no token, and so cannot start an application"),
        ({"version": "1.4", "cluster_only": True}, "--auth-secret names a Secret"),
        ({"version": "1.5", "auth_secret": "a"}, "which makes its own"),
        ({"redis": "redis"}, "--redis: 'redis' is no address; as redis:6379"),
        ({"redis": "redis:0"}, "--redis: 'redis:0' is no address"),
        ({"redis": "redis:65536"}, "--redis: 'redis:65536' is no address"),
        ({"redis_password": "a"}, "--redis-password-secret without --redis says nothing"),
        ({"cluster_only": True, "arguments": ("--x",)}, "--cluster-only serves nothing"),
        ({"arguments": ("--replicas", "2")}, "is for the cluster to say"),
        ({"arguments": ("--port", "1")}, "is set already"),
        ({"auth_secret": "A"}, "--auth-secret: 'A' is no name of an object"),
        ({"head_cpus": "0.5"}, "--head-cpus: '0.5' is no number of CPUs"),
        ({"mig": "1g.10gb", "gpus": 2}, "NCCL does not talk between MIG instances"),
        ({"env": ("PYTHONPATH=x",)}, "PYTHONPATH is set already"),
        ({"env": ("RAY_AUTH_TOKEN_PATH=/x",)}, "RAY_AUTH_TOKEN_PATH is set already"),
    ],
)
def test_mistakes_are_told_in_one_line(wishes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as raised:
        wanted(**wishes)
    assert told in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_images_without_ray_are_refused() -> None:
    with pytest.raises(UserError, match=r"has no Ray; vLLM and Ray are in cuda13\.0-ray,"):
        wanted("cuda13.0-vllm-h100")


def test_the_command_writes_the_same(tmp_path: Path) -> None:
    line = ["kuberay", "cuda13.0-ray", "-f", str(ROOT / "matrix.yaml"), "--image", IMAGE]
    line += ["--model", "pvc://models/llama", "--gpus", "2", "--replicas", "2"]
    file = tmp_path / "folder/ray.yaml"
    run = CliRunner()
    more = ["--", "--enforce-eager"]
    told = run.invoke(command, [*line, *more])
    assert told.output == (GOLDEN / "service.kuberay").read_text()
    assert run.invoke(command, [*line, "-o", str(file), *more]).output == f"{file}\n"
    assert file.read_text() == told.output

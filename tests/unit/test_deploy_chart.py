"""The Helm chart, rendered by Helm itself: with its own values, and with and without each."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given, settings

from builder import deploy
from builder.deploy import chart as chart_module
from builder.deploy.chart import chart
from builder.deploy.rows import Row, schema, values_text
from tests.unit import helm
from tests.unit.deployed import CASES, IMAGE, anything, case, check, served

pytestmark = [pytest.mark.python, helm.needed]


def written(name: str, folder: Path) -> Path:
    """The chart of a case, as a folder."""
    return on_disk(chart(*case(name)), folder)


def on_disk(files: dict[str, str], folder: Path) -> Path:
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def run(
    values: dict[str, Any] | None = None, name: str = "", case_name: str = "hub"
) -> dict[str, Any]:
    return {"name": name or case(case_name)[1].name, "namespace": "llm", "values": values or {}}


def without_who_applies(made: dict[str, Any]) -> dict[str, Any]:
    """The object without the two labels that say who applies it."""
    made = copy.deepcopy(made)
    labels = made["metadata"].get("labels", {})
    for label in ("app.kubernetes.io/managed-by", "helm.sh/chart"):
        labels.pop(label, None)
    return made


@pytest.mark.parametrize("name", CASES)
def test_with_its_own_values_it_is_the_plain_objects(name: str, tmp_path: Path) -> None:
    made = helm.asked(written(name, tmp_path / "chart"), [run(case_name=name)])
    found = helm.objects(made["runs"][0])
    plain = deploy.manifests(*case(name))
    assert set(found) == set(plain)
    for stem, one in plain.items():
        assert without_who_applies(found[stem]) == without_who_applies(one), stem
    errors = [row for row in made["lint"]["messages"] if row["severity"] >= 2]
    assert errors == []
    assert made["lint"]["errors"] == []


@settings(max_examples=8)
@given(wishes=anything())
def test_whatever_is_wished_for_it_is_the_plain_objects(
    wishes: dict[str, Any], tmp_path: Path
) -> None:
    image = served("cuda13.0-vllm-h100")
    wanted = deploy.values(image, image=IMAGE, name="vllm", **wishes)
    with TemporaryDirectory(dir=tmp_path) as folder:
        made = helm.asked(on_disk(chart(image, wanted), Path(folder)), [run()])
    found = helm.objects(made["runs"][0])
    plain = deploy.manifests(image, wanted)
    assert set(found) == set(plain)
    for stem, one in plain.items():
        assert without_who_applies(found[stem]) == without_who_applies(one), stem


# A value, and another that is right in its place; every row of values.yaml is here.
OTHERS: dict[str, Any] = {
    "image": "other.example.org/vllm:2",
    "imagePullSecrets": [{"name": "other"}],
    "replicas": 3,
    "startupSeconds": 77,
    "strategy": {"rollingUpdate": {"maxSurge": "50%"}},
    "drainSeconds": 7,
    "model": "other/model",
    "extraArgs": ["--max-model-len", "{{ .Values.image }}: # & * ? | > ' \" %"],
    "extraEnv": [{"name": "A", "value": "1e3"}],
    "hfToken.secret": "other",
    "hfToken.key": "other",
    "cpus": 1234567,
    "memory": "512Gi",
    "gpu.resource": "nvidia.com/mig-3g.40gb",
    "gpu.count": 8,
    "hugepages.page": "1Gi",
    "hugepages.amount": "8Gi",
    "nodeSelector": {"kubernetes.io/arch": "arm64"},
    "affinity": {"podAntiAffinity": {}},
    "tolerations": [{"operator": "Exists"}],
    "runtimeClassName": "other",
    "priorityClassName": "other",
    "podSecurityContext": {"runAsUser": 2000},
    "securityContext": {"privileged": False},
    "shm": "3Gi",
    "cache.size": "1Ti",
    "cache.claim": "other",
    "cache.storageClass": "other",
    "modelClaim": "other",
    "podDisruptionBudget.enabled": False,
    "podDisruptionBudget.maxUnavailable": 2,
    "autoscaling.enabled": True,
    "autoscaling.minReplicas": 2,
    "autoscaling.maxReplicas": 9,
    "autoscaling.target": 33,
    "serviceMonitor.enabled": True,
    "serviceMonitor.labels": {"other": "label"},
    "serviceMonitor.interval": "1m",
    "networkPolicy.enabled": False,
    "networkPolicy.from": [{"namespaceSelector": {}}],
    "networkPolicy.egress": [{}],
    "httpRoute.enabled": True,
    "httpRoute.parentRefs": [{"name": "other"}],
    "httpRoute.hostnames": ["other.example.org"],
}
# What a value needs beside it to be seen.
WITH: dict[str, dict[str, Any]] = {
    "replicas": {"autoscaling": {"enabled": False}},
    "cache.size": {"cache": {"claim": ""}},
    "hfToken.key": {"hfToken": {"secret": "x"}},
    "hugepages.page": {"hugepages": {"amount": "1Gi"}},
    "httpRoute.enabled": {"httpRoute": {"parentRefs": [{"name": "x"}]}},
    "autoscaling": {"autoscaling": {"enabled": True}},
    "serviceMonitor": {"serviceMonitor": {"enabled": True}},
    "httpRoute": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "x"}]}},
}


def leaves(values: dict[str, Any]) -> list[str]:
    """Paths of values.yaml, as deep as rows go."""
    groups = {path.partition(".")[0] for path in OTHERS if "." in path}
    return [
        f"{key}.{inner}" if key in groups else key
        for key, value in values.items()
        for inner in (value if key in groups else [""])
    ]


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(one)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(made.get(key), dict)
        made[key] = merged(made[key], value) if both else value
    return made


def known(values: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """What this chart has of them."""
    return {
        key: known(value, default[key]) if isinstance(value, dict) else value
        for key, value in values.items()
        if key in default
    }


def placed(path: str, value: Any) -> dict[str, Any]:
    first, dot, rest = path.partition(".")
    return {first: {rest: value}} if dot else {first: value}


@pytest.mark.parametrize("name", ["hub", "everything", "cpu", "tensorrt-llm"])
def test_each_value_is_heeded_and_all_stays_kubernetes_own(name: str, tmp_path: Path) -> None:
    """Every value alone, in another way: it shows, and schemas still hold."""
    folder = written(name, tmp_path / "chart")
    default = yaml.safe_load((folder / "values.yaml").read_text())
    paths = leaves(default)
    assert set(paths) <= set(OTHERS)
    runs = []
    for path in paths:
        beside = WITH.get(path) or WITH.get(path.partition(".")[0], {})
        beside = {} if path in {"autoscaling.enabled", "serviceMonitor.enabled"} else beside
        beside = known(beside, default)
        runs += [run(beside), run(merged(beside, placed(path, OTHERS[path])))]
    made = [helm.objects(one) for one in helm.asked(folder, runs)["runs"]]
    for number, path in enumerate(paths):
        before, after = made[2 * number], made[2 * number + 1]
        first, _, rest = path.partition(".")
        own = default[first][rest] if rest else default[first]
        if own != OTHERS[path]:
            assert before != after, f"{path} changes nothing"
        for one in after.values():
            check(one)
    assert {path for path in OTHERS if path not in paths} <= {
        "strategy", "gpu.resource", "gpu.count", "cache.claim", "cache.storageClass", "modelClaim",
        *(path for path in OTHERS if path.startswith(("autoscaling", "serviceMonitor"))),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["hub", "everything", "cpu"])
def test_each_collection_may_be_empty(name: str, tmp_path: Path) -> None:
    folder = written(name, tmp_path / "chart")
    default = yaml.safe_load((folder / "values.yaml").read_text())
    runs, paths = [], []
    for path in leaves(default):
        first, _, rest = path.partition(".")
        own = default[first][rest] if rest else default[first]
        # Helm lays maps over one another: `null` is what takes one away.
        if isinstance(own, list | dict) and first not in {"networkPolicy", "httpRoute"}:
            paths.append(path)
            runs.append(run(placed(path, [] if isinstance(own, list) else None)))
    assert "affinity" in paths
    for path, one in zip(paths, helm.asked(folder, runs)["runs"], strict=True):
        for made in helm.objects(one).values():
            check(made)
        assert "null" not in str(one["texts"]), path


def test_every_way_of_on_and_off(tmp_path: Path) -> None:
    """All combinations of the objects that may be absent."""
    folder = written("everything", tmp_path / "chart")
    parts = ("autoscaling", "podDisruptionBudget", "networkPolicy", "serviceMonitor", "httpRoute")
    ways = [[bool(number >> bit & 1) for bit in range(len(parts))] for number in range(32)]
    runs = [
        run({part: {"enabled": on} for part, on in zip(parts, way, strict=True)}) for way in ways
    ]
    always = {"service", "service-headless", "statefulset"}
    kinds = ("HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor")
    stems = [kind.lower() for kind in (*kinds, "HTTPRoute")]
    for way, one in zip(ways, helm.asked(folder, runs)["runs"], strict=True):
        found = helm.objects(one)
        on = {stem for stem, there in zip(stems, way, strict=True) if there}
        assert set(found) == always | on
        assert ("replicas" in found["statefulset"]["spec"]) != way[0]


def test_another_release_is_another_everywhere(tmp_path: Path) -> None:
    folder = written("everything", tmp_path / "chart")
    runs = [run(name="other-release"), run({"fullnameOverride": "other-release"}, name="x")]
    for one in helm.asked(folder, runs)["runs"]:
        found = helm.objects(one)
        texts = {stem: yaml.safe_dump(made) for stem, made in found.items()}
        for stem, text in texts.items():
            # The chart's own name, the model's folder, and what it is served as.
            left = re.sub(r"helm.sh/chart: llama|/models/llama-3|- llama\n", "", text)
            assert "llama" not in left, stem
            assert "other-release" in text


def test_a_releases_name_stays_a_text(tmp_path: Path) -> None:
    """`on` is true to a reader of YAML, and Helm lets it pass."""
    names = ["on", "n", "null", "yes", "e3", "a" * 51 + "-b"]
    runs = [run(name=name) for name in names]
    found = helm.asked(written("everything", tmp_path / "chart"), runs)["runs"]
    for name, one in zip(names, found, strict=True):
        for made in helm.objects(one).values():
            check(made)
            assert made["metadata"]["name"].startswith(name[:51].rstrip("-"))


def test_a_release_that_no_service_can_be_named_by_is_told(tmp_path: Path) -> None:
    names = ["123", "7b", "a.b", "1e3"]
    found = helm.asked(written("hub", tmp_path / "chart"), [run(name=name) for name in names])
    for name, one in zip(names, found["runs"], strict=True):
        assert f'"{name}" is no Service\'s name' in one["refused"]


# Values, and what Helm says against them.
NONE: list[tuple[dict[str, Any], str]] = [
    ({"replcas": 2}, "replcas"),
    ({"gpu": {"cuont": 2}}, "cuont"),
    ({"cpus": "4"}, "cpus"),
    ({"cpus": 1.5}, "cpus"),
    ({"memory": "32GB"}, "memory"),
    ({"hugepages": {"page": "4Mi"}}, "page"),
    ({"extraArgs": [1]}, "extraArgs"),
    ({"image": None}, "image"),
    ({"image": "a b"}, "image"),
    ({"cpus": None}, "cpus"),
    ({"gpu": {"count": None}}, "count"),
    ({"gpu": None}, "gpu"),
    ({"networkPolicy": None}, "networkPolicy"),
    ({"gpu": {"resource": "a/b: 1\n  c"}}, "resource"),
    ({"gpu": {"resource": "gpu"}}, "resource"),
    ({"imagePullSecrets": ["registry"]}, "imagePullSecrets"),
    ({"extraEnv": ["A=1"]}, "extraEnv"),
    ({"extraEnv": [{"name": "A", "value": 1}]}, "value"),
    ({"extraEnv": [{"name": "A", "vlaue": "1"}]}, "vlaue"),
    ({"nodeSelector": {"a": 1}}, "nodeSelector"),
    ({"tolerations": ["a"]}, "tolerations"),
    ({"hfToken": {"secret": "My Secret"}}, "secret"),
    ({"runtimeClassName": "a_b"}, "runtimeClassName"),
    ({"networkPolicy": {"from": ["a"]}}, "from"),
    ({"serviceMonitor": {"labels": {"a": True}}}, "labels"),
    ({"serviceMonitor": {"interval": "5 s"}}, "interval"),
    ({"httpRoute": {"hostnames": [1]}}, "hostnames"),
    ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs: name a Gateway"),
    ({"startupSeconds": 10**9}, "startupSeconds"),
    (
        {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}},
        "maxReplicas is less than minReplicas",
    ),
    ({"fullnameOverride": "My_Name"}, "set fullnameOverride"),
    ({"fullnameOverride": "a.b"}, "set fullnameOverride"),
]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = written("hub", tmp_path_factory.mktemp("chart"))
    runs: list[dict[str, Any]] = helm.asked(folder, [run(values) for values, _ in NONE])["runs"]
    return runs


@pytest.mark.parametrize("number", range(len(NONE)))
def test_what_is_no_value_is_refused(number: int, refused: list[dict[str, Any]]) -> None:
    assert NONE[number][1] in refused[number].get("refused", "nothing")


def test_a_subchart_may_be_told_what_is_global(tmp_path: Path) -> None:
    (one,) = helm.asked(written("hub", tmp_path / "chart"), [run({"global": {"a": 1}})])["runs"]
    assert helm.objects(one)


@pytest.mark.parametrize(
    ("version", "semver"),
    [("0.1.0", "0.1.0"), ("1.2", "1.2.0"), ("0.1.0.dev3", "0.1.0-dev3"), ("1.0rc1", "1.0.0-rc1")],
)
def test_a_charts_version_is_semantic(version: str, semver: str) -> None:
    assert chart_module._semver(version) == semver


def test_values_are_what_they_say() -> None:
    rows = [
        Row("a", {"x": ["1e3", 2]}, "Of a.", {}),
        Row("b.c", "", "Of c.", {}),
        Row("d", [], "Of d.", {}),
        Row("b.e", True, "Of e.", {}),
    ]
    read = yaml.safe_load(values_text(rows))
    assert read == {"a": {"x": ["1e3", 2]}, "b": {"c": "", "e": True}, "d": []}
    assert set(schema(rows)["properties"]) == {"a", "b", "d", "fullnameOverride", "global"}

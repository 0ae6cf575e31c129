"""Deployments that the tests of `deploy` share, and what is checked of each object."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
from hypothesis import strategies as st
from kubernetes_validate import utils

from builder import deploy, matrix
from builder.facts import Matrix
from tests.unit.crds import CRDS
from tests.unit.support import ROOT

IMAGE = "registry.example.org/llm/vllm@sha256:" + "0123456789abcdef" * 4
# The last three minor versions that there are schemas of.
MINORS = tuple(dict.fromkeys(utils.all_versions()))[-3:]
EVERYTHING = {
    "name": "llama",
    "namespace": "llm",
    "gpus": 4,
    "gpu_products": ("NVIDIA-H100-80GB-HBM3",),
    "cpus": "16",
    "memory": "128Gi",
    "shm": "2Gi",
    "hugepages": "2Mi=4Gi",
    "cache_per_replica": True,
    "cache_size": "200Gi",
    "storage_class": "fast",
    "arguments": ("--max-model-len", "8192", "--served-model-name", "llama"),
    "env": ("HTTPS_PROXY=http://proxy.example.org:3128", "PRICE=5$ or $(HOME)"),
    "secret_env": ("VLLM_API_KEY=api/key",),
    "hf_token": "hub",
    "pull_secrets": ("registry",),
    "runtime_class": "nvidia",
    "priority_class": "inference",
    "startup": "45m",
    "drain": "2m",
    "autoscale": "1:4",
    "target": 10,
    "allow_from": ("gateways",),
    "monitor": True,
    "monitor_labels": ("release=prometheus",),
    "gateway": "edge/public",
    "hostnames": ("llm.example.org",),
}
# Name -> cell, model, wishes.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "hub": ("cuda13.0-vllm-h100", "org/model", {}),
    "everything": ("cuda13.0-vllm-h100", "pvc://models/llama-3", EVERYTHING),
    "mig": ("cuda13.0-vllm", "pvc://models", {"mig": "1g.10gb", "replicas": 7, "surge": False}),
    "cpu": (
        "cpu-vllm",
        "org/model",
        {"cache_claim": "caches", "secret_env": ("HF_TOKEN=hub/token",)},
    ),
    "sglang": ("cuda12.8-sglang", "org/model", {"gpus": 2, "any_uid": True, "monitor": True}),
    "tgi": ("cuda12.4-tgi", "org/model", {"network_policy": False}),
    "tensorrt-llm": ("cuda13.0-tensorrt-llm", "org/model", {"gpus": 8}),
    "v100": ("cuda12.4-vllm-v100", "org/model", {}),
    "gh200": ("cuda13.0-vllm-gh200", "org/model", {"namespace": "llm"}),
    "deepspeed": ("cuda13.0-deepspeed", "pvc://models/llama-3", {"autoscale": "1:2"}),
}


@cache
def matrix_of() -> Matrix:
    return matrix.load(ROOT / "matrix.yaml")


@cache
def served(cell_id: str) -> deploy.Served:
    return deploy.of(matrix.cell(matrix_of(), cell_id))


def case(name: str) -> tuple[deploy.Served, deploy.Values]:
    cell_id, model, wishes = CASES[name]
    image = served(cell_id)
    return image, deploy.values(image, image=IMAGE, model=model, **wishes)


_PASSED: set[str] = set()


def check(made: dict[str, Any]) -> None:
    """Raises where an object is none of Kubernetes', in any of the three minors."""
    text = json.dumps(made, sort_keys=True)
    if text in _PASSED:  # most renderings of a chart share most of their objects
        return
    _check(made)
    _PASSED.add(text)


def _check(made: dict[str, Any]) -> None:
    if made["kind"] in CRDS:
        jsonschema.Draft202012Validator(CRDS[made["kind"]]).validate(made)
        for template in _templates(made):
            check(template)
        return
    for minor in MINORS:
        kubernetes_validate.validate(made, minor, strict=True)


def _templates(made: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the pods of a LeaderWorkerSet, as objects that Kubernetes has a schema of."""
    pods = made["spec"].get("leaderWorkerTemplate", {})
    return [
        {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "a"},
            "template": pods[part],
        }
        for part in ("leaderTemplate", "workerTemplate")
        if part in pods
    ]


def expanded(text: str, known: dict[str, str]) -> str:
    """As the kubelet does: k8s.io/kubernetes/third_party/forked/golang/expansion."""
    made, at = "", 0
    while at < len(text):
        if text[at] == "$" and at + 1 < len(text):
            if text[at + 1] == "$":
                made, at = made + "$", at + 2
                continue
            end = text.find(")", at)
            if text[at + 1] == "(" and end > 0:
                name = text[at + 2 : end]
                made, at = made + known.get(name, f"$({name})"), end + 1
                continue
        made, at = made + text[at], at + 1
    return made


# What one reader or another takes for something else than a text.
NASTY = [
    "", " ", "y", "N", "yes", "No", "on", "OFF", "true", "False", "null", "Null", "~",
    "nan", ".inf", "-.INF", "1", "1.0", "1e3", "12e03", "0x1F", "0o17", "017", "0b1",
    "1_000", "1:30", "190:20:30", "2026-11-27", "2026-11-27T10:00:00Z", "=", "<<", "-",
    "--", "---", "...", "- a", "a: b", "a:", ":", "#", "a #b", "*a", "&a", "!a", "!!int 3",
    "%TAG", "@a", "`a", "'a'", '"a"', "|", ">", "[a]", "{a}", "{{ .Values.x }}", "a\nb",
    "a\n---\nkind: Secret", "\ta", "a\t", " a ", "\\", '\\"', "é", "中文", "😀", "\u00a0",
    "\u200b", "\u202e", "a\u00adb", "--model", "--a: b", "32Gi", "7Ki", "0.0.0.0",
]  # fmt: skip
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(NASTY)


WISHES: dict[str, st.SearchStrategy[Any]] = {
    "gpus": st.integers(1, 8),
    "gpu_products": st.just(("NVIDIA-H100-NVL", "NVIDIA-H200")),
    "gpu_labels": st.just(True),
    "node_labels": st.just(("pool=gpu", "empty=")),
    "replicas": st.integers(0, 5),
    "surge": st.just(True),
    "hugepages": st.sampled_from(["2Mi=4Gi", "1Gi=1Gi"]),
    "env": st.just(("A=", "B=x y")),
    "secret_env": st.just(("HF_TOKEN=a/b",)),
    "pull_secrets": st.just(("a", "b.c")),
    "runtime_class": st.just("nvidia"),
    "priority_class": st.just("a"),
    "any_uid": st.booleans(),
    "startup": st.sampled_from(["1s", "61s", "3h"]),
    "drain": st.sampled_from(["1s", "5m"]),
    "network_policy": st.booleans(),
    "allow_from": st.just(("a", "b")),
    "monitor": st.booleans(),
    "arguments": st.just(("--x", "$(A)")),
    "namespace": st.just("llm"),
}
# Of each, one.
STORES: list[dict[str, Any]] = [
    {},
    {"cache_claim": "a"},
    {"cache_per_replica": True},
    {"cache_per_replica": True, "storage_class": "fast", "cache_size": "1Ti"},
]
ROUTES: list[dict[str, Any]] = [{}, {"gateway": "a/b"}, {"gateway": "b", "hostnames": ("*.a.b",)}]


def anything() -> st.SearchStrategy[dict[str, Any]]:
    """Wishes of a server on GPUs, in any combination that makes sense."""

    def sensible(*parts: dict[str, Any]) -> dict[str, Any]:
        made = {key: value for part in parts for key, value in part.items()}
        if not made.get("network_policy", True):
            made.pop("allow_from", None)
        return made

    return st.builds(
        sensible,
        st.fixed_dictionaries(
            {"model": st.sampled_from(["org/model", "pvc://a", "pvc://a/b/c"])}, optional=WISHES
        ),
        st.sampled_from(STORES),
        st.sampled_from(ROUTES),
    )

"""On which nodes a pod may run: those whose driver and GPUs the image has code for.

The labels are those of GPU feature discovery, which the GPU Operator runs
(github.com/NVIDIA/k8s-device-plugin, docs/gpu-feature-discovery). A pod that fits none stays
Pending and says why; without this it would start, and end with the preflight's exit code 78.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from builder.deploy.served import Served
from builder.deploy.values import Values
from builder.facts import Accelerator, version_key

_DRIVER = "nvidia.com/cuda.driver-version"
_COMPUTE = "nvidia.com/gpu.compute"
_PRODUCT = "nvidia.com/gpu.product"

Expression = dict[str, Any]


def affinity(served: Served, values: Values) -> dict[str, Any] | None:
    """Terms of which one must hold; None where any node will do."""
    terms = [
        {"matchExpressions": [*driver, *code, *_products(values)]}
        for driver in _drivers(served)
        for code in _capabilities(served)
    ]
    if served.accelerator is not Accelerator.CUDA or not values.gpu_labels:
        return None
    required = {"nodeSelectorTerms": terms}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def selector(served: Served, values: Values) -> dict[str, str]:
    """Labels that a node must have."""
    made: dict[str, str] = {"kubernetes.io/arch": served.arch}
    if values.tpus:
        made["cloud.google.com/gke-tpu-accelerator"] = values.tpus.generation.gke
        made["cloud.google.com/gke-tpu-topology"] = values.tpus.topology
        if not values.tpus.alone:
            made["node.kubernetes.io/instance-type"] = values.tpus.machine_name
    if values.spot:
        made["cloud.google.com/gke-spot"] = "true"
    return made | dict(values.node_labels)


def tolerations(served: Served) -> list[dict[str, Any]]:
    """Of the taint that keeps other pods off nodes with GPUs or TPUs."""
    taints = {Accelerator.CUDA: "nvidia.com/gpu", Accelerator.TPU: "google.com/tpu"}
    if served.accelerator not in taints:
        return []
    taint = taints[served.accelerator]
    return [{"key": taint, "operator": "Exists", "effect": "NoSchedule"}]


def spread(labels: dict[str, str]) -> list[dict[str, Any]]:
    """Replicas on several nodes where that is possible: one node's end is not the service's."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": labels},
        }
    ]


def _expression(key: str, operator: str, *wanted: int | str) -> Expression:
    """Gt and Lt compare integers, and take one; `06` of a label is 6 to them."""
    return {"key": key, "operator": operator, "values": [str(value) for value in wanted]}


def _drivers(served: Served) -> Iterator[list[Expression]]:
    """The floor, digit by digit, each with the branch that is the GPU's last, where one is."""
    last = (
        [_expression(f"{_DRIVER}.major", "Lt", version_key(served.last_driver)[0] + 1)]
        if served.last_driver
        else []
    )
    if served.driver_floor is None:
        yield last
        return
    major, minor, revision = (*version_key(served.driver_floor), 0)[:3]
    yield [_expression(f"{_DRIVER}.major", "Gt", major), *last]
    branch = _expression(f"{_DRIVER}.major", "In", major)
    if not revision:
        yield [branch, _expression(f"{_DRIVER}.minor", "Gt", minor - 1), *last]
        return
    yield [branch, _expression(f"{_DRIVER}.minor", "Gt", minor), *last]
    same = _expression(f"{_DRIVER}.minor", "In", minor)
    yield [branch, same, _expression(f"{_DRIVER}.revision", "Gt", revision - 1), *last]


def _capabilities(served: Served) -> Iterator[list[Expression]]:
    """GPUs of a major SM that the image has code for, from the lowest minor of it on."""
    floors = _floors(served.sms)
    if served.kernel_sms:
        own = _floors(served.kernel_sms)
        floors = {major: max(low, own[major]) for major, low in floors.items() if major in own}
    whole = sorted(major for major, low in floors.items() if low == 0)
    if whole:
        yield [_expression(f"{_COMPUTE}.major", "In", *whole)]
    for major, low in sorted(floors.items()):
        if low:
            minor = _expression(f"{_COMPUTE}.minor", "Gt", low - 1)
            yield [_expression(f"{_COMPUTE}.major", "In", major), minor]


def _floors(sms: tuple[str, ...]) -> dict[int, int]:
    """Major SM -> its lowest minor."""
    floors: dict[int, int] = {}
    for major, minor in map(version_key, sms):
        floors[major] = min(minor, floors.get(major, minor))
    return floors


def _products(values: Values) -> list[Expression]:
    if not values.gpu_products:
        return []
    return [_expression(_PRODUCT, "In", *values.gpu_products)]

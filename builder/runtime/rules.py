"""The rules of settings: what a host's facts, and the model, make of a row's value.

Each returns the value, or None where this host needs none.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List

    Facts = Dict[str, Any]

_GIB = 1 << 30
_TPUS_OF_A_NODE = 4  # cloud.google.com/tpu/docs/v5e and v6e, VM types


def _limited(facts: Facts) -> int | None:
    """Whole CPUs that the quota grants, where the process sees more; None where it does not."""
    quota, visible = facts["cpus"]["quota"], len(facts["cpus"]["allowed"])
    return max(1, int(quota)) if quota and quota < visible else None


def _threads(facts: Facts, _: Facts) -> int | None:
    """As many threads as the quota runs at once: more only wait for one another."""
    return _limited(facts)


def _quota_cpus(facts: Facts, _: Facts) -> str | None:
    """As many CPUs as the quota grants, a part of one too, of one NUMA node where that has them.

    One of each core where there are enough, from the CPU that we run on: the kernel has put us
    there as it was idle, and containers that start elsewhere take others. Not under Kubernetes: the
    CPUs of its shared pool change while pods run.
    """
    quota = facts["cpus"]["quota"]
    if _limited(facts) is None or facts["platform"]["container"] == "kubernetes":
        return None
    count = int(quota) + (quota > int(quota))
    allowed = set(facts["cpus"]["allowed"])
    firsts = set(facts["cpus"].get("firsts") or allowed)
    if count >= len(allowed):
        return None
    current = facts["cpus"]["current"]
    pools: List[List[int]] = []
    for usable in (firsts, allowed):
        nodes = [sorted(usable & set(node["cpus"])) for node in facts["numa"]]
        pools = pools or [cpus for cpus in nodes if len(cpus) >= count]
    pools = pools or [sorted(allowed)]
    pool = next((cpus for cpus in pools if current in cpus), pools[0])
    first = pool.index(current) if current in pool else 0
    return ",".join(map(str, sorted((pool + pool)[first : first + count])))


def _no_binding(facts: Facts, _: Facts) -> str | None:
    """Bound to CPUs of which the quota grants a part, threads are stopped in turn."""
    return "nobind" if _limited(facts) else None


def _jobs(facts: Facts, _: Facts) -> int | None:
    """Compilers at once: those that the quota runs, and for which there are 2 GiB each."""
    cpus = _limited(facts)
    memory = facts["memory"]["limit"]
    fitting = max(1, int(memory // (2 * _GIB))) if memory else None
    visible = len(facts["cpus"]["allowed"])
    wanted = min(cpus or visible, fitting or visible)
    return wanted if wanted < visible else None


def _gpu_node(facts: Facts) -> Facts | None:
    """The NUMA node that all used GPUs hang on, where the host has several and we may run there."""
    nodes = {device["numa"] for device in facts["gpus"]["devices"]}
    if len(facts["numa"]) < 2 or len(nodes) != 1 or None in nodes:
        return None
    return _node(facts, next(iter(nodes)))


def _node(facts: Facts, wanted: int) -> Facts | None:
    allowed = set(facts["cpus"]["allowed"])
    for node in facts["numa"]:
        if node["node"] == wanted and (cpus := sorted(allowed & set(node["cpus"]))):
            whole = len(cpus) == len(node["cpus"])
            memory = wanted if node["memory_allowed"] else None
            return {"cpus": cpus, "node": memory, "whole": whole}
    return None


def _narrowed(facts: Facts, node: Facts | None) -> str | None:
    """The node's CPUs, unless they are all we have, or fewer than the quota runs at once."""
    if node is None or len(node["cpus"]) == len(facts["cpus"]["allowed"]):
        return None
    quota = facts["cpus"]["quota"]
    if quota and len(node["cpus"]) < int(quota):
        return None
    if 2 * len(node["cpus"]) < len(facts["cpus"]["allowed"]) and not node["whole"]:
        return None  # the rest of a node that a scheduler gave to somebody else
    return ",".join(map(str, node["cpus"]))


def _gpu_cpus(facts: Facts, _: Facts) -> str | None:
    return _narrowed(facts, _gpu_node(facts))


def _gpu_memory(facts: Facts, _: Facts) -> int | None:
    node = _gpu_node(facts)
    return node["node"] if node and _narrowed(facts, node) else None


def _tpu_node(facts: Facts) -> Facts | None:
    """The NUMA node that all TPUs hang on, where the host has several.

    Where it does not say: the first of up to four, as Google has it; eight hang on both nodes.
    """
    if not facts["tpus"] or len(facts["numa"]) < 2:
        return None
    nodes = facts["tpu_nodes"] or ([0] if facts["tpus"] <= _TPUS_OF_A_NODE else [])
    return _node(facts, nodes[0]) if len(nodes) == 1 else None


def _tpu_cpus(facts: Facts, _: Facts) -> str | None:
    return _narrowed(facts, _tpu_node(facts))


def _tpu_memory(facts: Facts, _: Facts) -> int | None:
    node = _tpu_node(facts)
    return node["node"] if node and _narrowed(facts, node) else None


def _tensor_parallel(facts: Facts, model: Facts) -> int | None:
    """The fewest GPUs that the weights fit on, of those that divide the model's heads."""
    devices = facts["gpus"]["devices"]
    sizes = [device["memory_mib"] for device in devices]
    weights, heads = model.get("bytes"), model.get("heads")
    alike = len({device.get("name") for device in devices}) == 1
    if not weights or not heads or not alike or None in sizes or any(d["mig"] for d in devices):
        return None
    for count in range(1, len(devices) + 1):
        key_values = model.get("kv_heads") or heads
        divides = heads % count == 0 and (key_values % count == 0 or count % key_values == 0)
        # A fifth is left to the KV cache and to activations.
        if divides and weights / count <= 0.8 * min(sizes) * (1 << 20):
            return count if count > 1 else None
    return None


def _kv_cache_gib(facts: Facts, model: Facts) -> int | None:
    """Half of what the memory limit leaves beside the weights: a limit ends in a kill.

    Only where the limit is not where servers look for it, at the top of /sys/fs/cgroup: what they
    see they keep themselves.
    """
    limit, shown = facts["memory"]["limit"], facts["memory"].get("shown")
    if limit is None or (shown is not None and shown <= limit):
        return None
    return max(1, int((limit - model.get("bytes", 0)) / 2 // _GIB))


RULES: Dict[str, Callable[[Facts, Facts], Any]] = {
    "threads": _threads,
    "quota-cpus": _quota_cpus,
    "no-binding": _no_binding,
    "jobs": _jobs,
    "gpu-cpus": _gpu_cpus,
    "gpu-memory": _gpu_memory,
    "tpu-cpus": _tpu_cpus,
    "tpu-memory": _tpu_memory,
    "tensor-parallel": _tensor_parallel,
    "kv-cache-gib": _kv_cache_gib,
}

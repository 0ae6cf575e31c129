"""All objects of a deployment, in the order in which they are best applied."""

from __future__ import annotations

from typing import Any

from builder.deploy import access, upkeep, workload
from builder.deploy.served import Served
from builder.deploy.tpu import group
from builder.deploy.values import Values

Object = dict[str, Any]


def manifests(served: Served, values: Values) -> dict[str, Object]:
    """File's stem -> object; without namespaces, which a format adds or a release brings."""
    made: dict[str, Object] = {}
    if values.network_policy:  # before there is a pod to be reached
        made["networkpolicy"] = access.policy(served, values)
    made["service"] = access.service(served, values)
    if values.stateful:
        made["service-headless"] = access.headless(served, values)
    pods = (group.group if values.grouped else workload.workload)(served, values)
    made[pods["kind"].lower()] = pods
    made["poddisruptionbudget"] = upkeep.budget(served, values)
    if values.scaling:
        made["horizontalpodautoscaler"] = upkeep.autoscaler(served, values, values.scaling)
    if values.monitor:
        made["servicemonitor"] = upkeep.monitor(served, values)
    if values.gateway:
        made["httproute"] = access.route(served, values, values.gateway)
    return made


def in_namespace(made: Object, namespace: str | None) -> Object:
    """The object with its namespace, where one is named."""
    if namespace is None:
        return made
    metadata = made["metadata"]
    placed = {"name": metadata["name"], "namespace": namespace, **metadata}
    return {**made, "metadata": placed}

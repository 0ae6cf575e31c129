"""A replica on several hosts: a LeaderWorkerSet, whose leader serves and whose workers join it.

lws.sigs.k8s.io. Its controller tells each pod the leader's address, and the pods that ask for TPUs
who they are (TPU_WORKER_ID, TPU_WORKER_HOSTNAMES: pkg/utils/accelerators/tpu.go).
"""

from __future__ import annotations

from typing import Any

from builder.deploy import workload
from builder.deploy.served import Served
from builder.deploy.tpu import hosts
from builder.deploy.values import Values

Object = dict[str, Any]

# One group to a node pool: a multi-host pool is one slice.
_EXCLUSIVE = "leaderworkerset.sigs.k8s.io/exclusive-topology"
_POOL = "cloud.google.com/gke-nodepool"
_OF_SERVING = ("ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle")


def name(values: Values) -> str:
    """Of the set; its controller gives a headless Service the same name, so not the Service's."""
    return f"{values.name}-slice"


def group(served: Served, values: Values) -> Object:
    """The set."""
    assert values.tpus  # noqa: S101 - who calls has looked
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {
            "name": name(values),
            "labels": workload.labels(served, values),
            "annotations": {_EXCLUSIVE: _POOL},
        },
        "spec": {
            "replicas": values.replicas,
            "startupPolicy": "LeaderCreated",
            "rolloutStrategy": {
                "type": "RollingUpdate",
                # A slice is taken: a new group cannot come before the old one has gone.
                "rollingUpdateConfiguration": {"maxUnavailable": 1, "maxSurge": 0},
            },
            "leaderWorkerTemplate": {
                "size": values.tpus.hosts,
                # Ranks do not join anew: all of a group start together.
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": _leader(served, values),
                "workerTemplate": _worker(served, values),
            },
        },
    }


def _leader(served: Served, values: Values) -> Object:
    assert values.tpus  # noqa: S101
    made = _template(served, values)
    words = hosts.head(served, values.tpus, workload.arguments(served, values), values.shm)
    made["spec"]["containers"][0]["args"] = [workload.literal(word) for word in words]
    return made


def _worker(served: Served, values: Values) -> Object:
    made = _template(served, values)
    container = made["spec"]["containers"][0]
    for field in _OF_SERVING:
        del container[field]
    container["name"] = "worker"
    # The kubelet puts the address in its place.
    container["args"] = [*map(workload.literal, hosts.join(values.shm)), "$(LWS_LEADER_ADDRESS)"]
    return made


def _template(served: Served, values: Values) -> Object:
    made = workload.template(served, values)
    del made["spec"]["topologySpreadConstraints"]  # the group's place is its slice
    return made

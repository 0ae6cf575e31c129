"""What the cluster needs beside the workload: kubelets, GPU Operator, metrics adapter.

Nothing of it is applied with the workload: each is its administrator's to take over.
"""

from __future__ import annotations

from typing import Any

from builder.deploy import upkeep
from builder.deploy.served import Served
from builder.deploy.values import Values
from builder.facts import Accelerator

Object = dict[str, Any]

RESERVED_CPUS = "0-1"
# `mixed` names instances by their profile, as pods here ask for them.
_MIG = {"migManager": {"enabled": True}, "mig": {"strategy": "mixed"}}


def kubelet() -> Object:
    """CPUs of their own for pods of class Guaranteed, on the NUMA node of their GPUs."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cpuManagerPolicy": "static",
        "cpuManagerPolicyOptions": {"full-pcpus-only": "true"},
        "reservedSystemCPUs": RESERVED_CPUS,
        "topologyManagerPolicy": "restricted",
        "topologyManagerScope": "pod",
        "topologyManagerPolicyOptions": {"prefer-closest-numa-nodes": "true"},
    }


def gpu_operator(served: Served, values: Values) -> Object | None:
    """Values of NVIDIA's chart; None for an image that runs on CPUs."""
    if served.accelerator is not Accelerator.CUDA:
        return None
    return {
        # `auto` takes the open modules where the GPU knows no others: Blackwell, Grace.
        "driver": {"enabled": True, "kernelModuleType": "auto"},
        "toolkit": {"enabled": True},
        "cdi": {"enabled": True},
        "devicePlugin": {"enabled": True},
        "nfd": {"enabled": True},
        "gfd": {"enabled": True},
        **(_MIG if values.mig else {}),
    }


def adapter(served: Served) -> Object | None:
    """Values of prometheus-adapter's chart, by which the autoscaler's gauge gets its name."""
    if not served.metrics:
        return None
    metrics = served.metrics
    series = f'{metrics.load}{{namespace!="",pod!=""}}'
    return {
        "rules": {
            "custom": [
                {
                    "seriesQuery": series,
                    "resources": {
                        "overrides": {
                            "namespace": {"resource": "namespace"},
                            "pod": {"resource": "pod"},
                        }
                    },
                    "name": {"matches": f"^{metrics.load}$", "as": upkeep.metric(metrics)},
                    "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
                }
            ]
        }
    }

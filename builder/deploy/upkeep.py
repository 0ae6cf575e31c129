"""How many replicas there are, and who looks: PodDisruptionBudget, autoscaler, ServiceMonitor."""

from __future__ import annotations

from typing import Any

from builder.deploy import workload
from builder.deploy.scaling import Scaling
from builder.deploy.served import Served
from builder.deploy.values import Values
from builder.facts import Metrics

Object = dict[str, Any]


def budget(served: Served, values: Values) -> Object:
    """Nodes are drained one replica at a time; one that does not get well holds no drain up."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": values.name, "labels": workload.labels(served, values)},
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": workload.selector(served, values)},
        },
    }


def metric(metrics: Metrics) -> str:
    """The gauge as the custom metrics API names it, where the adapter is set up by our values."""
    return metrics.load.replace(":", "_")


def autoscaler(served: Served, values: Values, scaling: Scaling) -> Object:
    """By the server's own gauge: a GPU is as busy with one request as with many."""
    assert served.metrics  # noqa: S101 - values.py has refused it
    kind = "StatefulSet" if values.stateful else "Deployment"
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": values.name, "labels": workload.labels(served, values)},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": values.name},
            "minReplicas": scaling.least,
            "maxReplicas": scaling.most,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": metric(served.metrics)},
                        "target": {"type": "AverageValue", "averageValue": str(scaling.target)},
                    },
                }
            ],
            "behavior": _behavior(),
        },
    }


def _behavior() -> Object:
    """One at a time: a replica takes minutes to help, and as long to come back."""
    one = {"type": "Pods", "value": 1}
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 60,
            "policies": [{**one, "periodSeconds": 60}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": 600,
            "policies": [{**one, "periodSeconds": 300}],
        },
    }


def monitor(served: Served, values: Values) -> Object:
    """What the Prometheus Operator scrapes."""
    assert served.metrics  # noqa: S101 - values.py has refused it
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {
            "name": values.name,
            "labels": {**workload.labels(served, values), **dict(values.monitor_labels)},
        },
        "spec": {
            "selector": {"matchLabels": workload.selector(served, values)},
            "endpoints": [{"port": workload.PORT, "path": served.metrics.path, "interval": "15s"}],
        },
    }

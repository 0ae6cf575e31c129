"""What a user may have overlooked: nothing is wrong, and it may still not work."""

from __future__ import annotations

from builder.deploy.values import Values


def notes(values: Values) -> list[str]:
    """A line each, for people."""
    made = []
    if values.scaling and not values.monitor:
        made.append(
            "the autoscaler goes by what Prometheus reads from the pods; --monitor makes a"
            " ServiceMonitor of them"
        )
    measured = values.monitor or values.scaling
    if measured and values.network_policy and not values.allow_from:
        made.append(
            "the NetworkPolicy lets Prometheus read metrics from the same namespace alone;"
            " --allow-from names its own"
        )
    if values.cpus and values.cpus % 2:
        made.append(
            f"{values.cpus} CPUs are no whole cores where those have two threads, and a kubelet set"
            " as cluster/kubelet.yaml says gives no parts of them; an even --cpus fits both"
        )
    return made

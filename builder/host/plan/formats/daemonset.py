"""A plan as a Kubernetes DaemonSet: what the running kernel can be told on nodes, and no more."""

from __future__ import annotations

from typing import Any

from builder.host.plan.formats.words import (
    as_yaml,
    comment,
    headline,
    left_lines,
    live_loop,
    without,
)
from builder.host.plan.steps import Plan, Step

IMAGE = "docker.io/library/busybox:1.37.0"
_MORE = "a pod that writes a node's files or installs packages is one that owns the node: "
NOT = {  # kind -> why it cannot be written so
    "kernel-argument": f"{_MORE}the image of the node has its kernel's command line",
    "no-kernel-argument": f"{_MORE}the image of the node has its kernel's command line",
    "service": "units are of the node's systemd; the GPU Operator runs its own",
    "nvidia-smi": "the GPU Operator's driver container has nvidia-smi, and this pod has not",
    "ulimit": "limits of containers are the container runtime's",
    "mount": "a pod has a /dev/shm of its own, a memory-backed volume: `imgbuild deploy k8s`",
    "package": f"{_MORE}the GPU Operator installs driver and container toolkit",
    "mig": "the GPU Operator's MIG manager divides GPUs: `imgbuild host mig --format mig-parted`",
}
_NAME = "imgbuild-host-settings"


def render(plan: Plan, image: str = IMAGE) -> str:
    """A namespace and the DaemonSet in it."""
    found = [step for step in plan.steps if step.kind not in NOT and step.live]
    lines = comment(
        "Sets the running kernel of each node with an NVIDIA GPU, at each start of its pod, and"
        " prints what was there. Without it all is as before after the node's next boot."
    )
    for step in found:
        lines += comment(f"{step.id}: {headline(step)}")
    lines += left_lines(plan)
    lines += without([(step, NOT[step.kind]) for step in plan.steps if step.kind in NOT])
    documents = [_namespace(), _daemonset(found, image)] if found else []
    texts = [as_yaml(one) for one in documents]
    text = "---\n".join(texts) or "# Nothing of this plan can be set so.\n"
    return "\n".join(lines) + "\n" + text


def _namespace() -> dict[str, Any]:
    # A privileged pod: the level of the Pod Security Standards that admits one.
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": _NAME, "labels": labels},
    }


def _daemonset(steps: list[Step], image: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": _NAME}
    script = "set -eu\n" + "".join(
        live_loop(one, say=f"{step.id}:") for step in steps for one in step.live
    )
    small = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}}
    apply = {
        "name": "apply",
        "image": image,
        "command": ["sh", "-c", script],
        # /proc/sys and /sys are the node's, and only a privileged container may write there.
        "securityContext": {"privileged": True},
        "resources": small,
    }
    wait = {
        "name": "wait",
        "image": image,
        "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": small,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": _NAME, "namespace": _NAME, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    # A label of NVIDIA's GPU feature discovery.
                    "nodeSelector": {"nvidia.com/gpu.present": "true"},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                    "initContainers": [apply],
                    "containers": [wait],
                },
            },
        },
    }

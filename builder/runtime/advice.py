"""What only the host can change, and how: its kernel's settings, its limits, its disk."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    Facts = Dict[str, Any]


def _ulimit(facts: Facts, name: str, value: str) -> str:
    """What raises a limit here: Apptainer and Kubernetes have no option for it."""
    container = facts["platform"]["container"]
    letter, word = {"memlock": ("l", "unlimited"), "nofile": ("n", value)}[name]
    if container in (None, "apptainer"):
        return f"ulimit -{letter} {word} before the start, or {name} in /etc/security/limits.conf"
    if container == "kubernetes":
        unit = {"memlock": "LimitMEMLOCK=infinity", "nofile": f"LimitNOFILE={value}"}[name]
        return f"{unit} in containerd's systemd unit"
    return f"{container} run --ulimit {name}={value}"


def of_host(facts: Facts, disk: Facts | None = None) -> List[Dict[str, str]]:
    """What only the host can change: what it is, why another would be better, and the command."""
    kernel, limits = facts["kernel"], facts["limits"]
    found = []

    def tell(what: str, why: str, command: str) -> None:
        found.append({"what": what, "why": why, "command": command})

    if kernel["governor"] not in (None, "performance"):
        tell(
            f"the CPU frequency governor is {kernel['governor']}",
            "cores wake slowly for the short bursts between kernel launches",
            "cpupower frequency-set --governor performance",
        )
    if kernel["thp"] == "never":
        tell(
            "transparent huge pages are off",
            "page tables of model weights take time on every first touch",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    if kernel["numa_balancing"] and len(facts["numa"]) > 1:
        tell(
            "automatic NUMA balancing is on",
            "it unmaps pages to see who uses them, while a server's threads have their places",
            "sysctl kernel.numa_balancing=0",
        )
    if any(device["persistence"] is False for device in facts["gpus"]["devices"]):
        tell(
            "GPU persistence mode is off",
            "the driver sets the GPU up anew for each first process",
            "nvidia-smi --persistence-mode=1",
        )
    memlock = limits.get("memlock", None)
    if facts["infiniband"] and memlock is not None and memlock < (1 << 30):
        tell(
            f"{memlock // 1024} KiB may be locked in memory",
            "InfiniBand registers its buffers there",
            _ulimit(facts, "memlock", "-1"),
        )
    files = limits.get("nofile", None)
    if files is not None and files < 4096:
        tell(
            f"{files} files may be open",
            "each connection and each shard of the weights is one",
            _ulimit(facts, "nofile", "65536"),
        )
    if disk and not disk["rotates"] and disk["scheduler"] in ("bfq", "cfq"):
        tell(
            f"the model's disk {disk['disk']} has the I/O scheduler {disk['scheduler']}",
            "it sorts requests for a disk that does not turn",
            f"echo none > /sys/block/{disk['disk']}/queue/scheduler",
        )
    return found

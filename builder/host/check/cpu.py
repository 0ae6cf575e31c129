"""CPUs: how fast they wake, who may use them, and whether GPUs and cards are beside them."""

from __future__ import annotations

import json

from builder.host.check.recorded import numbers
from builder.host.check.rows import Finding, Setting, better, not_here, ok, unknown
from builder.host.check.subject import Subject, counted

_CPU = "/sys/devices/system/cpu"


def governor(subject: Subject) -> Finding:
    """The frequency governor of all CPUs; intel_pstate's powersave with a bias counts as fast."""
    host = subject.host
    folders = host.names(f"{_CPU}/cpu[0-9]*/cpufreq")
    found = [host.line(f"{folder}/scaling_governor") for folder in folders]
    found = [one for one in found if one.isascii() and one.isalpha()]
    if not found:
        where = "a virtual machine, whose host sets it" if subject.virtual else "no cpufreq"
        return unknown(f"the kernel shows no governor: {where}")
    biased = [host.line(f"{folder}/energy_performance_preference") for folder in folders]
    if set(found) == {"performance"}:
        return ok("performance")
    if set(found) <= {"performance", "powersave"} and set(biased) == {"performance"}:
        return ok(f"{counted(found)}, with energy preference performance")
    settings = [
        Setting(kind="sysfs", name=f"{folder}/scaling_governor", value="performance")
        for folder in folders
    ]
    return better(counted(found), *settings)


def isolation(subject: Subject) -> Finding:
    """CPUs that the scheduler leaves alone."""
    named = [one for one in subject.arguments if one.partition("=")[0] in ("isolcpus", "nohz_full")]
    isolated = subject.host.line(f"{_CPU}/isolated")
    if not named and not numbers(isolated):
        known = subject.arguments or subject.host.has("/proc/cmdline")
        return ok("none") if known else unknown("/proc/cmdline cannot be read")
    now = " ".join(named) or f"CPUs {isolated[:100]} are isolated"
    settings = [
        Setting(kind="no-kernel-argument", name=one.partition("=")[0], value=one.partition("=")[2])
        for one in named
    ]
    return better(now[:200], *settings)


def pinning(subject: Subject) -> Finding:
    """Whether Kubernetes gives whole CPUs to pods; without it an image binds itself."""
    state = subject.host.text("/var/lib/kubelet/cpu_manager_state")
    if not state:
        return not_here("no kubelet that has a CPU manager; images bind themselves")
    try:
        policy = json.loads(state)["policyName"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return unknown("/var/lib/kubelet/cpu_manager_state is no such JSON")
    if policy == "static":
        return ok("static CPU manager")
    settings = (
        Setting(kind="kubelet", name="cpuManagerPolicy", value="static"),
        Setting(kind="kubelet", name="topologyManagerPolicy", value="single-numa-node"),
    )
    return better(f"CPU manager policy {str(policy)[:40]}", *settings)


def numa_balancing(subject: Subject) -> Finding:
    """Whether the kernel moves pages between nodes by itself."""
    if len(subject.nodes) == 1:
        return not_here("one NUMA node")
    balancing = subject.host.number("/proc/sys/kernel/numa_balancing")
    if balancing is None:
        reason = "the kernel has no kernel.numa_balancing"
        return unknown(reason) if not subject.nodes else ok("not in this kernel")
    if balancing == 0:
        return ok("0")
    return better(str(balancing), Setting(kind="sysctl", name="kernel.numa_balancing", value="0"))


def gpu_numa(subject: Subject) -> Finding:
    """Whether the firmware says which node a GPU hangs on."""
    if not subject.gpus:
        return not_here("no NVIDIA GPU on the bus")
    nodes = {address: subject.node_of(address) for address in subject.gpus}
    if len(subject.nodes) == 1:
        return ok("one NUMA node")
    now = "; ".join(
        f"{address} {'on no node' if node is None else f'on node {node}'}"
        for address, node in nodes.items()
    )
    if None in nodes.values():
        return better(
            now, Setting(kind="firmware", name="NUMA nodes of PCI devices", value="reported")
        )
    return ok(now)


def nic_numa(subject: Subject) -> Finding:
    """Whether each node with GPUs has an RDMA card of its own."""
    cards = subject.host.names("/sys/class/infiniband/*")
    if not cards or not subject.gpus:
        return not_here("no RDMA card" if not cards else "no NVIDIA GPU on the bus")
    if len(subject.nodes) == 1:
        return ok("one NUMA node")
    near = {
        path.rpartition("/")[2]: subject.host.number(f"{path}/device/numa_node") for path in cards
    }
    wanted = {node for one in subject.gpus if (node := subject.node_of(one)) is not None}
    if not wanted or all(node is None or node < 0 for node in near.values()):
        return unknown("the firmware does not say on which nodes they are")
    now = "; ".join(f"{name} on node {node}" for name, node in near.items())
    missing = wanted - set(near.values())
    if missing:
        which = ", ".join(map(str, sorted(missing)))
        return better(now, reason=f"GPUs on node {which} have no card there")
    return ok(now)


ROWS = {
    "governor": governor,
    "cpu-isolation": isolation,
    "cpu-pinning": pinning,
    "numa-balancing": numa_balancing,
    "gpu-numa": gpu_numa,
    "nic-numa": nic_numa,
}

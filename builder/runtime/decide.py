"""From facts to settings: which variable gets which value here, and why. Pure: it touches nothing.

The rows come with the image (`tuning` of manifest.json, from matrix.yaml): what a row sets, the
rule that computes the value, the reason, the source and the measured effect. What the user has set
stays as it is; a number is rounded down; a rule without an answer leaves the framework its own way.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Mapping, Sequence

    Facts = Dict[str, Any]
    Row = Dict[str, Any]

GIB = 1 << 30
# Who sets one of these binds threads himself.
_BINDING = ("VLLM_CPU_OMP_THREADS_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
# One flag, as vLLM, SGLang, TensorRT-LLM and TGI spell it.
_PARALLEL = ("--tensor-parallel-size", "-tp", "--tp", "--tp-size", "--num-shard")
# Whoever uses one of these has thought of where the weights go.
_SPREADING = (
    *("--pipeline-parallel-size", "-pp", "--pp", "--pp-size"),
    *("--data-parallel-size", "-dp", "--dp", "--dp-size"),
    *("--quantization", "-q", "--cpu-offload-gb", "--config", "--sharded"),
)
_SEVERAL_HOSTS = (
    *("--nnodes", "--node-rank", "--dist-init-addr", "--distributed-executor-backend"),
    *("--data-parallel-address", "--master-addr"),
)
# What becomes of a row.
SET, YOURS, NEEDLESS, OFF = "set", "yours", "not needed", "off"
REFUSED = "refused"  # by the kernel, or for the sake of what somebody has set (`apply.place`)


def decide(
    facts: Facts,
    rows: Sequence[Row],
    environment: Mapping[str, str],
    arguments: Sequence[str],
    model: Facts | None = None,
) -> List[Row]:
    """Each row with its `status`, and its `value` where that is "set"; in the order of `rows`.

    `arguments` are the server's; `model` is what `weights.read` found of the weights it names.
    """
    decisions = []
    for row in rows:
        status, value = _answer(row, facts, environment, arguments, model or {})
        decisions.append({**row, "status": status, "value": value})
    return decisions


def _answer(
    row: Row,
    facts: Facts,
    environment: Mapping[str, str],
    arguments: Sequence[str],
    model: Facts,
) -> tuple[str, str | None]:
    if not row.get("enabled", True):
        return OFF, None
    own = _users(row, environment, arguments)
    if own is not None:
        return YOURS, own
    if _placed_otherwise(row, environment, arguments):
        return NEEDLESS, None
    rule = RULES.get(row["rule"])
    value = rule(facts, model) if rule else None
    return (NEEDLESS, None) if value is None else (SET, str(value))


def _users(row: Row, environment: Mapping[str, str], arguments: Sequence[str]) -> str | None:
    """What the user has set of it, in whatever way."""
    kind, name = row["kind"], row["name"]
    if kind == "env":
        return environment.get(name)
    if kind == "flag":
        return given(name, arguments)
    bound = next((n for n in _BINDING if environment.get(n)), None) if kind == "affinity" else None
    return f"{bound}={environment[bound]}" if bound else None


def _placed_otherwise(row: Row, environment: Mapping[str, str], arguments: Sequence[str]) -> bool:
    """Whether several ranks or hosts share the model in a way that the user has chosen."""
    if row["kind"] == "flag":
        return bool(environment.get("NUM_SHARD")) or arranged(arguments)
    return row["rule"] == "quota-cpus" and parallel(arguments)


def given(flag: str, arguments: Sequence[str]) -> str | None:
    """The value of a flag among arguments, "" for one without; None where it is not there.

    `--tensor_parallel_size=2` is `--tensor-parallel-size 2`, as servers read it; of several the
    last holds.
    """
    wanted = flag.replace("_", "-")
    names = _PARALLEL if wanted in _PARALLEL else (wanted,)
    found = None
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        # argparse knows a flag by its beginning, too.
        begins = len(name) >= len("--tensor-p") and any(n.startswith(name) for n in names)
        if name.startswith("-") and (name in names or begins):
            following = arguments[index + 1 : index + 2]
            apart = following[0] if following and not following[0].startswith("-") else ""
            found = value if equals else apart
    return found


def arranged(arguments: Sequence[str]) -> bool:
    """Whether the user spreads the model otherwise, or in a file or to hosts unknown here."""
    return any(given(flag, arguments) is not None for flag in (*_SPREADING, *_SEVERAL_HOSTS))


def here(model: Facts, arguments: Sequence[str]) -> Facts:
    """The model, where all of it is to be on this host's GPUs."""
    return {} if arranged(arguments) else model


def ranks(flag: str, arguments: Sequence[str]) -> int | None:
    """The GPUs that the server will want of this host; None where that is not known."""
    value = given(flag, arguments) or ""
    if any(given(other, arguments) is not None for other in _SEVERAL_HOSTS):
        return None
    return int(value) if value.isascii() and value.isdigit() and len(value) < 6 else None


def parallel(arguments: Sequence[str]) -> bool:
    """Whether the user asks for several ranks, which have places of their own."""
    return given("--tensor-parallel-size", arguments) not in (None, "", "1")


def limited(facts: Facts) -> int | None:
    """Whole CPUs that the quota grants, where the process sees more; None where it does not."""
    quota, visible = facts["cpus"]["quota"], len(facts["cpus"]["allowed"])
    return max(1, int(quota)) if quota and quota < visible else None


def _threads(facts: Facts, _: Facts) -> int | None:
    """As many threads as the quota runs at once: more only wait for one another."""
    return limited(facts)


def _quota_cpus(facts: Facts, _: Facts) -> str | None:
    """As many CPUs as the quota grants, a part of one too, of one NUMA node where that has them.

    One of each core where there are enough. Which ones is by chance (`spread`), so that containers
    take different ones. Not under Kubernetes: the CPUs of its shared pool change while pods run.
    """
    quota = facts["cpus"]["quota"]
    if limited(facts) is None or facts["platform"]["container"] == "kubernetes":
        return None
    count = int(quota) + (quota > int(quota))
    allowed = set(facts["cpus"]["allowed"])
    firsts = set(facts["cpus"].get("firsts") or allowed)
    if count >= len(allowed):
        return None
    pools: List[List[int]] = []
    for usable in (firsts, allowed):
        nodes = [sorted(usable & set(node["cpus"])) for node in facts["numa"]]
        pools = pools or [cpus for cpus in nodes if len(cpus) >= count]
    pools = pools or [sorted(allowed)]
    turn, which = divmod(facts["cpus"]["spread"], len(pools))
    pool = pools[which]
    first = turn * count % len(pool)
    return ",".join(map(str, sorted((pool + pool)[first : first + count])))


def _no_binding(facts: Facts, _: Facts) -> str | None:
    """Bound to CPUs of which the quota grants a part, threads are stopped in turn."""
    return "nobind" if limited(facts) else None


def _jobs(facts: Facts, _: Facts) -> int | None:
    """Compilers at once: those that the quota runs, and for which there are 2 GiB each."""
    cpus = limited(facts)
    memory = facts["memory"]["limit"]
    fitting = max(1, int(memory // (2 * GIB))) if memory else None
    visible = len(facts["cpus"]["allowed"])
    wanted = min(cpus or visible, fitting or visible)
    return wanted if wanted < visible else None


def _gpu_node(facts: Facts) -> Facts | None:
    """The NUMA node that all GPUs hang on, where the host has several and we may run there."""
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


def _node0_cpus(facts: Facts, _: Facts) -> str | None:
    return _narrowed(facts, _node(facts, 0)) if len(facts["numa"]) > 1 else None


def _node0_memory(facts: Facts, _: Facts) -> int | None:
    node = _node(facts, 0) if len(facts["numa"]) > 1 else None
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
    """Half of what the memory limit leaves beside the weights: a limit ends in a kill."""
    limit = facts["memory"]["limit"]
    if limit is None:
        return None
    return max(1, int((limit - model.get("bytes", 0)) / 2 // GIB))


RULES: Dict[str, Callable[[Facts, Facts], Any]] = {
    "threads": _threads,
    "quota-cpus": _quota_cpus,
    "no-binding": _no_binding,
    "jobs": _jobs,
    "gpu-cpus": _gpu_cpus,
    "gpu-memory": _gpu_memory,
    "node0-cpus": _node0_cpus,
    "node0-memory": _node0_memory,
    "tensor-parallel": _tensor_parallel,
    "kv-cache-gib": _kv_cache_gib,
}


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


def advice(facts: Facts, disk: Facts | None = None) -> List[Row]:
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
    if facts["infiniband"] and memlock is not None and memlock < GIB:
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


def explained(decisions: Sequence[Row], advised: Sequence[Row]) -> List[str]:
    """What was decided and what the host could do, a line each."""
    lines = []
    for row in decisions:
        source = f" [{row['source']}]" if row.get("source") else ""
        effect = f"; measured: {row['effect']}" if row.get("effect") else ""
        if row["status"] == SET:
            lines.append(f"set {row['name']}={row['value']}: {row['why']}{effect}{source}")
        elif row["status"] == YOURS:
            lines.append(f"left {row['name']}={row['value']}: you have set it")
        elif row["status"] == REFUSED:
            lines.append(f"not set {row['name']}={row['value']}: {row['why']}")
        elif row["status"] == OFF:
            lines.append(f"off {row['name']}: {row['why']}{effect}{source}")
    lines += [f"host: {a['what']}: {a['why']}. On the host: {a['command']}" for a in advised]
    return lines or ["nothing to set here"]

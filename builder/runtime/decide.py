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
# What becomes of a row.
SET, YOURS, NEEDLESS, OFF = "set", "yours", "not needed", "off"
REFUSED = "refused"  # by the kernel, or for the sake of what somebody has set (`apply.place`)


def decide(
    facts: Facts,
    rows: Sequence[Row],
    environment: Mapping[str, str],
    arguments: Sequence[str],
    model: Facts | None = None,
    *,
    server: Row | None = None,
) -> List[Row]:
    """Each row with its `status`, and its `value` where that is "set"; in the order of `rows`.

    `arguments` are the server's, of which `server` says what its flags are called; `model` is what
    `weights.read` found of the weights that they name.
    """
    user = _User(environment, arguments, server or {})
    model = loaded(model or {}, user.server, arguments)
    made: Dict[int, Row] = {}
    # Flags first: they say how many GPUs are used, and the masks are for those.
    for index, row in sorted(enumerate(rows), key=lambda pair: pair[1]["kind"] != "flag"):
        status, value = _answer(row, facts, user, model)
        made[index] = {**row, "status": status, "value": value}
        if row["kind"] == "flag":
            facts = _used(facts, user, value)
    return [made[index] for index in range(len(rows))]


class _User:
    """What the user has said."""

    def __init__(
        self, environment: Mapping[str, str], arguments: Sequence[str], server: Row
    ) -> None:
        self.environment, self.arguments, self.server = environment, arguments, server

    def spreads(self) -> bool:
        """Whether he spreads the model in another way than over the first GPUs of this host."""
        return spread(self.server, self.arguments, self.environment)

    def ranks(self) -> str | None:
        """The tensor-parallel size that he asks for, in whatever way; None where he does not."""
        return _size(self.server, self.arguments, self.environment)


def _answer(row: Row, facts: Facts, user: _User, model: Facts) -> tuple[str, str | None]:
    if not row.get("enabled", True):
        return OFF, None
    own = _users(row, user)
    if own is not None:
        return YOURS, own
    if _placed_otherwise(row, user):
        return NEEDLESS, None
    rule = RULES.get(row["rule"])
    value = rule(facts, model) if rule else None
    return (NEEDLESS, None) if value is None else (SET, str(value))


def _users(row: Row, user: _User) -> str | None:
    """What the user has set of it, in whatever way."""
    kind, name = row["kind"], row["name"]
    if kind == "flag":
        return user.ranks()
    binding = user.server.get("binding_flags", ()) if kind in ("affinity", "memory") else ()
    for option in (*row.get("instead", ()), *binding):
        if (value := given([option], user.arguments)) is not None:
            return f"{option} {value}".rstrip()
    if kind == "env":
        return user.environment.get(name)
    names = _BINDING if kind == "affinity" else ()
    bound = next((n for n in names if user.environment.get(n)), None)
    return f"{bound}={user.environment[bound]}" if bound else None


def _placed_otherwise(row: Row, user: _User) -> bool:
    """Whether several ranks or hosts share the model in a way that the user has chosen."""
    if row["kind"] == "flag":
        return arranged(user.server, user.arguments, user.environment)
    if row["rule"] not in ("quota-cpus", "kv-cache-gib"):
        return False
    return user.spreads() or user.ranks() not in (None, "", "1")


def _used(facts: Facts, user: _User, size: str | None) -> Facts:
    """The facts with the GPUs alone that the server will use: of those it sees the first.

    One where nobody says how many, unless the server then takes all. All of them where that is not
    known: spread in another way, or of several kinds, which CUDA counts in another order than
    nvidia-smi.
    """
    devices = facts["gpus"]["devices"]
    alone = None if user.server.get("parallel_all") else 1
    ranks = alone if size is None else _whole(size)
    other = user.spreads()
    alike = len({device.get("name") for device in devices}) == 1
    if not ranks or other or not alike or any(device["mig"] for device in devices):
        return facts
    return {**facts, "gpus": {**facts["gpus"], "devices": devices[:ranks]}}


def given(flags: Sequence[str], arguments: Sequence[str]) -> str | None:
    """The value of a flag among arguments, "" for one without; None where it is not there.

    `flags` are its spellings. `--tensor_parallel_size=2` is `--tensor-parallel-size 2`, as servers
    read it; of several the last holds. A long one is known by any beginning: argparse refuses those
    that are another's, too.
    """
    names = [flag.replace("_", "-") for flag in flags]
    found = None
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        long = name.startswith("--") and len(name) > len("--")
        begins = long and any(n.startswith(name) for n in names)
        if name.startswith("-") and (name in names or begins):
            following = arguments[index + 1 : index + 2]
            apart = following[0] if following and not following[0].startswith("-") else ""
            found = value if equals else apart
    return found


def _size(server: Row, arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """What is asked for of tensor parallelism, by a flag or by the server's variable."""
    value = given(server.get("parallel_flags", ()), arguments)
    variable = server.get("parallel_variable")
    return environment.get(variable) if value is None and variable else value


def _whole(size: str | None) -> int | None:
    """A number of ranks; None for any other text."""
    text = size or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def spread(server: Row, arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether the model is spread in another way than by tensor parallelism on this host.

    Or in a file, or to hosts that are not known here, as a Ray cluster's are.
    """
    kinds = ("spreading_flags", "hosts_flags")
    return bool(environment.get("RAY_ADDRESS")) or _any(server, kinds, arguments)


def arranged(server: Row, arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether the user has arranged otherwise where the weights go, or how many of them."""
    return spread(server, arguments, environment) or _any(server, ("shrinking_flags",), arguments)


def _any(server: Row, kinds: Sequence[str], arguments: Sequence[str]) -> bool:
    return any(given([f], arguments) is not None for kind in kinds for f in server.get(kind, ()))


def loaded(model: Facts, server: Row, arguments: Sequence[str]) -> Facts:
    """The model as it lies in memory: servers make 16 bits of float32, unless they are told not to.

    vllm/config/model.py (_resolve_auto_dtype).
    """
    flag = server.get("dtype_flag")
    if not flag or not model.get("float32") or "bytes" not in model:
        return model
    if given([flag], arguments) in ("float32", "float"):
        return model
    return {**model, "bytes": model["bytes"] // 2}


def here(
    model: Facts,
    server: Row,
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Facts:
    """The model as loaded, where all of it is to be on this host's GPUs."""
    other = arranged(server, arguments, environment or {})
    return {} if other else loaded(model, server, arguments)


def ranks(server: Row, arguments: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """The GPUs that the server will want of this host; None where that is not known."""
    if any(given([flag], arguments) is not None for flag in server.get("hosts_flags", ())):
        return None
    return _whole(_size(server, arguments, environment))


def limited(facts: Facts) -> int | None:
    """Whole CPUs that the quota grants, where the process sees more; None where it does not."""
    quota, visible = facts["cpus"]["quota"], len(facts["cpus"]["allowed"])
    return max(1, int(quota)) if quota and quota < visible else None


def _threads(facts: Facts, _: Facts) -> int | None:
    """As many threads as the quota runs at once: more only wait for one another."""
    return limited(facts)


def _quota_cpus(facts: Facts, _: Facts) -> str | None:
    """As many CPUs as the quota grants, a part of one too, of one NUMA node where that has them.

    One of each core where there are enough, from the CPU that we run on: the kernel has put us
    there as it was idle, and containers that start elsewhere take others. Not under Kubernetes: the
    CPUs of its shared pool change while pods run.
    """
    quota = facts["cpus"]["quota"]
    if limited(facts) is None or facts["platform"]["container"] == "kubernetes":
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
    """The first NUMA node, on which TPUs hang, where there are some and the host has several."""
    return _node(facts, 0) if facts["tpus"] and len(facts["numa"]) > 1 else None


def _node0_cpus(facts: Facts, _: Facts) -> str | None:
    return _narrowed(facts, _tpu_node(facts))


def _node0_memory(facts: Facts, _: Facts) -> int | None:
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
        effect = f"; effect: {row['effect']}" if row.get("effect") else ""
        if row["status"] == SET:
            lines.append(f"set {row['name']}={row['value']}: {row['why']}{effect}{source}")
        elif row["status"] == YOURS:
            lines.append(f"left {row['name']}={row['value']}: you have set it")
        elif row["status"] == REFUSED:
            lines.append(f"not set {row['name']}={row['value']}: {row['why']}")
        elif row["status"] == OFF:
            lines.append(f"off {row['name']}: {row['why']}{effect}{source}")
    for a in advised:
        where = a.get("where", "On the host")
        lines.append(f"host: {a['what']}: {a['why']}. {where}: {a['command']}")
    return lines or ["nothing to set here"]

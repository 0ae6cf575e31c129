"""What this host gives to a container: CPUs, memory, NUMA nodes, GPUs, limits. Facts, no opinions.

Everything is read from /proc and /sys below a root, so that a recorded host is discovered by the
same code. Nothing here raises, whatever is missing or garbled: a fact that cannot be had is None,
or an empty list.

    {"cpus": {"online": 172, "allowed": [0, ...], "quota": 6.0, ...},
     "memory": {"total": bytes, "limit": bytes or None}, ...}
"""

from __future__ import annotations

import glob
import json
import os

from .numbers import capability, number, numbers

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes 4 ms of a start
    from typing import Any, Dict, Iterator, List, Set, Tuple

    Facts = Dict[str, Any]

RECORDED = "imgbuild.json"  # in a recorded root: what is no file
_NO_LIMIT = 1 << 60  # cgroup v1 says "none" with a number near 2^63
_TOP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
_GPU_NODES = "/dev/nvidia[0-9]*"
_READ = 1 << 20  # bytes of a file at most


class Root:
    """The files of a host, live ("/") or recorded."""

    def __init__(self, folder: str = "/") -> None:
        self.folder = folder.rstrip("/")
        self.live = not self.folder
        self._read: Dict[str, str] = {}
        self._told: Facts = {}
        if not self.live:
            try:
                self._told = dict(json.loads(self.text("/" + RECORDED)))
            except (ValueError, TypeError, RecursionError):
                self._told = {}

    def text(self, path: str) -> str:
        """A file's text, "" where it cannot be read. Each is read once: facts are of one moment."""
        if path not in self._read:
            try:
                with open(self.folder + path, "rb") as file:
                    self._read[path] = file.read(_READ).decode("utf-8", "replace")
            except (OSError, ValueError):
                self._read[path] = ""
        return self._read[path]

    def line(self, path: str) -> str:
        """A file's first line, without space around it."""
        return self.text(path).partition("\n")[0].strip()

    def number(self, path: str) -> int | None:
        """A file's only number."""
        return number(self.line(path))

    def names(self, pattern: str) -> List[str]:
        """Paths that match, as this host knows them."""
        try:
            found = glob.glob(glob.escape(self.folder) + pattern)
        except (OSError, ValueError):  # a NUL in a garbled name
            return []
        return sorted(path[len(self.folder) :] for path in found)

    def told(self, key: str) -> Any:
        """What was recorded of a fact that no file has."""
        return self._told.get(key)


def discover(root: Root, gpus: Facts | None = None, *, tpus: bool = True) -> Facts:
    """All facts; `gpus` is what `gpus.Query` answered, `tpus` whether any are wanted."""
    return {
        "cpus": _cpus(root),
        "memory": _memory(root),
        "numa": _numa(root),
        "gpus": _gpus(root, gpus if gpus is not None else root.told("gpus")),
        "tpus": len(_tpus(root)) if tpus else 0,
        "tpu_nodes": _tpu_nodes(root) if tpus else [],
        "shm": _shm(root),
        "limits": _limits(root),
        "kernel": _kernel(root),
        "infiniband": [path.split("/")[4] for path in root.names("/sys/class/infiniband/*/ports")],
        "platform": _platform(root),
    }


def _tpus(root: Root) -> List[str]:
    return root.names("/dev/accel[0-9]*") or root.names("/dev/vfio/[0-9]*")


def _tpu_nodes(root: Root) -> List[int]:
    """The NUMA nodes that TPUs hang on; [] where that is not known of one."""
    found: Set[int] = set()
    for device in _tpus(root):
        kind, name = device.split("/")[-2:]
        # A file below /dev/vfio is an IOMMU group (docs.kernel.org/driver-api/vfio.html).
        where = (
            f"kernel/iommu_groups/{name}/devices/*"
            if kind == "vfio"
            else f"class/accel/{name}/device"
        )
        told = {root.number(path) for path in root.names(f"/sys/{where}/numa_node")} - {None}
        if not told:
            return []
        found |= {node for node in told if node is not None}
    return sorted(found)


def _status(root: Root) -> Dict[str, str]:
    """/proc/self/status as a mapping."""
    pairs = (line.partition(":") for line in root.text("/proc/self/status").splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _cpus(root: Root) -> Facts:
    online = numbers(root.line("/sys/devices/system/cpu/online"))
    if not online:
        text = root.text("/proc/cpuinfo")
        online = list(range(text.count("\nprocessor\t:") + text.startswith("processor\t:")))
    allowed = numbers(_status(root).get("Cpus_allowed_list", ""))
    if online:  # the mask of a process may name CPUs that the host does not have
        allowed = [cpu for cpu in allowed if cpu in set(online)] or online
    quota, cpus = _quota(root), allowed or [0]
    limited = quota is not None and quota < len(cpus)
    current = _current(root)
    return {
        "online": len(online) or len(allowed) or 1,
        "allowed": cpus,
        "quota": quota,
        "current": current,
        # Read where it is asked for: there may be hundreds of files.
        "firsts": _firsts(root, cpus, current) if limited else cpus,
    }


def _current(root: Root) -> int | None:
    """The CPU that this process runs on: field 39 of proc(5) stat; field 2 may have spaces."""
    if not root.live:
        told = root.told("current")
        return told if isinstance(told, int) else None
    fields = root.line("/proc/self/stat").rpartition(")")[2].split()
    return number(fields[36]) if len(fields) > 36 else None


def _firsts(root: Root, cpus: List[int], current: int | None) -> List[int]:
    """One CPU of each core, `current` for its own: hyperthreads compute no faster together."""
    found: List[int] = []
    seen: Set[int] = set()
    for cpu in sorted(cpus, key=lambda one: (one != current, one)):
        if cpu not in seen:
            path = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
            seen.update([cpu], numbers(root.line(path)))
            found.append(cpu)
    return sorted(found)


def cgroup_folders(root: Root, controller: str) -> Iterator[Tuple[int, str]]:
    """Version and folder of this process's cgroup and of all above it, the own one first."""
    mounts = []  # version, where it is mounted, which part of the tree that is
    for line in root.text("/proc/self/mountinfo").splitlines():
        fields, _, kind = line.partition(" - ")
        parts, kinds = fields.split(), kind.split()
        if len(parts) > 4 and kinds[:1] == ["cgroup2"]:
            mounts.append((2, parts[4], parts[3]))
        elif len(parts) > 4 and kinds[:1] == ["cgroup"] and controller in kinds[-1].split(","):
            mounts.append((1, parts[4], parts[3]))
    own = {}
    for line in root.text("/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            own[2] = path
        elif controller in controllers.split(","):
            own[1] = path
    for version, mount, within in mounts:
        path, top = own.get(version, "/"), within.rstrip("/")
        # Without a cgroup namespace a container sees its own folder as the mount's root.
        below = path[len(top) :] if f"{path}/".startswith(f"{top}/") else ""
        parts = [part for part in below.split("/") if part and part != ".."]
        for end in range(len(parts), -1, -1):
            yield version, "/".join([mount.rstrip("/"), *parts[:end]])


def _quota(root: Root) -> float | None:
    """CPUs that the tightest of the cgroups grants per period; None without a limit."""
    found = []
    for version, folder in cgroup_folders(root, "cpu"):
        if version == 2:
            quota, _, period = root.line(f"{folder}/cpu.max").partition(" ")
        else:
            quota = root.line(f"{folder}/cpu.cfs_quota_us")
            period = root.line(f"{folder}/cpu.cfs_period_us")
        granted, of = number(quota), number(period)
        if granted and of:
            found.append(max(1, granted * 1000 // of) / 1000)
    return min(found) if found else None


def _memory(root: Root) -> Facts:
    info = {}
    for line in root.text("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        kib = number(value.strip().partition(" ")[0])
        if kib is not None:
            info[name] = kib * 1024
    limits = []
    for version, folder in cgroup_folders(root, "memory"):
        limit = root.number(f"{folder}/memory.{'max' if version == 2 else 'limit_in_bytes'}")
        if limit is not None and limit < _NO_LIMIT:
            limits.append(limit)
    total = info.get("MemTotal")
    limit = min(limits) if limits else None
    if limit is not None and total is not None and limit >= total:
        limit = None
    # Where programs look for one; a cgroup below, or above, may have a tighter one.
    top = [root.number(f"/sys/fs/cgroup/{name}") for name in _TOP_LIMITS]
    shown = min((value for value in top if value is not None and value < _NO_LIMIT), default=None)
    return {"total": total, "limit": limit, "shown": shown}


def _numa(root: Root) -> List[Facts]:
    nodes = []
    allowed = numbers(_status(root).get("Mems_allowed_list", ""))
    for path in root.names("/sys/devices/system/node/node[0-9]*"):
        index = number(path.rpartition("node")[2])
        if index is not None:
            nodes.append(
                {
                    "node": index,
                    "cpus": numbers(root.line(f"{path}/cpulist")),
                    "memory_allowed": not allowed or index in allowed,
                }
            )
    return sorted(nodes, key=lambda node: int(node["node"]))


def _gpus(root: Root, queried: Facts | None) -> Facts:
    told = dict(queried) if isinstance(queried, dict) else {}
    devices = [_device(root, one) for one in _list(told.get("devices")) if isinstance(one, dict)]
    driver = _known(told, "driver", str)
    for word in root.line("/proc/driver/nvidia/version").split():
        if driver is None and word.count(".") in (1, 2) and word.replace(".", "").isdigit():
            driver = word
    return {
        "driver": driver,
        "devices": devices,
        "hidden": _known(told, "hidden", int) or 0,  # by CUDA_VISIBLE_DEVICES
        "error": _known(told, "error", str),
        "nodes": root.names(_GPU_NODES),
        "control": bool(root.names("/dev/nvidiactl")) or bool(root.names("/dev/dxg")),
        "libraries": _libraries(root),
    }


def _device(root: Root, told: Facts) -> Facts:
    bus, sm = _known(told, "bus", str), _known(told, "sm", str)
    address = (bus or "").lower()[-12:]  # nvidia-smi writes 8 digits of domain
    return {
        **{name: _known(told, name, str) for name in ("uuid", "name", "bus", "driver")},
        **{name: _known(told, name, int) for name in ("index", "memory_mib", "persistence")},
        "sm": capability(sm),
        "mig": told.get("mig") is True,
        # "-1": the firmware did not say.
        "numa": root.number(f"/sys/bus/pci/devices/{address}/numa_node") if address else None,
    }


def _known(told: Facts, name: str, kind: type) -> Any:
    """A value of a recording, None where it is of another type."""
    return told[name] if isinstance(told.get(name), kind) else None


def _list(told: Any) -> List[Any]:
    return told if isinstance(told, list) else []


# Where the driver's library is put: by the container toolkit, by Apptainer, by hosts.
_LIBRARY_FOLDERS = (
    "/.singularity.d/libs",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/usr/lib",
)


def _libraries(root: Root) -> List[Facts]:
    """Each libcuda.so.1 that the loader may find, in its order: where, and of which driver."""
    folders = [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(":") if f and root.live]
    folders += [str(folder) for folder in _list(root.told("ld_library_path"))]
    for file in ("/etc/ld.so.conf", *root.names("/etc/ld.so.conf.d/*.conf")):
        folders += [line.strip() for line in root.text(file).splitlines() if line.startswith("/")]
    found, seen = [], set()
    for named in (*folders, *_LIBRARY_FOLDERS):
        folder = named.rstrip("/")
        if folder in seen or not root.names(f"{glob.escape(folder)}/libcuda.so.1"):
            continue
        seen.add(folder)
        files = root.names(f"{glob.escape(folder)}/libcuda.so.*.*")
        versions = [file.rpartition("libcuda.so.")[2] for file in files]
        version = next((v for v in versions if v.replace(".", "").isdigit()), None)
        found.append(
            {"folder": folder, "version": version, "compat": "compat" in folder.split("/")}
        )
    return found


def _shm(root: Root) -> int | None:
    """Bytes that /dev/shm may hold."""
    if not root.live:
        told = root.told("shm")
        return told if isinstance(told, int) else None
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return None
    return status.f_frsize * status.f_blocks


def _limits(root: Root) -> Dict[str, int | None]:
    """Soft limits; None is without one, and what is not there is not known."""
    wanted = {"Max open files": "nofile", "Max locked memory": "memlock", "Max stack size": "stack"}
    found: Dict[str, int | None] = {}
    for line in root.text("/proc/self/limits").splitlines():
        for title, name in wanted.items():
            if line.startswith(title):
                soft = line[len(title) :].split()[:1]
                if soft == ["unlimited"]:
                    found[name] = None
                elif soft and number(soft[0]) is not None:
                    found[name] = number(soft[0])
    return found


def _kernel(root: Root) -> Facts:
    """What only the host can change."""
    thp = root.line("/sys/kernel/mm/transparent_hugepage/enabled")
    governor = root.line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "thp": next((one for one in ("always", "madvise", "never") if f"[{one}]" in thp), None),
        "hugepages": root.number("/proc/sys/vm/nr_hugepages"),
        # Of one CPU: a host whose CPUs differ in this has not been seen.
        "governor": governor if governor.isascii() and governor.isalpha() else None,
        "numa_balancing": root.number("/proc/sys/kernel/numa_balancing"),
    }


def scheduler(root: Root, path: str) -> Facts | None:
    """The disk that holds `path`, and its I/O scheduler; None where they are not known."""
    if root.live:
        try:
            device = os.stat(path).st_dev
        except (OSError, ValueError):
            return None
        at = f"{os.major(device)}:{os.minor(device)}"
    else:
        at = str(root.told("model_device"))
    folder = f"/sys/dev/block/{at}"
    for block in (folder, f"{folder}/.."):  # a partition's queue is its disk's
        line = root.line(f"{block}/queue/scheduler")
        if line:
            name = root.text(f"{block}/uevent").partition("DEVNAME=")[2].partition("\n")[0]
            chosen = line[line.find("[") + 1 : line.find("]")] if "[" in line else line
            rotates = root.line(f"{block}/queue/rotational") == "1"
            return {"disk": name, "scheduler": chosen, "rotates": rotates}
    return None


def _platform(root: Root) -> Facts:
    version = root.line("/proc/version").lower()
    if root.names("/.singularity.d") or root.names("/singularity"):
        container = "apptainer"
    elif _in_a_pod(root):
        container = "kubernetes"
    elif root.names("/.dockerenv"):
        container = "docker"
    elif root.names("/run/.containerenv"):
        container = "podman"
    else:
        container = None
    return {"wsl": "microsoft" in version, "container": container}


def _in_a_pod(root: Root) -> bool:
    """Whether Kubernetes has started this; a pod may be without a token and see no cgroup's name.

    Its kubelet mounts /etc/hosts from a folder of the pod's.
    """
    return bool(
        root.names("/var/run/secrets/kubernetes.io")
        or "kubepods" in root.text("/proc/self/cgroup")
        or "/kubelet/pods/" in root.text("/proc/self/mountinfo")
        or (root.live and os.environ.get("KUBERNETES_SERVICE_HOST"))
    )

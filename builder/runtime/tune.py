"""Says what would be set here, and why.

    tune [--json] [--root DIR] [--record DIR] [-- ARGUMENTS...]

Changes nothing; the entrypoint is what applies. --root looks at a recorded host instead of this
one, --record writes such a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from . import (
    advice,
    apply,
    caches,
    decide,
    explained,
    gpus,
    host,
    links,
    manifest,
    options,
    preflight,
    weights,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence

_RECORDED = (
    "/proc/self/cgroup",
    "/proc/self/mountinfo",
    "/proc/self/status",
    "/proc/self/limits",
    "/proc/meminfo",
    "/proc/version",
    "/proc/driver/nvidia/version",
    "/proc/sys/kernel/numa_balancing",
    "/proc/sys/vm/nr_hugepages",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    "/sys/devices/system/node/node[0-9]*/cpulist",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/bus/pci/devices/*/numa_node",
    "/sys/kernel/iommu_groups/*/devices/*/numa_node",
    "/sys/class/accel/accel[0-9]*/device/numa_node",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d/*.conf",
)
_PRESENT = (
    *("/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/dxg", "/dev/accel[0-9]*", "/dev/vfio/[0-9]*"),
    *("/.dockerenv", "/run/.containerenv", "/.singularity.d/runscript", "/singularity"),
    *("/sys/class/infiniband/*/ports/*/state",),
)


def main(arguments: Sequence[str]) -> int:
    """Print; exit code 0 whatever is found, 2 for a wrong option."""
    parser = argparse.ArgumentParser(prog="tune", description=__doc__.partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="what it does anyway")
    parser.add_argument("--json", action="store_true", help="all facts and rows, for programs")
    parser.add_argument("--all", action="store_true", help="also what is left alone, and why")
    parser.add_argument("--root", default="/", metavar="DIR", help="a recorded host")
    parser.add_argument("--record", metavar="DIR", help="record this host into an empty folder")
    parser.add_argument("--manifest", default=manifest.FILE, metavar="FILE", help="another image's")
    parser.add_argument("arguments", nargs="*", help="the server's, after --")
    given = parser.parse_args(arguments)
    about = manifest.read(given.manifest)
    if given.record:
        if wrong := _recorded(given.record, given.root, given.arguments, about):
            parser.error(wrong)
        return 0
    told = report(given.root, about, given.arguments, dict(os.environ))
    if given.json:
        print(json.dumps(told, indent=2))
    else:
        _print(told, everything=given.all)
    return 0


def _print(told: Dict[str, Any], *, everything: bool) -> None:
    for line in explained.lines(told["settings"], told["advice"]):
        print(line)
    for line in links.told(told["facts"]["gpus"]["links"]):
        print(line)
    if everything:
        for row in told["settings"]:
            if row["status"] == decide.NEEDLESS:
                print(f"not needed here: {row['name']}: {row['why']} [{row['source']}]")
        for row in told["not_set"]:
            effect = f"; measured: {row['effect']}" if row.get("effect") else ""
            print(f"never set: {row['name']}: {row['why']}{effect} [{row['source']}]")
    for finding in told["preflight"]:
        print(f"preflight: {preflight.told(finding)}")


def _recorded(target: str, root: str, arguments: Sequence[str], about: Dict[str, Any]) -> str:
    """Record this host into an empty folder; returns what is wrong with that."""
    if root != "/":
        return "--record is of this host, --root of another"
    try:
        if os.path.isdir(target) and os.listdir(target):
            return f"{target} is not empty"
        model = weights.named(arguments, about["server"], dict(os.environ))
        record(target, _place(model, about, dict(os.environ)))
    except OSError as error:
        return f"cannot record into {target}: {error}"
    return ""


def report(
    folder: str, about: Dict[str, Any], arguments: Sequence[str], environment: Dict[str, str]
) -> Dict[str, Any]:
    """Facts, settings, advice and findings, as the entrypoint would come by them."""
    root = host.Root(folder)
    environment = environment if root.live else {}
    elsewhere = preflight.elsewhere(about, environment)
    asks = root.live and about["accelerator"] == "cuda" and not elsewhere
    hidden = environment.get("CUDA_VISIBLE_DEVICES")
    answer = gpus.visible(gpus.Query().answer(), hidden) if asks else None
    facts = host.discover(root, answer, tpus=not elsewhere)
    topology = links.asked() if answer and answer["devices"] else root.text(f"/{links.RECORDED}")
    facts["gpus"]["links"] = links.parse(topology)
    server = about["server"]
    model = weights.named(arguments, server, environment)
    place = _place(model, about, environment if root.live else None)
    found = weights.read(place)
    settings = decide.decide(facts, about["tuning"], environment, arguments, found, server=server)
    ranks = options.ranks(server, [*arguments, *apply.flags(settings)], environment)
    disk = host.scheduler(root, place or "") if place or not root.live else None
    seen = facts["gpus"]
    return {
        "facts": facts,
        "settings": settings,
        "advice": [
            *advice.of_host(facts, disk),
            *links.advice(seen["links"], seen["devices"], ranks),
        ],
        "preflight": preflight.check(
            facts, about, ranks, options.here(found, server, arguments, environment), environment
        ),
        "not_set": about["not_set"],
    }


def _place(
    model: str | None, about: Dict[str, Any], environment: Dict[str, str] | None
) -> str | None:
    """The model's folder, found as the start does: the Hub's cache is where caches go by then."""
    if not model:
        return None
    if environment is None:  # a recorded host's is not known
        return weights.folder(model, {})
    placed = caches.looked_up(environment, about["caches"])
    return weights.folder(model, {**environment, **placed})


def _disk(root: host.Root, target: str, place: str) -> str:
    """Copy what is asked of the disk that holds `place`; returns its numbers."""
    device = os.stat(place).st_dev
    at = f"{os.major(device)}:{os.minor(device)}"
    folder = f"/sys/dev/block/{at}"
    block = next((b for b in (folder, f"{folder}/..") if root.line(f"{b}/queue/scheduler")), None)
    if block:  # a partition's queue is its disk's: here it is its own
        for name in ("queue/scheduler", "queue/rotational"):
            _write(f"{target}{folder}/{name}", root.text(f"{block}/{name}"))
        lines = root.text(f"{block}/uevent").splitlines()
        named = [line for line in lines if line.startswith("DEVNAME=")]
        _write(f"{target}{folder}/uevent", "".join(f"{line}\n" for line in named))
    return at


def record(target: str, place: str | None = None) -> None:
    """Copy what `host` reads into `target`, as files of the same names; `place` is the model's."""
    root = host.Root()
    os.makedirs(target, exist_ok=True)
    paths: List[str] = [path for pattern in _RECORDED for path in root.names(pattern)]
    paths += [
        f"{folder}/{name}"
        for controller in ("cpu", "memory")
        for _, folder in host.cgroup_folders(root, controller)
        for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.max",
                     "memory.limit_in_bytes")
    ]  # fmt: skip
    for path in paths:
        text = root.text(path)
        if text:
            _write(target + path, text)
    if not root.text("/sys/devices/system/cpu/online"):
        _write(f"{target}/proc/cpuinfo", root.text("/proc/cpuinfo"))
    facts = host.discover(root, gpus.Query().answer())
    if facts["gpus"]["devices"] and (topology := links.asked()):
        _write(f"{target}/{links.RECORDED}", topology)
    folders = [library["folder"] for library in facts["gpus"]["libraries"]]
    for pattern in (*_PRESENT, *(f"{folder}/libcuda.so.*" for folder in folders)):
        for path in root.names(pattern):
            _write(target + path, "")
    if root.names("/var/run/secrets/kubernetes.io"):  # the name only
        _write(f"{target}/var/run/secrets/kubernetes.io/recorded", "")
    told: Dict[str, Any] = {
        "gpus": {key: facts["gpus"][key] for key in ("driver", "devices", "error")},
        "shm": facts["shm"],
        "current": facts["cpus"]["current"],
        "ld_library_path": folders,  # in the loader's order
    }
    if place is not None:
        told["model_device"] = _disk(root, target, place)
    _write(f"{target}/{host.RECORDED}", json.dumps(told, indent=2) + "\n")


def _write(file: str, text: str) -> None:
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with open(file, "w", encoding="utf-8") as opened:
        opened.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

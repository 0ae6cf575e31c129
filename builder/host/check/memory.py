"""Memory: huge pages, swapping, and what processes share."""

from __future__ import annotations

import re

from builder.host.check.rows import Finding, Setting, better, not_here, ok, unknown
from builder.host.check.subject import Subject

_THP = "/sys/kernel/mm/transparent_hugepage/enabled"
_POOLS = "/sys/kernel/mm/hugepages/hugepages-{}kB"
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MIB = 1 << 20
_SHM = "/dev/shm"  # noqa: S108 - it is looked at, and nothing is put there


def total(subject: Subject) -> int | None:
    """Bytes of memory."""
    return _info(subject, "MemTotal")


def _info(subject: Subject, name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d{{1,15}}) kB", subject.host.text("/proc/meminfo"), re.M)
    return int(match[1]) * 1024 if match else None


def thp(subject: Subject) -> Finding:
    """Transparent huge pages."""
    match = re.search(r"\[(always|madvise|never)\]", subject.host.line(_THP))
    if match is None:
        return unknown(f"{_THP} cannot be read")
    if match[1] != "never":
        return ok(match[1])
    return better("never", Setting(kind="sysfs", name=_THP, value="madvise"))


def _hugepages(subject: Subject, kib: int, name: str) -> Finding:
    """Static huge pages of one size: reserved, and how many of them nobody uses."""
    pool = _POOLS.format(kib)
    reserved = subject.host.number(f"{pool}/nr_hugepages")
    free = subject.host.number(f"{pool}/free_hugepages")
    if reserved is None:
        pools = subject.host.names(_POOLS.format("*"))
        if pools:
            return not_here(f"this CPU or kernel has no pages of {name}")
        return unknown("/sys/kernel/mm/hugepages cannot be read")
    if reserved <= 0:
        return ok("0")
    taken = f"{reserved} ({reserved * kib / _MIB:.1f} GiB)"
    if free is None:
        return unknown("how many are in use cannot be read", taken)
    if free < reserved:
        return ok(f"{taken}, {reserved - free} in use")
    settings = [Setting(kind="sysfs", name=f"{pool}/nr_hugepages", value="0")]
    settings += [
        Setting(kind="no-kernel-argument", name=one.partition("=")[0], value=one.partition("=")[2])
        for one in subject.arguments
        if one.partition("=")[0] in ("hugepages", "hugepagesz", "default_hugepagesz")
    ]
    return better(f"{taken}, none in use", *settings)


def small_pages(subject: Subject) -> Finding:
    """Static huge pages of 2 MiB."""
    return _hugepages(subject, 2048, "2 MiB")


def large_pages(subject: Subject) -> Finding:
    """Static huge pages of 1 GiB."""
    return _hugepages(subject, 1048576, "1 GiB")


def swappiness(subject: Subject) -> Finding:
    """How readily the kernel swaps; nothing where there is no swap."""
    if _info(subject, "SwapTotal") == 0:
        return ok("no swap")
    now = subject.host.number("/proc/sys/vm/swappiness")
    most = subject.book.thresholds.swappiness
    if now is None:
        return unknown("/proc/sys/vm/swappiness cannot be read")
    if now <= most:
        return ok(str(now))
    return better(str(now), Setting(kind="sysctl", name="vm.swappiness", value=str(most)))


def _shm_options(subject: Subject) -> str | None:
    """The options of the topmost mount on /dev/shm."""
    mounts = [
        fields[3]
        for line in subject.host.lines("/proc/mounts", f" {_SHM} ")
        if len(fields := line.split()) > 3 and fields[1] == _SHM
    ]
    return mounts[-1] if mounts else None


def shm_size(subject: Subject) -> int | None:
    """The bytes that its mount says it may have; None where it says none: half of the memory."""
    match = re.search(
        r"(?:^|,)size=(\d{1,15})([kmgt]?)(?:,|$)", _shm_options(subject) or "", re.ASCII
    )
    return int(match[1]) * _UNITS[match[2]] if match else None


def shm(subject: Subject) -> Finding:
    """How much processes may share through /dev/shm here; a container has its own."""
    if _shm_options(subject) is None:
        return unknown(f"/proc/mounts has no {_SHM}")
    size, memory = shm_size(subject), total(subject)
    if size is None and memory is None:
        return unknown("its mount names no size, and /proc/meminfo cannot be read")
    if size is None:
        size = (memory or 0) // 2  # tmpfs(5): half of the memory, where nothing is said
    least = subject.book.thresholds.shm_per_gpu * max(1, len(subject.gpus))
    now, advised = f"{size // _MIB} MiB", f"at least {least // _MIB} MiB"
    if size >= least:
        return ok(now, advised)
    return better(now, Setting(kind="mount", name=_SHM, value=str(least)), advised=advised)


ROWS = {
    "thp": thp,
    "hugepages-2m": small_pages,
    "hugepages-1g": large_pages,
    "swappiness": swappiness,
    "shm": shm,
}

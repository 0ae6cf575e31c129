"""The system: distribution, kernel, limits, Windows below it, and what is between PCI devices."""

from __future__ import annotations

import datetime
import re
import struct

from builder.host.check.recorded import version
from builder.host.check.rows import Finding, Setting, System, better, failed, not_here, ok, unknown
from builder.host.check.subject import Subject, counted

_PCI = "/sys/bus/pci/devices"
_GIB = 1 << 30


def distribution(subject: Subject) -> Finding:
    """The distribution, and whether its security fixes go on."""
    told = subject.release
    name, release = told.get("ID", ""), told.get("VERSION_ID", "")
    now = " ".join((told.get("PRETTY_NAME") or f"{name} {release}").split())[:100]
    if not name:
        return unknown("there is no /etc/os-release that names it")
    known = subject.book.systems.get(name, {})
    system: System | None = known.get(release) or known.get(release.partition(".")[0])
    if system is None:
        return unknown("when its security fixes end is in no table here", now)
    now = f"{now}, security fixes until {system.until}"
    if datetime.date.fromisoformat(system.until) >= subject.today:
        return ok(now)
    return better(now, reason="its security fixes have ended")


def kernel(subject: Subject) -> Finding:
    """The kernel's release."""
    release = subject.host.line("/proc/sys/kernel/osrelease")[:100]
    now, least = version(release), version(subject.book.thresholds.kernel)
    if now is None or least is None:
        return unknown("/proc/sys/kernel/osrelease cannot be read")
    return ok(release) if now >= least else better(release)


def wsl2(subject: Subject) -> Finding:
    """Windows' driver, where Windows is below."""
    if not subject.host.line("/proc/version"):
        return unknown("/proc/version cannot be read")
    if not subject.wsl:
        return not_here("not under Windows")
    host = subject.host
    if not host.has("/usr/lib/wsl/lib/libcuda.so.1"):
        return failed(
            "WSL2 without a GPU", "Windows lends no driver: no /usr/lib/wsl/lib/libcuda.so.1"
        )
    own = host.names("/usr/lib/*-linux-gnu/libcuda.so.1") + host.names("/usr/lib64/libcuda.so.1")
    if own:
        return better(f"WSL2, and a driver of Linux's own: {own[0]}")
    return ok("WSL2 with Windows' driver")


def iommu(subject: Subject) -> Finding:
    """Whether what one GPU sends to another is translated."""
    if subject.virtual:
        return not_here("a virtual machine: its host has the IOMMU")
    if len(subject.gpus) < 2:
        return not_here("fewer than two GPUs on the bus")
    kinds = [subject.host.line(f"{_PCI}/{one}/iommu_group/type") for one in subject.gpus]
    known = [kind for kind in kinds if re.fullmatch(r"[A-Za-z-]{1,20}", kind)]
    if not known:
        if subject.host.names("/sys/class/iommu/*"):
            return unknown("the kernel does not tell the type of the GPUs' IOMMU groups")
        return ok("off")
    if set(known) == {"identity"}:
        return ok("passthrough (identity)")
    # Source: Linux kernel documentation, kernel parameters, iommu and iommu.passthrough.
    name, value = ("iommu.passthrough", "1") if subject.is_arm else ("iommu", "pt")
    change = Setting(kind="kernel-argument", name=name, value=value)
    return better(f"translating ({counted(known)})", change)


def acs(subject: Subject) -> Finding:
    """Whether PCI bridges send what GPUs say to each other up to the CPU."""
    if subject.virtual:
        return not_here("a virtual machine, where the guest needs ACS")
    if len(subject.gpus) < 2:
        return not_here("fewer than two GPUs on the bus")
    host = subject.host
    bridges = [
        path for path in host.names(f"{_PCI}/*") if host.line(f"{path}/class").startswith("0x0604")
    ]
    controls = {path: _acs_control(host.content(f"{path}/config")) for path in bridges}
    seen = [path for path in bridges if len(host.content(f"{path}/config")) > 256]
    if not seen:
        return unknown("the bridges' configuration is root's to read" if bridges else "no bridge")
    on = [path.rpartition("/")[2] for path, control in controls.items() if control]
    if not on:
        return ok(f"off on {len(seen)} bridges")
    more = "" if len(on) < 5 else " …"
    return better(
        f"on at {len(on)} of {len(seen)} bridges: {', '.join(on[:4])}{more}",
        Setting(kind="firmware", name="ACS", value="disabled"),
    )


def _acs_control(config: bytes) -> int:
    """The ACS control bits of a PCI device, 0 without them.

    PCI Express: extended capabilities begin at 0x100, each with 16 bits of id and, from bit 20 on,
    the offset of the next; id 0x000d is ACS, whose control register is at 6.
    """
    offset, steps = 0x100, 0
    while 0x100 <= offset <= len(config) - 8 and steps < 48:
        (header,) = struct.unpack_from("<I", config, offset)
        if header & 0xFFFF == 0x000D:
            (control,) = struct.unpack_from("<H", config, offset + 6)
            # Redirection of requests and completions, upstream forwarding, egress control.
            return int(control) & 0b0011_1100
        offset, steps = header >> 20, steps + 1
    return 0


def _limit(subject: Subject, title: str) -> int | str | None:
    """A soft limit: a number, "unlimited", or None."""
    for line in subject.host.text("/proc/self/limits").splitlines():
        if line.startswith(title):
            soft = line[len(title) :].split()[:1]
            if soft == ["unlimited"]:
                return "unlimited"
            if soft and re.fullmatch(r"\d{1,20}", soft[0]):
                return int(soft[0])
    return None


def nofile(subject: Subject) -> Finding:
    """How many files a process may have open."""
    now, least = _limit(subject, "Max open files"), subject.book.thresholds.nofile
    if now is None:
        return unknown("/proc/self/limits cannot be read")
    if isinstance(now, str) or now >= least:
        return ok(str(now))
    return better(str(now), Setting(kind="ulimit", name="nofile", value="65536"))


def memlock(subject: Subject) -> Finding:
    """How much memory a process may lock; RDMA registers its buffers there."""
    now, least = _limit(subject, "Max locked memory"), subject.book.thresholds.memlock
    if now is None:
        return unknown("/proc/self/limits cannot be read")
    if isinstance(now, str) or now >= least:
        return ok(str(now) if isinstance(now, str) else f"{now // 1024} KiB")
    if not subject.host.names("/sys/class/infiniband/*"):
        return not_here(f"no RDMA card ({now // 1024} KiB)")
    return better(f"{now // 1024} KiB", Setting(kind="ulimit", name="memlock", value="unlimited"))


ROWS = {
    "os": distribution,
    "kernel": kernel,
    "wsl2": wsl2,
    "iommu": iommu,
    "acs": acs,
    "nofile": nofile,
    "memlock": memlock,
}

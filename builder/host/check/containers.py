"""What gives GPUs to containers, and how the kernel limits them."""

from __future__ import annotations

import re

from builder.host.check.recorded import version
from builder.host.check.rows import Finding, Setting, better, not_here, ok, unknown
from builder.host.check.subject import Subject

_PROGRAMS = ("/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/nvidia/toolkit")
_ENGINES = ("dockerd", "podman", "containerd", "crio")


def _program(subject: Subject, name: str) -> bool:
    return any(subject.host.has(f"{folder}/{name}") for folder in _PROGRAMS)


def container_toolkit(subject: Subject) -> Finding:
    """NVIDIA's container toolkit, which Apptainer alone does without."""
    if not subject.has_gpu:
        return not_here("no NVIDIA GPU")
    install = Setting(
        kind="package", name="nvidia-container-toolkit", value=subject.book.thresholds.toolkit
    )
    engines = [name for name in _ENGINES if _program(subject, name)]
    if not _program(subject, "nvidia-ctk"):
        if not engines:
            return not_here("no Docker, Podman, containerd or CRI-O: Apptainer needs none")
        return better("not installed", install, reason=f"{engines[0]} gets no GPU without it")
    package = subject.host.paragraph("/var/lib/dpkg/status", "Package: nvidia-container-toolkit")
    told = package.get("Version", "").split("-")[0][:20]
    now, least = version(told), version(subject.book.thresholds.toolkit)
    if now is None or least is None:
        return unknown("dpkg's database does not name its version", "installed")
    if now < least:
        return better(told, install, reason="containers can escape through it")
    return ok(told)


def cdi(subject: Subject) -> Finding:
    """The list of devices for `--device nvidia.com/gpu=all`, and whether it fits the driver."""
    if not subject.has_gpu:
        return not_here("no NVIDIA GPU")
    refresh = Setting(kind="service", name="nvidia-cdi-refresh", value="enabled")
    specs = [
        path
        for folder in ("/etc/cdi", "/var/run/cdi", "/run/cdi")
        for end in ("yaml", "json")
        for path in subject.host.names(f"{folder}/*.{end}")
        if "nvidia.com/" in subject.host.text(path)
    ]
    if not specs:
        if not any(_program(subject, name) for name in _ENGINES):
            return not_here("no Docker, Podman, containerd or CRI-O")
        return better("no specification", refresh)
    made = re.search(r"libcuda\.so\.(\d{3}\.\d{1,3}(?:\.\d{1,3})?)", subject.host.text(specs[0]))
    if made and subject.driver and made[1] != subject.driver:
        return better(
            f"{specs[0]} of driver {made[1]}",
            refresh,
            reason=f"driver {subject.driver} runs: its files are not those that are listed",
        )
    return ok(f"{specs[0]}{f' of driver {made[1]}' if made else ''}")


def cgroup(subject: Subject) -> Finding:
    """Version 1 or 2 of control groups."""
    host = subject.host
    if host.has("/sys/fs/cgroup/cgroup.controllers"):
        return ok("version 2")
    if host.has("/sys/fs/cgroup/memory") or host.has("/sys/fs/cgroup/unified"):
        return better(
            "version 1",
            Setting(kind="kernel-argument", name="systemd.unified_cgroup_hierarchy", value="1"),
        )
    return unknown("/sys/fs/cgroup cannot be read")


ROWS = {"container-toolkit": container_toolkit, "cdi": cdi, "cgroup": cgroup}

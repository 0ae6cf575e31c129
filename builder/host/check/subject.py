"""What rows look at: the host's files, what nvidia-smi says, and what is to run here."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from functools import cached_property

from builder.host.check.recorded import Host
from builder.host.check.rows import Book
from builder.host.check.smi import Smi
from builder.model import Cell

_NVIDIA = "0x10de"
_DISPLAYS = ("0x0300", "0x0302")  # PCI classes of GPUs
_SWITCH = "0x0680"  # of NVSwitches, which are bridges of no other kind
_VIRTUAL = re.compile(r"QEMU|KVM|Virtual|VMware|Google Compute Engine|OpenStack|Xen")
_PCI = "/sys/bus/pci/devices"
_ARGUMENTS = ("isolcpus", "nohz_full", "hugepages", "hugepagesz", "default_hugepagesz")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One host at one time."""

    host: Host
    smi: Smi
    book: Book
    today: datetime.date
    cells: tuple[Cell, ...] = ()  # published ones with CUDA, the newest stack last
    wanted: tuple[Cell, ...] = ()  # that are to run here; (): nobody said

    @cached_property
    def gpus(self) -> tuple[str, ...]:
        """PCI addresses of NVIDIA's GPUs."""
        told = [gpu.bus for gpu in self.smi.gpus if gpu.bus]
        return tuple(dict.fromkeys([*told, *self._devices(*_DISPLAYS)]))

    @cached_property
    def switches(self) -> tuple[str, ...]:
        """PCI addresses of NVSwitches."""
        return self._devices(_SWITCH)

    def _devices(self, *classes: str) -> tuple[str, ...]:
        found = []
        for path in self.host.names(f"{_PCI}/*"):
            kind = self.host.line(f"{path}/class")[:6]
            if kind in classes and self.host.line(f"{path}/vendor") == _NVIDIA:
                found.append(path.rpartition("/")[2])
        return tuple(found)

    @cached_property
    def has_gpu(self) -> bool:
        """Whether an NVIDIA GPU is here, seen on the bus, by the driver or by WSL2."""
        driven = self.host.has("/dev/nvidiactl") or self.host.has("/dev/dxg")
        return bool(self.gpus) or driven

    @cached_property
    def loaded(self) -> str:
        """The line in which the kernel module tells its version."""
        return next(
            (
                line
                for line in self.host.text("/proc/driver/nvidia/version").splitlines()
                if line.startswith("NVRM version:")
            ),
            "",
        )

    @cached_property
    def driver(self) -> str:
        """The driver's version, "" where none runs."""
        match = re.search(r"\b\d{3}\.\d{1,3}(\.\d{1,3})?\b", self.smi.driver or self.loaded)
        return match[0] if match else ""

    @cached_property
    def virtual(self) -> bool:
        """Whether this is a virtual machine; its hypervisor has many of the settings."""
        told = [
            self.host.line(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")
        ]
        # x86 has a flag for it, other CPUs only what the machine calls itself.
        flagged = self.host.lines("/proc/cpuinfo", " hypervisor", 1)
        return bool(flagged or _VIRTUAL.search(" ".join(told))) or self.wsl

    @cached_property
    def is_arm(self) -> bool:
        """Whether its CPUs are Arm's."""
        return bool(self.host.lines("/proc/cpuinfo", "CPU implementer", 1))

    @cached_property
    def release(self) -> dict[str, str]:
        """The fields of os-release, {} where there is none."""
        for path in ("/etc/os-release", "/usr/lib/os-release"):
            pairs = (line.partition("=") for line in self.host.text(path).splitlines())
            if told := {name: value.strip().strip("\"'") for name, _, value in pairs}:
                return told
        return {}

    @cached_property
    def wsl(self) -> bool:
        """Whether it is the one of Windows."""
        return "microsoft" in self.host.line("/proc/version").lower()

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """NUMA nodes that have CPUs."""
        folders = self.host.names("/sys/devices/system/node/node[0-9]*")
        return tuple(path for path in folders if self.host.line(f"{path}/cpulist"))

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Those of the kernel's command line that rows speak of."""
        return self.host.words("/proc/cmdline", _ARGUMENTS)

    def node_of(self, address: str) -> int | None:
        """The NUMA node of a PCI device, None where the firmware does not say."""
        node = self.host.number(f"{_PCI}/{address}/numa_node")
        return node if node is not None and node >= 0 else None


def counted(values: list[str]) -> str:
    """ "performance" of all, or "powersave (3), performance (1)"."""
    kinds = {value: values.count(value) for value in values}
    if len(kinds) == 1:
        return next(iter(kinds))
    return ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))

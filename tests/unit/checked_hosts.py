"""Hosts for `imgbuild host check`, each described in a few words and unpacked into a folder."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from builder.host.check.recorded import SMI

OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build\n"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Fri Aug  1 01:02:03 UTC 2025\n"
_CPU = "/sys/devices/system/cpu"
_PCI = "/sys/bus/pci/devices"


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """GPUs that are alike, as the driver and the bus tell of them."""

    name: str = "NVIDIA H100 80GB HBM3"
    architecture: str = "Hopper"
    count: int = 8
    nodes: tuple[int, ...] = (0, 1)  # in turn
    driver: str = "580.95.05"
    cuda: str = "13.0"
    module: str = OPEN
    persistence: str = "Enabled"
    mig: tuple[str, str, int] = ("Disabled", "Disabled", 0)  # now, pending, instances
    ecc: str = "Enabled"
    ecc_pending: str = ""  # "": as it is
    remap: tuple[str, str] = ("No", "No")  # pending, failure
    power: tuple[str, str, str, str] = ("700.00 W", "700.00 W", "200.00 W", "700.00 W")
    fabric: tuple[str, str] = ("Completed", "Success")
    switches: int = 4
    iommu: str = ""  # type of each one's group
    acs: int | None = None  # control of each bridge; None: its configuration cannot be read

    @property
    def addresses(self) -> list[str]:
        return [f"0000:{0x1B + 0x10 * index:02x}:00.0" for index in range(self.count)]

    def files(self) -> dict[str, bytes]:
        found = {
            "/dev/nvidiactl": "",
            "/proc/driver/nvidia/version": self.module.format(self.driver),
        }
        for index, address in enumerate(self.addresses):
            at = f"{_PCI}/{address}"
            found[f"{at}/class"] = "0x030200\n"
            found[f"{at}/vendor"] = "0x10de\n"
            found[f"{at}/numa_node"] = f"{self.nodes[index * len(self.nodes) // self.count]}\n"
            if self.iommu:
                found[f"{at}/iommu_group/type"] = f"{self.iommu}\n"
        for index in range(self.switches):
            found[f"{_PCI}/0000:c{index}:00.0/class"] = "0x068000\n"
            found[f"{_PCI}/0000:c{index}:00.0/vendor"] = "0x10de\n"
        files = {path: text.encode() for path, text in found.items()}
        if self.acs is not None:
            files[f"{_PCI}/0000:16:01.0/class"] = b"0x060400\n"
            files[f"{_PCI}/0000:16:01.0/config"] = bridge(self.acs)
        return files

    def smi(self) -> str:
        def gpu(address: str) -> str:
            devices = "<mig_device/>" * self.mig[2] or "None"
            limits = "".join(
                f"<{name}_power_limit>{watts}</{name}_power_limit>"
                for name, watts in zip(
                    ("current", "default", "min", "max"), self.power, strict=True
                )
            )
            return (
                f'<gpu id="0000{address.upper()}"><product_name>{self.name}</product_name>'
                f"<product_architecture>{self.architecture}</product_architecture>"
                f"<serial>1650000000001</serial><uuid>GPU-0000</uuid>"
                f"<persistence_mode>{self.persistence}</persistence_mode>"
                f"<mig_mode><current_mig>{self.mig[0]}</current_mig>"
                f"<pending_mig>{self.mig[1]}</pending_mig></mig_mode>"
                f"<mig_devices>{devices}</mig_devices>"
                f"<ecc_mode><current_ecc>{self.ecc}</current_ecc>"
                f"<pending_ecc>{self.ecc_pending or self.ecc}</pending_ecc></ecc_mode>"
                f"<remapped_rows><remapped_row_pending>{self.remap[0]}</remapped_row_pending>"
                f"<remapped_row_failure>{self.remap[1]}</remapped_row_failure></remapped_rows>"
                f"<gpu_power_readings>{limits}</gpu_power_readings>"
                f"<fabric><state>{self.fabric[0]}</state><status>{self.fabric[1]}</status></fabric>"
                f"<processes><process_info><process_name>secret</process_name></process_info>"
                f"</processes></gpu>"
            )

        return (
            '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n'
            f"<nvidia_smi_log><driver_version>{self.driver}</driver_version>"
            f"<cuda_version>{self.cuda}</cuda_version>"
            + "".join(map(gpu, self.addresses))
            + "</nvidia_smi_log>\n"
        )


@dataclass(frozen=True, kw_only=True)
class Described:
    """A host in a few words, and how some rows of it stand."""

    title: str
    stands: dict[str, str]
    gpus: Gpus | None = None
    smi: str | None = None  # in place of what `gpus` prints
    os: tuple[str, str] = ("ubuntu", "24.04")
    kernel: str = "6.8.0-87-generic"
    cpus: int = 8
    nodes: int = 2
    governor: str | None = "performance"
    cmdline: str = "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro"
    thp: str = "madvise"
    pages: tuple[int, int] = (0, 0)  # of 2 MiB: reserved, free
    large: tuple[int, int] = (0, 0)  # of 1 GiB
    swap_kib: int = 0
    swappiness: int = 60
    balancing: int | None = 0
    shm: str = "rw,nosuid,nodev"
    nofile: str = "1048576"
    memlock: str = "unlimited"
    disks: dict[str, str] = field(default_factory=lambda: {"nvme0n1": "[none] mq-deadline"})
    cards: dict[str, int] = field(default_factory=dict)  # RDMA card -> node
    virtual: bool = False
    cgroup: int = 2
    programs: tuple[str, ...] = ("dockerd", "nvidia-ctk")
    toolkit: str = "1.18.0-1"
    cdi: str | None = "580.95.05"
    files: dict[str, str] = field(default_factory=dict)

    def unpacked(self) -> dict[str, bytes]:
        """Path -> content."""
        found = {**self._system(), **self._devices(), **self._containers(), **self.files}
        files = {path: text.encode() for path, text in found.items()}
        files.update(self.gpus.files() if self.gpus else {})
        printed = self.smi if self.smi is not None else self.gpus.smi() if self.gpus else ""
        if printed:
            files[f"/{SMI}"] = printed.encode()
        return files

    def _system(self) -> dict[str, str]:
        name, release = self.os
        flags = "fpu vme hypervisor avx2" if self.virtual else "fpu vme avx2"
        limits = f"{'Max open files':<26}{self.nofile:<21}{self.nofile:<21}files\n"
        limits += f"{'Max locked memory':<26}{self.memlock:<21}{self.memlock:<21}bytes\n"
        thp = "always madvise never".replace(self.thp, f"[{self.thp}]")
        told = f'PRETTY_NAME="{name} {release}"'
        balancing = {"/proc/sys/kernel/numa_balancing": f"{self.balancing}\n"}
        return {
            "/etc/os-release": f'ID={name}\nVERSION_ID="{release}"\n{told}\n',
            "/proc/sys/kernel/osrelease": f"{self.kernel}\n",
            "/proc/version": f"Linux version {self.kernel} (gcc)\n",
            "/proc/cmdline": f"{self.cmdline}\n",
            "/proc/cpuinfo": f"processor\t: 0\nflags\t\t: {flags}\n\n" * 2,
            "/proc/meminfo": f"MemTotal:  {1 << 30} kB\nSwapTotal:  {self.swap_kib} kB\n",
            "/proc/sys/vm/swappiness": f"{self.swappiness}\n",
            "/proc/self/limits": f"Limit{' ' * 21}Soft Limit\n{limits}",
            "/proc/mounts": f"proc /proc proc rw 0 0\ntmpfs /dev/shm tmpfs {self.shm} 0 0\n",
            "/sys/kernel/mm/transparent_hugepage/enabled": thp,
            f"{_CPU}/isolated": "\n",
            **(balancing if self.balancing is not None else {}),
        }

    def _devices(self) -> dict[str, str]:
        found = {}
        for size, (reserved, free) in ((2048, self.pages), (1048576, self.large)):
            pool = f"/sys/kernel/mm/hugepages/hugepages-{size}kB"
            found[f"{pool}/nr_hugepages"] = f"{reserved}\n"
            found[f"{pool}/free_hugepages"] = f"{free}\n"
        for node in range(self.nodes):
            share = self.cpus // self.nodes
            cpus = f"{node * share}-{(node + 1) * share - 1}\n"
            found[f"/sys/devices/system/node/node{node}/cpulist"] = cpus
        for cpu in range(self.cpus if self.governor else 0):
            found[f"{_CPU}/cpu{cpu}/cpufreq/scaling_governor"] = f"{self.governor}\n"
        for disk, scheduler in self.disks.items():
            found[f"/sys/block/{disk}/queue/scheduler"] = f"{scheduler}\n"
        for card, node in self.cards.items():
            found[f"/sys/class/infiniband/{card}/device/numa_node"] = f"{node}\n"
        return found

    def _containers(self) -> dict[str, str]:
        found = {f"/usr/bin/{program}": "" for program in self.programs}
        if self.cgroup == 2:
            found["/sys/fs/cgroup/cgroup.controllers"] = "cpu memory\n"
        else:
            found["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "9223372036854771712\n"
        if self.toolkit:
            found["/var/lib/dpkg/status"] = (
                "Package: bash\nVersion: 5\n\nPackage: nvidia-container-toolkit\n"
                f"Status: install ok installed\nVersion: {self.toolkit}\n\n"
            )
        if self.cdi:
            found["/etc/cdi/nvidia.yaml"] = (
                "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n"
                f"- hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.{self.cdi}\n"
            )
        return found


def unpack(files: dict[str, bytes], folder: Path) -> Path:
    for path, content in files.items():
        file = folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def bridge(control: int) -> bytes:
    """The configuration of a PCI bridge whose second extended capability is ACS."""
    config = bytearray(4096)
    struct.pack_into("<I", config, 0x100, 0x148 << 20 | 1 << 16 | 0x0001)  # errors, then ACS
    struct.pack_into("<IHH", config, 0x148, 1 << 16 | 0x000D, 0x7F, control)
    return bytes(config)


_VM = {"virtual": True, "governor": None, "nodes": 1, "cpus": 4}
_ONE = Gpus(count=1, nodes=(0,), fabric=("N/A", "N/A"), switches=0)

# Rows that a host as it is installed mostly has otherwise than is advised, and such as it has so.
_SETTINGS = (
    *("os", "kernel", "iommu", "acs", "nofile", "memlock", "governor", "cpu-isolation"),
    *("numa-balancing", "nic-numa", "thp", "swappiness", "shm", "io-scheduler", "persistence"),
    *("power-limit", "container-toolkit", "cdi", "cgroup"),
)
_SOUND = ("driver", "driver-branch", "kernel-module", "ecc", "mig", "fabric-manager")

HOSTS: dict[str, Described] = {
    "dgx-h100": Described(
        title="Eight H100 on NVSwitches, as they should be.",
        gpus=Gpus(acs=0, iommu="identity"),
        cards={"mlx5_0": 0, "mlx5_1": 1},
        stands=dict.fromkeys(
            {*_SETTINGS, "gpu-numa", "hugepages-2m", "hugepages-1g", *_SOUND},
            "ok",
        ),
    ),
    "untuned": Described(
        title="The same as it comes from the distribution.",
        gpus=Gpus(
            persistence="Disabled",
            acs=0x1D,
            iommu="DMA-FQ",
            power=("500.00 W",) + ("700.00 W",) * 3,
        ),
        os=("ubuntu", "20.04"),
        kernel="4.15.0-20-generic",
        governor="powersave",
        thp="never",
        swap_kib=8 << 20,
        balancing=1,
        shm="rw,size=65536k",
        nofile="1024",
        memlock="8388608",
        disks={"nvme0n1": "none [mq-deadline]", "nvme1n1": "[none] mq-deadline"},
        cards={"mlx5_0": 0},
        cgroup=1,
        toolkit="1.14.3-1",
        cdi="570.26",
        cmdline="isolcpus=1-31 quiet",
        stands=dict.fromkeys(_SETTINGS, "advised"),
    ),
    "h100-vm": Described(
        title="A virtual machine with one H100.",
        gpus=Gpus(count=1, nodes=(-1,), driver="580.159.04", fabric=("N/A", "N/A"), switches=0),
        cdi="580.159.04",
        stands={
            "iommu": "n/a",
            "acs": "n/a",
            "governor": "unknown",
            "numa-balancing": "n/a",
            "gpu-numa": "ok",
            "driver": "ok",
            "fabric-manager": "n/a",
            "cdi": "ok",
        },
        **_VM,  # type: ignore[arg-type]
    ),
    "cpu-only": Described(
        title="No GPU at all.",
        programs=("podman",),
        toolkit="",
        cdi=None,
        stands={
            "driver": "n/a",
            "driver-branch": "n/a",
            "persistence": "n/a",
            "fabric-manager": "n/a",
            "container-toolkit": "n/a",
            "cdi": "n/a",
            "cudnn": "n/a",
        },
    ),
    "no-driver": Described(
        title="GPUs on the bus, and no driver.",
        smi="",
        gpus=Gpus(fabric=("N/A", "N/A"), module="", switches=0),
        stands={"driver": "failed", "persistence": "unknown", "kernel-module": "unknown"},
    ),
    "driver-too-old": Described(
        title="A driver before CUDA 12.1.",
        gpus=Gpus(driver="525.60.13", cuda="12.0", architecture="Ampere", switches=0),
        cdi=None,
        stands={"driver": "failed", "driver-branch": "advised", "cdi": "advised"},
    ),
    "driver-half-updated": Described(
        title="The library is newer than the module that is loaded.",
        gpus=_ONE,
        smi="Failed to initialize NVML: Driver/library version mismatch\n",
        stands={"driver": "failed", "mig": "unknown", "ecc": "unknown", "power-limit": "unknown"},
    ),
    "b200-proprietary": Described(
        title="Blackwell with the module that does not know it.",
        gpus=Gpus(name="NVIDIA B200", architecture="Blackwell", module=CLOSED),
        stands={"kernel-module": "failed"},
    ),
    "b200": Described(
        title="Blackwell with the open module.",
        gpus=Gpus(name="NVIDIA B200", architecture="Blackwell", driver="595.58.03", cuda="13.2"),
        cdi="595.58.03",
        stands={"kernel-module": "ok", "driver": "ok", "driver-branch": "ok"},
    ),
    "gh200-proprietary": Described(
        title="Grace Hopper with the module that does not know it.",
        gpus=Gpus(
            name="NVIDIA GH200 480GB",
            count=1,
            nodes=(0,),
            module=CLOSED,
            fabric=("N/A", "N/A"),
            switches=0,
        ),
        stands={"kernel-module": "failed"},
    ),
    "grace": Described(
        title="An Arm host whose IOMMU translates.",
        gpus=Gpus(
            name="NVIDIA GB200", architecture="Blackwell", count=4, switches=0, iommu="DMA-FQ"
        ),
        files={"/proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\n"},
        stands={"iommu": "advised", "kernel-module": "ok", "fabric-manager": "ok"},
    ),
    "arm-vm": Described(
        title="An Arm virtual machine, which no flag tells.",
        gpus=Gpus(count=2, switches=0, iommu="DMA"),
        files={
            "/proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\n",
            "/sys/class/dmi/id/product_name": "KVM Virtual Machine\n",
        },
        stands={"iommu": "n/a", "acs": "n/a"},
    ),
    "v100": Described(
        title="Volta, which the open module does not know.",
        gpus=Gpus(name="Tesla V100", architecture="Volta", module=CLOSED, count=4, switches=0),
        stands={"kernel-module": "ok"},
    ),
    "a100-proprietary": Described(
        title="Ampere runs with both.",
        gpus=Gpus(name="NVIDIA A100-SXM4-80GB", architecture="Ampere", module=CLOSED),
        stands={"kernel-module": "advised"},
    ),
    "no-fabric-manager": Described(
        title="NVSwitches that nobody has set up.",
        gpus=Gpus(fabric=("In Progress", "N/A")),
        stands={"fabric-manager": "failed"},
    ),
    "hgx-a100-no-fabric-manager": Described(
        title="The same where the driver does not tell of a fabric.",
        gpus=Gpus(architecture="Ampere", fabric=("N/A", "N/A"), switches=6),
        stands={"fabric-manager": "failed"},
    ),
    "hgx-a100": Described(
        title="And with Fabric Manager.",
        gpus=Gpus(architecture="Ampere", fabric=("N/A", "N/A"), switches=6),
        files={"/run/nvidia-fabricmanager/nv-fabricmanager.pid": "123\n"},
        stands={"fabric-manager": "ok"},
    ),
    "mig": Described(
        title="One A100 in seven instances.",
        gpus=Gpus(count=1, nodes=(0,), mig=("Enabled", "Enabled", 7), switches=0),
        stands={"mig": "ok"},
    ),
    "mig-empty": Described(
        title="MIG without an instance.",
        gpus=Gpus(count=1, nodes=(0,), mig=("Enabled", "Enabled", 0), switches=0),
        stands={"mig": "advised"},
    ),
    "mig-pending": Described(
        title="MIG that waits for a reset.",
        gpus=Gpus(count=1, nodes=(0,), mig=("Disabled", "Enabled", 0), switches=0),
        stands={"mig": "advised"},
    ),
    "ecc-off": Described(
        title="Memory errors go unseen.",
        gpus=Gpus(ecc="Disabled"),
        stands={"ecc": "advised"},
    ),
    "ecc-ends": Described(
        title="Memory errors are corrected until the next reset.",
        gpus=Gpus(ecc_pending="Disabled"),
        stands={"ecc": "advised"},
    ),
    "ecc-comes": Described(
        title="Memory errors are corrected from the next reset on.",
        gpus=Gpus(ecc="Disabled", ecc_pending="Enabled"),
        stands={"ecc": "advised"},
    ),
    "remap-pending": Described(
        title="Rows are remapped at the next reset.",
        gpus=Gpus(remap=("Yes", "No")),
        stands={"ecc": "advised"},
    ),
    "remap-failure": Described(
        title="Memory that is to be replaced.",
        gpus=Gpus(remap=("Yes", "Yes")),
        stands={"ecc": "failed"},
    ),
    "geforce": Described(
        title="A card without ECC, MIG or a fabric.",
        gpus=Gpus(
            name="NVIDIA GeForce RTX 4090",
            architecture="Ada Lovelace",
            count=2,
            ecc="N/A",
            mig=("N/A", "N/A", 0),
            fabric=("N/A", "N/A"),
            switches=0,
        ),
        stands={"ecc": "n/a", "mig": "n/a", "fabric-manager": "n/a", "acs": "unknown"},
    ),
    "wsl2": Described(
        title="Linux in Windows.",
        kernel="6.6.87.2-microsoft-standard-WSL2",
        files={"/dev/dxg": "", "/usr/lib/wsl/lib/libcuda.so.1": ""},
        smi=Gpus(count=1, module="", switches=0, fabric=("N/A", "N/A")).smi(),
        stands={"wsl2": "ok", "kernel-module": "n/a", "persistence": "n/a", "driver": "ok"},
        **_VM,  # type: ignore[arg-type]
    ),
    "wsl2-two-drivers": Described(
        title="A driver of Linux's own hides Windows'.",
        kernel="6.6.87.2-microsoft-standard-WSL2",
        files={
            "/dev/dxg": "",
            "/usr/lib/wsl/lib/libcuda.so.1": "",
            "/usr/lib/x86_64-linux-gnu/libcuda.so.1": "",
        },
        stands={"wsl2": "advised"},
        **_VM,  # type: ignore[arg-type]
    ),
    "wsl2-no-driver": Described(
        title="Windows without NVIDIA's driver.",
        kernel="6.6.87.2-microsoft-standard-WSL2",
        stands={"wsl2": "failed"},
        **_VM,  # type: ignore[arg-type]
    ),
    "reserved-pages": Described(
        title="Huge pages that nobody uses, of the command line.",
        pages=(51200, 51200),
        large=(64, 64),
        cmdline="default_hugepagesz=1G hugepagesz=1G hugepages=64",
        stands={"hugepages-2m": "advised", "hugepages-1g": "advised"},
    ),
    "used-pages": Described(
        title="Huge pages that a database uses.",
        pages=(1024, 12),
        stands={"hugepages-2m": "ok", "hugepages-1g": "ok"},
    ),
    "kubernetes": Described(
        title="A node whose kubelet shares CPUs.",
        gpus=Gpus(),
        files={"/var/lib/kubelet/cpu_manager_state": '{"policyName":"none","checksum":1}'},
        stands={"cpu-pinning": "advised"},
    ),
    "kubernetes-static": Described(
        title="A node whose kubelet does not.",
        gpus=Gpus(),
        files={"/var/lib/kubelet/cpu_manager_state": '{"policyName":"static","checksum":1}'},
        stands={"cpu-pinning": "ok"},
    ),
    "intel-pstate": Described(
        title="powersave with a bias to performance, as intel_pstate has it.",
        governor="powersave",
        files={
            f"{_CPU}/cpu{cpu}/cpufreq/energy_performance_preference": "performance\n"
            for cpu in range(8)
        },
        stands={"governor": "ok"},
    ),
    "toolkits": Described(
        title="CUDA and libraries on the host, one newer than its driver knows.",
        gpus=Gpus(cuda="12.8", driver="570.124.06"),
        cdi="570.124.06",
        files={
            "/usr/local/cuda-12.8/version.json": '{"cuda": {"version": "12.8.1"}}',
            "/usr/local/cuda-13.0/version.json": '{"cuda": {"version": "13.0.2"}}',
            "/usr/local/cuda-13/version.json": "{}",
            "/usr/lib/x86_64-linux-gnu/libnccl.so.2.28.3": "",
            "/usr/lib/x86_64-linux-gnu/libcudnn.so.9.14.0": "",
            "/usr/lib/x86_64-linux-gnu/libnvinfer.so.10.13.3": "",
        },
        stands={"cuda-toolkit": "advised", "nccl": "ok", "cudnn": "ok", "tensorrt": "ok"},
    ),
    "rocky9-apptainer": Described(
        title="An HPC node: RPMs, Apptainer, no container toolkit.",
        os=("rocky", "9.6"),
        kernel="5.14.0-570.el9.x86_64",
        gpus=Gpus(),
        programs=(),
        toolkit="",
        cdi=None,
        stands={"os": "ok", "container-toolkit": "n/a", "cdi": "n/a", "kernel": "ok"},
    ),
    "rocky9-docker": Described(
        title="The same with Docker: an RPM's version cannot be read.",
        os=("rocky", "9.6"),
        gpus=Gpus(),
        toolkit="",
        cdi=None,
        stands={"container-toolkit": "unknown", "cdi": "advised"},
    ),
    "unheard-of": Described(
        title="A distribution and a driver that no table here has.",
        os=("nixos", "26.05"),
        gpus=Gpus(driver="999.10.01"),
        cdi="999.10.01",
        stands={"os": "unknown", "driver-branch": "unknown", "driver": "ok"},
    ),
    "empty": Described(
        title="Hardly a file.",
        stands={"cgroup": "ok", "persistence": "n/a"},
        governor=None,
        balancing=None,
        disks={},
        programs=(),
    ),
}

"""Steps that install: NVIDIA's driver, its repositories, the container toolkit, a CUDA toolkit."""

from __future__ import annotations

import datetime
import re

from builder.facts import version_key
from builder.host.check.recorded import version
from builder.host.check.rows import Row, Setting
from builder.host.check.subject import Subject
from builder.host.plan import families
from builder.host.plan.families import System
from builder.host.plan.settings import own
from builder.host.plan.steps import Command, File, Step

# Source: NVIDIA container toolkit, installation guide, with apt, dnf and zypper. apt reads an
# armored key by its ending .asc (sources.list(5), Signed-By), so that no gpg is needed.
_KEY = "/etc/apt/keyrings/nvidia-container-toolkit.asc"
_LIST = "/etc/apt/sources.list.d/nvidia-container-toolkit.list"
_DEB = "/var/cache/apt/archives/cuda-keyring.deb"
_REPO = {
    "dnf": "/etc/yum.repos.d/nvidia-container-toolkit.repo",
    "zypper": "/etc/zypp/repos.d/nvidia-container-toolkit.repo",
}
# Of the driver's packages of that repository it wants none.
_TOOLKIT_ALONE = "/etc/apt/preferences.d/90-imgbuild-cuda-toolkit"
# The first release whose pinning packages and names are those below. NVIDIA driver installation
# guide, recent updates, version locking packages.
_FIRST = 580


def branch_for(subject: Subject, least: str) -> str | None:
    """The branch to install: the oldest that still gets fixes and is new enough, None without one.

    The oldest, since a driver runs everything that an older one does, and distributions take long
    to have the newest.
    """
    floor = version_key(least)[0] if version(least) else 0
    last = subject.book.thresholds.closed_last if closed(subject) else 9999
    found = [
        number
        for number, told in subject.book.branches.items()
        if told.until
        and told.until >= _month(subject.today)
        and told.kind != "new features"
        and max(floor, _FIRST) <= int(number) <= last
    ]
    return min(found, key=int, default=None)


def _month(today: datetime.date) -> str:
    return f"{today:%Y-%m}"


def of_nvidia(subject: Subject) -> bool:
    """Whether an apt host takes drivers from NVIDIA's repository: two sources are one too many."""
    has = subject.host.has
    return has("/usr/share/keyrings/cuda-archive-keyring.gpg") and not has(_TOOLKIT_ALONE)


def holds_branch(system: System) -> bool:
    """Whether this family's packages can be kept at a branch; else the newest is installed."""
    return system.facts.manager == "apt" or (
        system.facts.driver == "dnf" and int(system.major) < 10
    )


def _headers(system: System, subject: Subject) -> str:
    """The package of the headers that a module for the running kernel is built with.

    A kernel's release ends with its flavour, as 6.1.0-28-cloud-amd64 or 6.8.0-1021-aws does. Debian
    has a package of each flavour's newest kernel; of Ubuntu's kernels each one has its own.
    """
    release = subject.host.line("/proc/sys/kernel/osrelease")
    if system.name == "ubuntu":
        found = re.fullmatch(r"\d+\.\d+\.\d+-\d+-[a-z0-9-]{2,30}", release, re.ASCII)
        return f"linux-headers-{found[0] if found else 'generic'}"
    found = re.fullmatch(
        r"[\d.]+(?:\+deb\d+)?(?:-\d+)?-((?:cloud-|rt-)?(?:amd64|arm64))", release, re.ASCII
    )
    return f"linux-headers-{found[1] if found else 'arm64' if system.arm else 'amd64'}"


def closed(subject: Subject) -> bool:
    """Whether a GPU is here that the open kernel module does not know."""
    kinds = {gpu.architecture for gpu in subject.smi.gpus}
    return bool(kinds & set(subject.book.thresholds.closed_only))


def cuda_repository(system: System, row: str) -> Step:
    """NVIDIA's repository of drivers and toolkits, with its key."""
    facts, address = families.table(), system.repository
    if system.facts.manager == "apt":
        deb = f"{address}/{facts.keyring}"
        command = Command(
            check="dpkg -s cuda-keyring 2>/dev/null | grep -q '^Status: .* installed'",
            # Not into /tmp, where others may put a link of that name.
            do=f"curl -fsSL '{deb}' -o {_DEB} && dpkg -i {_DEB} && rm {_DEB}",
        )
    else:
        name = address.rsplit("/", 2)[1]
        folder = "/etc/yum.repos.d" if system.facts.manager == "dnf" else "/etc/zypp/repos.d"
        file = f"{folder}/cuda-{name}.repo"
        command = Command(
            check=f"[ -s {file} ]",
            do=f"curl -fsSL '{address}/cuda-{name}.repo' -o {file}",
            writes=file,
        )
    return Step(
        id="cuda-repository",
        row=row,
        kind="package",
        title="NVIDIA's repository of drivers and toolkits",
        now="not looked for",
        advised=address,
        why="its packages are signed by a key that the keyring package brings; apt-key is gone",
        source="CUDA installation guide for Linux, network repository installation",
        packages=("ca-certificates", "curl"),
        commands=(command,),
    )


def driver(row: Row, system: System, subject: Subject, branch: str) -> tuple[Step, ...]:
    """The driver of a branch, by the distribution's method."""
    is_open = not closed(subject)
    package = "nvidia-open" if is_open else "cuda-drivers"
    settings = tuple(one for one in row.settings if one.kind == "package")
    kind = "open kernel modules" if is_open else "the proprietary kernel module"
    step = Step(
        id="driver",
        row=row.id,
        kind="package",
        title=row.title,
        now=row.now,
        advised=f"R{branch}, {kind}",
        why=row.why,
        source=system.facts.source,
        settings=settings,
        reboot=True,
        note="" if is_open else "Maxwell, Pascal and Volta need the proprietary module",
    )
    if system.facts.driver == "ubuntu-drivers" and not of_nvidia(subject):
        flavour = f"{branch}-server{'-open' if is_open else ''}"
        # ubuntu-drivers picks the modules that Canonical has built and signed for the kernel.
        command = Command(
            check=f"dpkg -l 'nvidia-*{flavour}' 2>/dev/null | grep -q '^ii'",
            do=f"ubuntu-drivers install --gpgpu nvidia:{flavour}",
        )
        more = (
            Step(
                id="driver-utilities",
                row=row.id,
                kind="package",
                title="nvidia-smi of the same driver",
                now="not looked for",
                advised=f"nvidia-utils-{branch}-server",
                why="ubuntu-drivers installs libraries and modules for computing alone",
                source=system.facts.source,
                packages=(f"nvidia-utils-{branch}-server",),
            ),
        )
        tools = _with(step, packages=("ubuntu-drivers-common",), commands=(command,))
        return (tools, *more)
    repository = cuda_repository(system, row.id)
    if system.facts.manager == "apt":
        # The pin comes first: it says which branch the other package is of.
        pin = _with(
            step,
            id="driver-branch-pin",
            title="driver's branch",
            now="any",
            advised=f"R{branch}",
            packages=(f"nvidia-driver-pinning-{branch}",),
        )
        packages = (_headers(system, subject), package)
        return (repository, pin, _with(step, packages=packages))
    if holds_branch(system):
        stream = f"{branch}-open" if is_open else f"{branch}-dkms"
        module = Command(
            check=f"dnf -q module list --enabled nvidia-driver 2>/dev/null | grep -q ' {stream} '",
            do=f"dnf -y module reset nvidia-driver && dnf -y module enable nvidia-driver:{stream}",
            undo="dnf -y module reset nvidia-driver",
        )
        enabled = _with(
            step,
            id="driver-branch-pin",
            title="driver's branch",
            now="any",
            advised=f"module stream {stream}",
            commands=(module,),
        )
        return (repository, enabled, _with(step, packages=(package,)))
    # No stream and no pin here: what is newest is installed.
    newest = f"the newest, R{branch} at least, {kind}"
    note = f"{step.note} `dnf versionlock` or `zypper addlock` holds a branch".strip()
    return (repository, _with(step, packages=(package,), advised=newest, note=note))


def _with(step: Step, **fields: object) -> Step:
    return Step(**{**step.__dict__, **fields})


def container_toolkit(row: Row, system: System, subject: Subject) -> tuple[Step, ...]:
    """The container toolkit of NVIDIA's repository of today, and Docker's runtime."""
    address, manager = families.table().toolkit, system.facts.manager
    if manager == "apt":
        arch = "arm64" if system.arm else "amd64"
        line = f"deb [signed-by={_KEY}] {address}/stable/deb/{arch} /\n"
        files: tuple[File, ...] = (File(path=_LIST, content=own("container-toolkit") + line),)
        key = Command(
            check=f"[ -s {_KEY} ]", do=f"curl -fsSL {address}/gpgkey -o {_KEY}", writes=_KEY
        )
        commands: tuple[Command, ...] = (key,)
    else:
        repo = _REPO[manager]
        files = ()
        commands = (
            Command(
                check=f"[ -s {repo} ]",
                do=f"curl -fsSL {address}/stable/rpm/nvidia-container-toolkit.repo -o {repo}",
                writes=repo,
            ),
        )
    repository = Step(
        id="container-toolkit-repository",
        row=row.id,
        kind="package",
        title="NVIDIA's repository of the container toolkit",
        now="not looked for",
        advised=f"{address}/stable",
        why="one repository for all distributions, with a key of its own for apt",
        source="NVIDIA container toolkit, installation guide",
        packages=("ca-certificates", "curl"),
        files=files,
        commands=commands,
    )
    (setting,) = (one for one in row.settings if one.kind == "package")
    install = Step(
        id="container-toolkit",
        row=row.id,
        kind="package",
        title=row.title,
        now=row.now,
        advised=row.advised,
        why=row.why,
        source=row.source,
        settings=(setting,),
        packages=(f"nvidia-container-toolkit>={subject.book.thresholds.toolkit}",),
        note=_others(subject),
    )
    docker = "/etc/docker/daemon.json"
    if not _has(subject, "dockerd"):
        return (repository, install)
    runtime = Step(
        id="container-toolkit-docker",
        row=row.id,
        kind="package",
        title="Docker's runtime for GPUs",
        now="not looked for",
        advised="nvidia",
        why="docker run --gpus asks for it",
        source="NVIDIA container toolkit, installation guide, configuring Docker",
        commands=(
            Command(
                check=f"grep -q nvidia-container-runtime {docker}",
                do="nvidia-ctk runtime configure --runtime=docker",
                writes=docker,
            ),
        ),
        note="restart Docker when its containers may stop: systemctl restart docker",
    )
    return (repository, install, runtime)


def _has(subject: Subject, program: str) -> bool:
    return any(subject.host.has(f"{at}/{program}") for at in ("/usr/bin", "/usr/sbin"))


def _others(subject: Subject) -> str:
    """What is left to do for engines of Kubernetes, whose nodes are drained first."""
    found = [name for name in ("containerd", "crio") if _has(subject, name)]
    if not found or _has(subject, "dockerd"):  # Docker brings a containerd of its own
        return ""
    name = found[0]
    return (
        f"for {name}, on a drained node and without the GPU Operator, which does it: nvidia-ctk"
        f" runtime configure --runtime={name} && systemctl restart {name}"
    )


def cuda_toolkit(
    wanted: str, system: System, subject: Subject, *, repository: bool
) -> tuple[Step, ...]:
    """A CUDA toolkit on the host, which images do without; never the driver that comes with one."""
    package = f"cuda-toolkit-{wanted.replace('.', '-')}"
    files: tuple[File, ...] = ()
    if system.facts.driver == "ubuntu-drivers" and not of_nvidia(subject):
        # Its repository has drivers, too, and they would take the place of Ubuntu's.
        pin = (
            "Package: nvidia-* libnvidia-* cuda-drivers* xserver-xorg-video-nvidia-*\n"
            "Pin: origin developer.download.nvidia.com\n"
            "Pin-Priority: -1\n"
        )
        files = (File(path=_TOOLKIT_ALONE, content=own("cuda-toolkit") + pin),)
    step = Step(
        id="cuda-toolkit",
        row="cuda-toolkit",
        kind="package",
        title="CUDA toolkit",
        now="none that is needed",
        advised=wanted,
        why="it was asked for; images bring the CUDA that they were built with",
        source="CUDA installation guide for Linux, meta packages",
        settings=(Setting(kind="package", name="cuda-toolkit", value=wanted),),
        files=files,
        packages=(package,),
    )
    return (cuda_repository(system, "cuda-toolkit"), step) if repository else (step,)

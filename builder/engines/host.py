"""What this host lacks that engines take for granted, noticed and not assumed."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import tempfile
from pathlib import Path

from builder.facts import MACHINES

_CAP_SYS_RESOURCE = 24  # bit of linux/capability.h


def is_root() -> bool:
    """Whether engines run as root here."""
    return os.geteuid() == 0


def lacks_sys_resource(status: Path = Path("/proc/self/status")) -> bool:
    """Whether root may not raise its own limits here, which engines try for every container."""
    try:
        text = status.read_text()
    except OSError:
        return False
    for line in text.splitlines():
        if line.startswith("CapEff:"):
            return not int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1
    return False


def machine() -> str:
    """This machine's CPU, as OCI images name it."""
    name = platform.machine()
    return next((arch for arch, machine in MACHINES.items() if machine == name), name)


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers on this host."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()  # the latter under WSL2


def has_tpu() -> bool:
    """Whether this is a TPU VM: their chips are /dev/accel*, on newer generations VFIO groups."""
    if Path("/dev/accel0").exists():
        return True
    return _GOOGLE.is_file() and "Google" in _GOOGLE.read_text() and Path("/dev/vfio/0").exists()


_GOOGLE = Path("/sys/class/dmi/id/product_name")


def free_port() -> int:
    """A TCP port that nothing listens on now; the caller takes it at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cache_dir() -> Path:
    """imgbuild's folder for what it can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "imgbuild"


def state_dir() -> Path:
    """imgbuild's folder for logs."""
    return Path(os.environ.get("XDG_STATE_HOME") or _home() / ".local/state") / "imgbuild"


def aside(file: Path) -> Path:
    """Where to write a file until it is whole: beside it, by a name that nobody else has.

    Threads share a process, and hosts of a shared folder count their processes alike.
    """
    return file.with_name(f".{file.name}.{os.urandom(8).hex()}.partial")


def _home() -> Path:
    """This user's home; CI runs things as users that nobody has heard of, without one."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"imgbuild-home-{os.getuid()}"


def containers_conf() -> str | None:
    """A containers.conf for Buildah and Podman on this host, or None when their own will do.

    Without CAP_SYS_RESOURCE their default limits fail ("error setting rlimits: operation not
    permitted"), so ours are the ones we have. crun refuses hybrid cgroups, which runc takes.
    """
    if not (is_root() and lacks_sys_resource()):
        return None
    files = _limit(resource.RLIMIT_NOFILE)
    # Buildah and Podman lower their own hard limit to the number of pids that the kernel has.
    processes = min(_limit(resource.RLIMIT_NPROC), _pid_max())
    text = "[containers]\n"
    text += f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
    if shutil.which("runc"):
        text += '[engine]\nruntime = "runc"\n'
    return text


def _pid_max() -> int:
    try:
        return int(Path("/proc/sys/kernel/pid_max").read_text())
    except (OSError, ValueError):
        return 32768  # the kernel's default


def _limit(which: int) -> int:
    hard = resource.getrlimit(which)[1]
    return 1048576 if hard == resource.RLIM_INFINITY else hard


def containers_env() -> dict[str, str]:
    """Variables for Buildah, Podman and Skopeo that keep this host's traps from them."""
    env: dict[str, str] = {}
    folder = cache_dir()
    if not is_root():
        # Old versions fall back to vfs, where every layer is a full copy of those below.
        env["STORAGE_DRIVER"] = os.environ.get("STORAGE_DRIVER", "overlay")
        # They keep cache mounts below TMPDIR, and the usual one is somebody else's.
        own = folder / "tmp"
        own.mkdir(parents=True, exist_ok=True)
        env["TMPDIR"] = os.environ.get("TMPDIR", str(own))
    if "CONTAINERS_CONF" not in os.environ and (text := containers_conf()):
        folder.mkdir(parents=True, exist_ok=True)
        conf = folder / "containers.conf"
        if not conf.is_file() or conf.read_text() != text:
            conf.write_text(text)
        env["CONTAINERS_CONF"] = str(conf)
    docker = os.environ.get("DOCKER_CONFIG")
    if docker and not (Path(docker) / "config.json").is_file():
        # They fail on a DOCKER_CONFIG that has no config.json.
        (folder / "docker").mkdir(parents=True, exist_ok=True)
        (folder / "docker" / "config.json").write_text("{}\n")
        env["DOCKER_CONFIG"] = str(folder / "docker")
    return env


def apptainer_env() -> dict[str, str]:
    """Variables for Apptainer: as root it asks for all capabilities, also one we do not have."""
    if is_root() and lacks_sys_resource():
        return {"APPTAINER_DROP_CAPS": "CAP_SYS_RESOURCE"}
    return {}

"""Debian and Ubuntu in a folder: bootstrapped with their own packages, entered with chroot.

Real are apt, dpkg, systemctl, udevadm, update-grub, and the distribution's packages. Stand-ins are
what no test can have here: NVIDIA's repository (a folder of made packages, beside them Ubuntu's
driver with the program that picks it, and headers, which bring a compiler), curl (for keys),
nvidia-smi, nvidia-ctk, grub-probe (a folder is no disk), the running kernel's files (a folder, as
they would be this host's own) and the init system, which systemctl leaves alone in a chroot: units
are enabled there, and not started.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder import matrix as matrices
from builder import site
from builder.facts import Archive
from builder.site import apt
from tests.integration.conftest import engine
from tests.unit.support import ROOT

# As matrix.yaml and as os-release name them.
RELEASES = {
    "debian12": ("debian", "12"),
    "debian13": ("debian", "13"),
    "ubuntu24.04": ("ubuntu", "24.04"),
}
# What hosts have beside the smallest system.
_INCLUDED = ("apt", "grub2-common", "kmod", "procps", "systemd", "udev")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Caches, logs and what is no file of the system; files below /kernel and /srv are ours.
_PRUNED = (
    *("proc", "sys", "dev", "run", "tmp", "srv", "kernel"),
    *("var/cache", "var/log", "var/lib/apt/lists"),
)

_CTK = """\
#!/bin/sh
case "$1" in
cdi) mkdir -p /etc/cdi && echo "nvidia.com/gpu libcuda.so.580.95.05" > /etc/cdi/nvidia.yaml ;;
runtime) mkdir -p /etc/docker && echo nvidia-container-runtime > /etc/docker/daemon.json ;;
esac
"""
_UBUNTU_DRIVERS = """\
#!/bin/sh
[ "$*" = "install --gpgpu nvidia:580-server-open" ] || exit 3
exec apt-get -y install nvidia-headless-580-server-open
"""
_UNIT = """\
[Unit]
Description=made
[{}]
{}
[Install]
WantedBy=multi-user.target
"""
_SERVICE = _UNIT.format("Service", "ExecStart=/bin/true")
_WATCH = _UNIT.format("Path", "PathChanged=/lib/modules")
_UBUNTU_KEYS = "usr/share/keyrings/ubuntu-archive-keyring.gpg"
_SYSTEMD = "/usr/lib/systemd/system"


@dataclass(frozen=True)
class Made:
    """A package of NVIDIA's repository, by its name and what matters of it here."""

    name: str
    version: str = "1.0"
    depends: str = ""
    files: tuple[tuple[str, str, int], ...] = ()
    may_fail: bool = False  # where a file below /srv says so


MADE = (
    Made(
        "cuda-keyring",
        files=(("/usr/share/keyrings/cuda-archive-keyring.gpg", "key\n", 0o644),),
    ),
    Made("nvidia-driver-pinning-580", "580"),
    Made(
        "nvidia-open",
        "580.95.05",
        "nvidia-kernel-open-dkms, nvidia-persistenced",
        may_fail=True,
    ),
    Made("needs-nvidia-persistenced", depends="nvidia-persistenced"),
    Made("needs-nvidia-firmware-580-server", depends="nvidia-firmware-580-server"),
    Made("nvidia-kernel-open-dkms", "580.95.05"),
    Made(
        "nvidia-persistenced",
        "580.95.05",
        files=((f"{_SYSTEMD}/nvidia-persistenced.service", _SERVICE, 0o644),),
    ),
    Made("linux-headers-amd64", "99"),  # Debian's own bring a compiler
    Made("linux-headers-cloud-amd64", "99"),
    Made("nvidia-container-toolkit", "1.18.1-1", "nvidia-container-toolkit-base"),
    Made(
        "nvidia-container-toolkit-base",
        "1.18.1-1",
        files=(
            ("/usr/bin/nvidia-ctk", _CTK, 0o755),
            (f"{_SYSTEMD}/nvidia-cdi-refresh.service", _SERVICE, 0o644),
            (f"{_SYSTEMD}/nvidia-cdi-refresh.path", _WATCH, 0o644),
        ),
    ),
    # Newer than Ubuntu's own, by their epoch.
    Made(
        "ubuntu-drivers-common",
        "99:1",
        files=(("/usr/bin/ubuntu-drivers", _UBUNTU_DRIVERS, 0o755),),
    ),
    Made("nvidia-headless-580-server-open", "99:1", "nvidia-firmware-580-server", may_fail=True),
    Made("nvidia-firmware-580-server", "99:1"),
    Made("nvidia-utils-580-server", "99:1"),
    Made("cuda-toolkit-13-0", "13.0.2-1", "cuda-nvcc-13-0"),
    Made("cuda-nvcc-13-0", "13.0.2-1"),
)

STANDINS = {
    # The last word is the file to write.
    "curl": """\
#!/bin/sh
for word; do :; done
case "$*" in
*cuda-keyring*) cp /srv/nvidia/cuda-keyring.deb "$word" ;;
*) echo key > "$word" ;;
esac
""",
    "nvidia-smi": """\
#!/bin/sh
case "$*" in
*--query-gpu=ecc*) [ -e "/srv/ecc-$2" ] && echo Enabled || echo Disabled ;;
*--ecc-config=1) : > "/srv/ecc-$2" ;;
*--ecc-config=0) rm -f "/srv/ecc-$2" ;;
esac
""",
    "grub-probe": """\
#!/bin/sh
case "$*" in
*target=device*) echo /dev/vda1 ;;
*target=fs_uuid*) echo 01234567-89ab-cdef-0123-456789abcdef ;;
*target=fs*) echo ext2 ;;
*target=abstraction*) ;;
*target=partmap*) echo gpt ;;
*) echo none ;;
esac
""",
}


class CannotError(Exception):
    """The distribution's archive is not to be reached, or mmdebstrap fails."""


class Root:
    """A bootstrapped system below a folder."""

    def __init__(self, release: str, folder: Path) -> None:
        self.system = RELEASES[release]
        self.folder = folder / "root"
        self.folder.mkdir()
        self._bootstrap(release, folder)

    def _bootstrap(self, release: str, folder: Path) -> None:
        engine("bootstrap")
        loaded = matrices.load(ROOT / "matrix.yaml")
        archive, debian = loaded.os[release].archive, loaded.os["debian13"].archive
        assert archive is not None
        assert debian is not None
        profile = site.discover()
        options = [f"--aptopt={one.rstrip(';')}" for one in profile.apt_options]
        options += [f'--aptopt=Acquire::https::CAInfo "{profile.ca}"'] if profile.ca else []
        # What no test reads, and what takes time: translations, and waiting for the disk.
        options += ['--aptopt=Acquire::Languages "none"', "--dpkgopt=force-unsafe-io"]
        options += [
            f"--dpkgopt=path-exclude=/usr/share/{one}/*" for one in ("doc", "man", "locale")
        ]
        tar = folder / "root.tar"

        def bootstrap(archive: Archive, file: Path, *args: str) -> None:
            done = subprocess.run(
                [
                    *("mmdebstrap", "--quiet", *args, *options, archive.suite, str(file)),
                    *apt.lines(archive, profile.apt_sources),
                ],
                env={**os.environ, **profile.proxies},
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
            if done.returncode != 0:
                raise CannotError(f"{release} cannot be bootstrapped: {done.stderr[-500:]}")

        args = ["--variant=minbase", f"--include={','.join(_INCLUDED)}"]
        with tempfile.TemporaryDirectory() as temporary:
            if self.system[0] == "ubuntu" and not Path("/", _UBUNTU_KEYS).exists():
                keys = folder / "keys.tar"
                bootstrap(debian, keys, "--variant=extract", "--include=ubuntu-keyring")
                subprocess.run(
                    ["tar", "-C", temporary, "-xf", keys, f"./{_UBUNTU_KEYS}"], check=True
                )
                Path(temporary).chmod(0o755)  # apt reads them as somebody else
                args.append(f"--keyring={temporary}/{_UBUNTU_KEYS}")
            bootstrap(archive, tar, *args)
        subprocess.run(["tar", "-C", self.folder, "-xf", tar], check=True)
        tar.unlink()
        self._furnish()

    def _furnish(self) -> None:
        """Stand-ins, NVIDIA's packages, and a kernel that grub can name."""
        for name, text in STANDINS.items():
            folder = "/usr/sbin" if name == "grub-probe" else "/usr/local/sbin"
            self.write(f"{folder}/{name}", text, 0o755)
        self.write("/boot/vmlinuz-6.1.0-1-amd64", "a kernel\n")
        self.write("/boot/grub/grub.cfg", "")
        self.write("/etc/default/grub", 'GRUB_CMDLINE_LINUX_DEFAULT="quiet isolcpus=1-31"\n')
        # A connection that is refused at once, where NVIDIA's servers are; apt asks three times.
        self.write("/etc/apt/apt.conf.d/99made", 'Acquire::Retries::Delay "false";\n')
        hosts = "127.0.0.1 localhost developer.download.nvidia.com nvidia.github.io\n"
        self.write("/etc/hosts", hosts)
        self.write("/etc/resolv.conf", Path("/etc/resolv.conf").read_text())
        self.write("/etc/apt/sources.list.d/made.list", "deb [trusted=yes] file:/srv/nvidia ./\n")
        for one in MADE:
            self._package(one)
        self.run(
            "cd /srv/nvidia && for name in *; do [ ! -d $name ] ||"
            " dpkg-deb --root-owner-group -b $name $name.deb > /dev/null; done"
        )
        entries = []
        for one in MADE:
            deb = (self.folder / f"srv/nvidia/{one.name}.deb").read_bytes()
            entries.append(
                _control(one) + f"Filename: ./{one.name}.deb\nSize: {len(deb)}\n"
                f"SHA256: {hashlib.sha256(deb).hexdigest()}\n"
            )
        self.write("/srv/nvidia/Packages", "\n".join(entries))
        self.run("apt-get -qq update")
        # What the first update-grub writes is not the plan's.
        self.run("update-grub")

    def _package(self, one: Made) -> None:
        folder = f"/srv/nvidia/{one.name}"
        self.write(f"{folder}/DEBIAN/control", _control(one))
        if one.may_fail:
            text = f"#!/bin/sh\n[ ! -e /srv/fail-{one.name} ]\n"
            self.write(f"{folder}/DEBIAN/postinst", text, 0o755)
        for path, text, mode in one.files:
            self.write(f"{folder}{path}", text, mode)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def read(self, path: str) -> str:
        return (self.folder / path.lstrip("/")).read_text()

    def run(self, script: str, env: Mapping[str, str] | None = None) -> str:
        """What a script prints inside; its errors fail the test."""
        # No namespace of processes: systemctl sees by the first one that this is a chroot.
        enter = 'mount -t proc proc "$0/proc" && exec chroot "$0" sh'
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", enter, str(self.folder)],
            input=script,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def remove(self) -> None:
        """All of it; whatever is mounted there is mounted for `run` alone."""
        shutil.rmtree(self.folder)

    def tree(self) -> dict[str, str]:
        """Every file with its mode, owner, and hash or target."""
        found = {}
        pruned = {self.folder / path for path in _PRUNED}
        for folder, folders, files in os.walk(self.folder):
            here = Path(folder)
            folders[:] = [name for name in folders if here / name not in pruned]
            for name in (*folders, *files):
                path = here / name
                state = path.lstat()
                what = f"{state.st_mode:o} {state.st_uid}:{state.st_gid}"
                if path.is_symlink():
                    what += f" -> {path.readlink()}"
                elif path.is_file():
                    what += f" {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
                found[f"/{path.relative_to(self.folder)}"] = what
        return found


def _control(one: Made) -> str:
    depends = f"Depends: {one.depends}\n" if one.depends else ""
    return (
        f"Package: {one.name}\nVersion: {one.version}\nArchitecture: all\n{depends}"
        "Maintainer: nobody <nobody@example.com>\nDescription: made for a test\n"
    )


def difference(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Paths that differ, with both."""
    return {
        path: f"{old.get(path, 'not there')} | {new.get(path, 'not there')}"
        for path in sorted({*old, *new})
        if old.get(path) != new.get(path)
    }

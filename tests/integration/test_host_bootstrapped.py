"""`imgbuild host` on bootstrapped systems: its script applied twice and taken back, a check inside.

What is real there and what is a stand-in says `bootstrapped`. The running kernel that is told is
that of a described host with GPUs, below /kernel.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import matrix as matrices
from builder.engines import host
from builder.facts import Matrix
from builder.host.plan import Wishes, formats
from tests.integration.bootstrapped import RELEASES, CannotError, Root, difference
from tests.integration.conftest import engine
from tests.unit import planned_hosts
from tests.unit.checked_hosts import Described
from tests.unit.support import ROOT

pytestmark = pytest.mark.engine
KERNEL = {"KERNEL": "/kernel"}
# What apt and dpkg remember of their last run, and nothing that is installed.
MEMORY = {"/var/lib/apt/extended_states", "/var/lib/dpkg/status-old"}


# What the driver's steps install, with what that needs.
DRIVERS = {
    "debian": {
        *("nvidia-open", "nvidia-kernel-open-dkms", "nvidia-driver-pinning-580"),
        "linux-headers-amd64",
    },
    "ubuntu": {
        "nvidia-headless-580-server-open",
        "nvidia-firmware-580-server",
        "nvidia-utils-580-server",
    },
}
# Of each the last that is installed, and one that comes with it.
LAST = {
    "debian": ("nvidia-open", "nvidia-persistenced"),
    "ubuntu": ("nvidia-headless-580-server-open", "nvidia-firmware-580-server"),
}


# Two of them are in `make test`; the third would take it past five minutes.
SYSTEMS = [
    pytest.param(name, marks=pytest.mark.slow) if name == "ubuntu24.04" else name
    for name in RELEASES
]


@pytest.fixture(scope="module", params=SYSTEMS)
def release(request: pytest.FixtureRequest) -> str:
    """A system, as matrix.yaml names it; what concerns none in particular is tried on one."""
    return str(request.param)


@pytest.fixture(scope="module")
def root(release: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """It, bootstrapped; each test leaves it as it was."""
    why = "chroot needs an administrator: run the tests as root" if os.geteuid() else ""
    folder = tmp_path_factory.mktemp(release)
    try:
        made = Root(release, folder) if not why else None
    except CannotError as cannot:
        made, why = None, str(cannot)
    if made is None and os.environ.get("IMGBUILD_TEST_ENGINES") == "skip":
        pytest.skip(why)
    if made is None:
        pytest.fail(f"{why} (or set IMGBUILD_TEST_ENGINES=skip)", pytrace=False)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    """The committed matrix."""
    return matrices.load(ROOT / "matrix.yaml")


class Scripts:
    """The scripts of a described host's plan, and the host's kernel below /kernel."""

    def __init__(
        self, root: Root, described: Described, matrix: Matrix, wishes: Wishes | None = None
    ) -> None:
        self.root = root
        root.run("rm -rf /kernel")
        plan = planned_hosts.made(described, root.folder / "kernel", matrix, wishes)
        self.apply, self.undo = formats.FORMATS["sh"](plan), formats.undo(plan)

    def kernel(self) -> dict[str, str]:
        """What its files hold: of "a [b] c", which a real kernel answers, b."""
        found = {}
        for file in sorted((self.root.folder / "kernel").rglob("*")):
            if file.is_file() and file.suffix != ".xml":
                text = file.read_bytes().decode(errors="replace").strip()
                found[str(file)] = text.partition("[")[2].partition("]")[0] or text
        return found


def described(root: Root, kind: str) -> Described:
    make = {"untuned": planned_hosts.untuned, "bare": planned_hosts.bare}[kind]
    kernel = {"ubuntu": "6.8.0-87-generic"}.get(root.system[0], "6.1.0-28-amd64")
    return dataclasses.replace(make(root.system[0]), os=root.system, kernel=kernel)


@pytest.mark.parametrize("kind", ["untuned", "bare"])
def test_the_script_is_idempotent_and_taken_back(kind: str, root: Root, matrix: Matrix) -> None:
    wishes = planned_hosts.WISHES if kind == "untuned" else None
    scripts = Scripts(root, described(root, kind), matrix, wishes)
    before, kernel = root.tree(), scripts.kernel()

    told = root.run(scripts.apply, KERNEL)
    assert "steps have changed something" in told
    after = root.tree()
    installed = root.run("dpkg-query -W -f '${Package}\\n'").split()
    if kind == "untuned":
        grub = root.read("/boot/grub/grub.cfg")
        lines = [line for line in grub.splitlines() if line.strip().startswith("linux\t")]
        assert lines
        for line in lines:
            for word in ("iommu=pt", "systemd.unified_cgroup_hierarchy=1"):
                assert f" {word} " in f"{line} ", line
            assert " hugepagesz=1G hugepages=8 hugepagesz=2M hugepages=1024 " in f"{line} "
            assert "isolcpus" not in line
        assert {"cuda-toolkit-13-0", "nvidia-container-toolkit", "curl"} <= {*installed}
        units = root.folder / "etc/systemd/system/multi-user.target.wants"
        assert {"imgbuild-mig.service", "imgbuild-shm.service", "nvidia-cdi-refresh.path"} <= {
            path.name for path in units.iterdir()
        }
        root.run("! udevadm verify --help || udevadm verify /etc/udev/rules.d/*imgbuild*")
        root.run("for file in /etc/tmpfiles.d/*imgbuild*; do systemd-tmpfiles --cat-config; done")
    else:
        assert DRIVERS[root.system[0]] <= {*installed}

    assert root.run(scripts.apply, KERNEL).splitlines()[-1] == "nothing to change"
    assert difference(after, root.tree()) == {}

    told = root.run(scripts.undo, KERNEL)
    assert "left" not in told
    assert "it failed" not in told
    left = difference(before, root.tree())
    assert {path: how for path, how in left.items() if path not in MEMORY} == {}
    assert scripts.kernel() == kernel
    assert root.run(scripts.undo, KERNEL) == "nothing to undo\n"


@pytest.mark.parametrize("release", ["debian13"], indirect=True)
def test_what_others_need_is_left(root: Root, matrix: Matrix) -> None:
    """apt would remove a package that was installed since, with what it needs."""
    scripts = Scripts(root, described(root, "bare"), matrix)
    last, brought = LAST[root.system[0]]
    root.run(scripts.apply, KERNEL)
    root.run(f"apt-get -y install needs-{brought}")
    told = root.run(scripts.undo, KERNEL)
    assert "packages that others need were left" in told
    there = root.run("dpkg-query -W -f '${db:Status-Status} ${Package}\\n'").splitlines()
    assert {f"installed {brought}", f"installed needs-{brought}"} <= {*there}
    assert f"installed {last}" not in there
    root.run(f"dpkg --purge needs-{brought} {brought}")


@pytest.mark.parametrize("release", ["debian13"], indirect=True)
def test_what_came_before_a_package_failed_is_taken_back(root: Root, matrix: Matrix) -> None:
    """A package's own script fails: what came with it is undo's to remove all the same."""
    scripts = Scripts(root, described(root, "bare"), matrix)
    last, _ = LAST[root.system[0]]
    before = root.tree()
    root.write(f"/srv/fail-{last}", "")
    told = root.run(f"sh -s << 'THE_PLAN' && exit 1 || exit 0\n{scripts.apply}\nTHE_PLAN", KERNEL)
    assert "steps have changed" not in told
    (root.folder / f"srv/fail-{last}").unlink()
    root.run(scripts.undo, KERNEL)
    left = difference(before, root.tree())
    assert {path: how for path, how in left.items() if path not in MEMORY} == {}


@pytest.mark.parametrize("release", ["debian13"], indirect=True)
@pytest.mark.parametrize("command", ["check", "record", "plan"])
def test_in_a_container(command: str, root: Root) -> None:
    """Python and imgbuild are this host's, mounted; system, limits and /dev are the container's."""
    engine("buildah")  # and podman
    mounts = sorted({"/usr", sys.prefix, sys.base_prefix, str(ROOT)})
    args = {"check": ["--json"], "record": ["/tmp/recorded"], "plan": ["--rows", "shm"]}[command]
    done = subprocess.run(
        [
            *("podman", "run", "--rm", "--network", "none", "--shm-size", "64m"),
            *(word for path in mounts for word in ("--volume", f"{path}:{path}:ro")),
            *("--env", "PYTHONDONTWRITEBYTECODE=1", "--rootfs", str(root.folder)),
            str(Path(sys.executable).with_name("imgbuild")),
            *("host", command, "--file", str(ROOT / "matrix.yaml"), *args),
        ],
        env={**os.environ, **host.containers_env()},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if command == "check":
        told = json.loads(done.stdout)
        assert told["container"] == "Podman"
        rows = {row["id"]: row for row in told["rows"]}
        assert rows["shm"]["status"] == "advised"
        assert rows["shm"]["now"] == "64 MiB"
        assert rows["driver"]["status"] == "n/a"
        assert rows["kernel"]["now"] == os.uname().release
    elif command == "plan":
        assert "in a container of Podman: this is no plan of the host below it" in done.stderr
        assert "step shm " in done.stdout
    else:
        assert "imgbuild host check --root /tmp/recorded" in done.stdout

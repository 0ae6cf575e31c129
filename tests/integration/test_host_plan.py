"""The scripts of `imgbuild host plan`: shellcheck, applied twice to folders of each family, undone.

A recorded host is a folder with a system's files and the kernel's: the script changes it, and
`host check` sees the change. Programs that a family's script calls are stand-ins that remember.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from builder import matrix as matrices
from builder.facts import Matrix
from builder.host import check
from builder.host.check import Host
from builder.host.plan import Plan, Wishes, formats
from tests.unit import planned_hosts
from tests.unit.checked_hosts import HOSTS, unpack
from tests.unit.support import ROOT

SHELLCHECK = Path(sys.executable).with_name("shellcheck")
# Words that a program is told to have or not to have, one a line in a file of its own.
STANDIN = """\
#!/bin/sh
me=${0##*/}
echo "$me $*" >> "$FAKE/log"
has() { [ -f "$FAKE/$1" ] && grep -qxF -- "$2" "$FAKE/$1"; }
put() { has "$1" "$2" || echo "$2" >> "$FAKE/$1"; }
out() { [ ! -f "$FAKE/$1" ] || { grep -vxF -- "$2" "$FAKE/$1" > "$FAKE/$1.new" || :
    mv "$FAKE/$1.new" "$FAKE/$1"; }; }
last() { for word; do :; done; echo "$word"; }
case "$me $*" in
"grubby --info=DEFAULT") echo "args=\\"ro $(cat "$FAKE/args" 2>/dev/null)\\"" ;;
"grubby --update-kernel=ALL --args="*)
    echo "$(cat "$FAKE/args" 2>/dev/null) ${2#--args=}" | sed 's/^ //' > "$FAKE/args.new"
    mv "$FAKE/args.new" "$FAKE/args" ;;
"grubby --update-kernel=ALL --remove-args="*)
    all=" $(cat "$FAKE/args") "
    for word in ${2#--remove-args=}; do
        all=$(printf '%s' "$all" | sed "s| $word | |g")
    done
    echo $all > "$FAKE/args" ;;
"pbl --get-option "*) grep "^$2=" "$FAKE/args" || : ;;
"pbl --add-option "*)
    { grep -v "^${2%%=*}=" "$FAKE/args" || :; } > "$FAKE/args.new"
    echo "$2" >> "$FAKE/args.new"; sort "$FAKE/args.new" > "$FAKE/args" ;;
"pbl --del-option "*)
    { grep -v "^$2=" "$FAKE/args" || :; } > "$FAKE/args.new"; mv "$FAKE/args.new" "$FAKE/args" ;;
"systemctl is-enabled "*)
    unit=$(last "$@")
    if [ -f "$FAKE/state-$unit" ]; then cat "$FAKE/state-$unit"; exit 1; fi
    if has units "$unit"; then echo enabled; else echo disabled; exit 1; fi ;;
"systemctl is-active "*) has started "$(last "$@")" ;;
"systemctl enable "*) put units "$(last "$@")" ;;
"systemctl disable "*) out units "$(last "$@")" ;;
"systemctl start nvidia-cdi-refresh.service") exit 5 ;;
"systemctl start "*) ! has broken "$(last "$@")" && put started "$(last "$@")" ;;
"systemctl stop "*) out started "$(last "$@")" ;;
"nvidia-ctk cdi "*)
    mkdir -p "$ROOT/etc/cdi"
    echo "nvidia.com/gpu libcuda.so.580.95.05" > "$ROOT/etc/cdi/nvidia.yaml" ;;
"nvidia-ctk runtime "*)
    mkdir -p "$ROOT/etc/docker"; echo nvidia-container-runtime > "$ROOT/etc/docker/daemon.json" ;;
"nvidia-smi -i "*"--query-gpu"*) if has ecc "$2"; then echo Enabled; else echo Disabled; fi ;;
"nvidia-smi -i "*"--ecc-config=1") put ecc "$2" ;;
"nvidia-smi -i "*"--ecc-config=0") out ecc "$2" ;;
"dpkg-query -W -f="*"Package}"*) sed 's/^/installed /' "$FAKE/packages" 2>/dev/null || : ;;
"dpkg-query -W -f="*) has packages "$3" && echo "installed 99.1" ;;
"dpkg -s "*) has packages "$2" && echo "Status: install ok installed" ;;
"dpkg -l "*) has packages driver && echo "ii  nvidia-headless-580-server-open" ;;
"dpkg -i "*) put packages cuda-keyring ;;
"dpkg --purge "* | "rpm -e "*) for word; do out packages "$word"; done ;;
"ubuntu-drivers install "*) put packages driver ;;
"rpm -qa "*) cat "$FAKE/packages" 2>/dev/null || : ;;
"rpm -q --qf "*)
    if has packages "$4"; then echo 99.1; else echo "package $4 is not installed"; exit 1; fi ;;
"dnf -q module list "*) has packages stream && echo "nvidia-driver 580-open [e] default" ;;
"dnf -y module enable "*) put packages stream ;;
"dnf -y module reset "*) out packages stream ;;
"apt-get install "* | "dnf -y install "* | "zypper "*" install "*)
    for word; do case $word in
        -* | install) ;;
        *) put packages "$word"; put packages "dependency-of-$word" ;;
    esac; done ;;
"curl "*) echo key > "$(last "$@")" ;;
esac
"""
PROGRAMS = (
    *("grubby", "pbl", "update-grub", "systemctl", "udevadm", "nvidia-ctk", "nvidia-smi", "rpm"),
    *("dpkg-query", "dpkg", "ubuntu-drivers", "apt-get", "dnf", "zypper", "curl"),
)


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    """The committed matrix."""
    return matrices.load(ROOT / "matrix.yaml")


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            # A kernel that is asked "a [b] c" is told "b"; a folder has what it was told.
            re.sub(rb".*\[([a-z-]+)\][^\n]*", rb"\1", path.read_bytes()).strip()
            if path.is_file()
            else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


def folder_of(family: str, folder: Path) -> Path:
    """The files that each family has where the script writes or asks."""
    root = unpack(planned_hosts.untuned(family).unpacked(), folder)
    for path in (
        "etc/sysctl.d",
        "etc/udev/rules.d",
        "etc/default/grub.d",
        "var/cache/apt/archives",
        "run/systemd/system",
    ):
        (root / path).mkdir(parents=True)
    # One that the script is to replace, and to give back.
    (root / "etc/sysctl.d/90-imgbuild-swappiness.conf").write_text("vm.swappiness = 60\n")
    return root


class Applied:
    """A script of a family, and what it is run in."""

    def __init__(
        self, family: str, tmp_path: Path, matrix: Matrix, wishes: Wishes | None = None
    ) -> None:
        self.root = folder_of(family, tmp_path / "root")
        # What /bin/sh is there.
        self.shell = ("bash", "--posix") if family in ("rhel", "suse") else ("dash",)
        self.fake = tmp_path / "fake"
        self.bin = tmp_path / "bin"
        self.fake.mkdir()
        self.bin.mkdir()
        (self.bin / "standin").write_text(STANDIN)
        (self.bin / "standin").chmod(0o755)
        for name in PROGRAMS:
            (self.bin / name).symlink_to("standin")
        self.plan: Plan = planned_hosts.of_folder(self.root, matrix, wishes)
        self.script = formats.FORMATS["sh"](self.plan)
        self.undo = formats.undo(self.plan)

    def run(self, script: str, *, live: bool) -> str:
        """What it prints; below a folder, the paths in its commands are those of the folder."""
        env = {"PATH": f"{self.bin}:{os.environ['PATH']}", "ROOT": str(self.root)}
        env["FAKE"] = str(self.fake)
        if live:
            env |= {"LIVE": "yes", "KERNEL": str(self.root)}
            # Commands speak of /etc, as they are for the system that runs.
            script = re.sub(
                r"^(run .*|packages .*)$",
                lambda line: re.sub(r"(?<=[ '])(/etc|/var)/", rf"{self.root}\1/", line[0]),
                script,
                flags=re.M,
            )
            script = re.sub(rf"^(run .* ){self.root}(/\S+)$", r"\1\2", script, flags=re.M)
        done = subprocess.run(
            [*self.shell],
            input=script,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout


@pytest.mark.parametrize("family", planned_hosts.FAMILIES)
def test_a_script_is_idempotent_and_taken_back(family: str, tmp_path: Path, matrix: Matrix) -> None:
    """With a kernel, programs and packages to change."""
    made = Applied(family, tmp_path, matrix, planned_hosts.WISHES)
    (made.fake / "args").write_text(
        "hugepages=1024\nhugepagesz=2M\nisolcpus=1-31\n"
        if family == "suse"
        else "isolcpus=1-31 hugepagesz=2M hugepages=1024\n"
    )
    before, args = snapshot(made.root), (made.fake / "args").read_text().split()
    first = made.run(made.script, live=True)
    assert "steps have changed something" in first
    assert "reboot:" in first
    after = snapshot(made.root)
    assert after != before
    assert made.run(made.script, live=True).splitlines()[-1] == "nothing to change"
    assert snapshot(made.root) == after

    host = Host(made.root)
    rows = check.look(host, check.told(host), matrix, today=planned_hosts.TODAY)
    stands = {row.id: str(row.status) for row in rows}
    for row in ("governor", "numa-balancing", "swappiness", "io-scheduler", "cdi"):
        assert stands[row] == "ok", row

    told = made.run(made.undo, live=True)
    assert "left alone" not in told
    assert "it failed" not in told
    assert snapshot(made.root) == before
    assert sorted((made.fake / "args").read_text().split()) == sorted(args)
    for name in ("units", "started", "packages", "ecc"):
        assert (made.fake / name).read_text() == "", name
    assert made.run(made.undo, live=True) == "nothing to undo\n"


@pytest.mark.parametrize("family", planned_hosts.FAMILIES)
def test_below_a_folder_only_files_are_changed(family: str, tmp_path: Path, matrix: Matrix) -> None:
    made = Applied(family, tmp_path, matrix)
    before = snapshot(made.root)
    first = made.run(made.script, live=False)
    assert "left out: /proc/sys/kernel/numa_balancing is the running kernel's" in first
    assert "left out: it needs the running system: " in first
    changed = {path for path, file in snapshot(made.root).items() if before.get(path) != file}
    assert changed
    assert all(path.startswith(("etc", "var")) for path in changed)
    after = snapshot(made.root)
    assert made.run(made.script, live=False).splitlines()[-1] == "nothing to change"
    assert snapshot(made.root) == after
    made.run(made.undo, live=False)
    assert snapshot(made.root) == before
    assert not (made.fake / "log").exists(), "a program was called"


def test_what_somebody_has_changed_since_is_left_alone(tmp_path: Path, matrix: Matrix) -> None:
    made = Applied("debian", tmp_path, matrix)
    made.run(made.script, live=False)
    theirs = made.root / "etc/sysctl.d/90-imgbuild-numa-balancing.conf"
    theirs.write_text("kernel.numa_balancing = 2\n")
    assert f"left alone, changed since: /{theirs.relative_to(made.root)}" in made.run(
        made.undo, live=False
    )
    assert theirs.read_text() == "kernel.numa_balancing = 2\n"


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("etc/sysctl.conf", "vm.swappiness=60", True),
        ("etc/sysctl.conf", "# vm.swappiness = 60", False),
        ("etc/sysctl.conf", "vm.swappiness = 10", False),
        ("etc/sysctl.d/99-site.conf", "  vm/swappiness = 60", True),
        ("etc/sysctl.d/50-site.conf", "vm.swappiness = 60", False),
        ("usr/lib/sysctl.d/99-vendor.conf", "vm.swappiness = 60", True),
    ],
)
def test_what_is_read_later_and_says_otherwise_is_told(
    file: str, line: str, told: bool, tmp_path: Path, matrix: Matrix
) -> None:
    """A variable is not lasting whose line another file has the last word of."""
    made = Applied("debian", tmp_path, matrix, Wishes(rows=frozenset({"swappiness"})))
    (made.root / file).parent.mkdir(parents=True, exist_ok=True)
    (made.root / file).write_text(f"{line}\n")
    said = f"swappiness: /{file} is read later and sets vm.swappiness to 60"
    for _ in range(2):
        assert (said in made.run(made.script, live=True)) == told
    assert (made.root / file).read_text() == f"{line}\n"


def test_what_failed_is_done_by_the_next_run(tmp_path: Path, matrix: Matrix) -> None:
    made = Applied("debian", tmp_path, matrix, Wishes(rows=frozenset({"iommu"})))
    (made.bin / "update-grub").unlink()
    (made.bin / "update-grub").write_text("#!/bin/sh\nexit 3\n")
    (made.bin / "update-grub").chmod(0o755)
    with pytest.raises(AssertionError, match="update-grub"):
        made.run(made.script, live=True)
    (made.bin / "update-grub").unlink()
    (made.bin / "update-grub").symlink_to("standin")
    assert "update-grub" in made.run(made.script, live=True)
    ran = (made.fake / "log").read_text().splitlines()
    assert [line for line in ran if "grub" in line] == ["update-grub "]
    assert made.run(made.script, live=True) == "nothing to change\n"


def test_another_boot_loader_keeps_nothing_from_being_done(tmp_path: Path, matrix: Matrix) -> None:
    wishes = Wishes(rows=frozenset({"iommu", "swappiness"}))
    made = Applied("debian", tmp_path, matrix, wishes)
    (made.bin / "update-grub").unlink()
    nowhere = made.script.replace("update-grub", "update-grub-of-nobody")
    told = made.run(nowhere, live=True)
    assert "iommu: left out: there is no update-grub-of-nobody here: update-grub-of" in told
    assert "swappiness: " in told
    assert made.run(nowhere, live=True).endswith("nothing to change\n")
    (made.bin / "update-grub").symlink_to("standin")
    assert "  update-grub\n" in made.run(made.script, live=True)


def test_what_was_left_out_below_a_folder_is_done_once_it_runs(
    tmp_path: Path, matrix: Matrix
) -> None:
    made = Applied("debian", tmp_path, matrix, Wishes(rows=frozenset({"iommu"})))
    made.run(made.script, live=False)
    assert "update-grub" in made.run(made.script, live=True)
    assert made.run(made.script, live=True) == "nothing to change\n"


@pytest.fixture
def persistent(tmp_path: Path, matrix: Matrix) -> Applied:
    """A plan of one unit that another package has brought, and of a setting behind it."""
    return Applied(
        "debian", tmp_path, matrix, Wishes(rows=frozenset({"persistence", "cgroup"}), power=400)
    )


def test_a_unit_that_does_not_start_yet_keeps_nothing_from_being_done(persistent: Applied) -> None:
    """As nvidia-persistenced before the reboot into the driver that was installed."""
    (persistent.fake / "broken").write_text("nvidia-persistenced.service\n")
    told = persistent.run(persistent.script, live=True)
    assert "left out: nvidia-persistenced.service does not start now: journalctl" in told
    assert "cgroup: " in told
    assert "nvidia-persistenced.service\n" in (persistent.fake / "units").read_text()
    (persistent.fake / "broken").unlink()
    assert "systemctl start nvidia-persistenced" in persistent.run(persistent.script, live=True)
    assert persistent.run(persistent.script, live=True).endswith("nothing to change\n")
    persistent.run(persistent.undo, live=True)
    assert (persistent.fake / "units").read_text() == ""
    assert (persistent.fake / "started").read_text() == ""


def test_units_are_enabled_where_systemd_does_not_run(persistent: Applied) -> None:
    (persistent.root / "run/systemd/system").rmdir()
    persistent.run(persistent.script, live=True)
    asked = (persistent.fake / "log").read_text()
    assert "systemctl enable nvidia-persistenced.service" in asked
    assert "systemctl start" not in asked
    assert "daemon-reload" not in asked
    assert persistent.run(persistent.script, live=True).endswith("nothing to change\n")
    persistent.run(persistent.undo, live=True)
    assert "systemctl stop" not in (persistent.fake / "log").read_text()


@pytest.mark.parametrize(
    ("state", "told"), [("masked", "is masked"), ("not-found", "is not installed")]
)
def test_a_unit_that_is_not_to_be_enabled(state: str, told: str, persistent: Applied) -> None:
    (persistent.fake / "state-nvidia-persistenced.service").write_text(f"{state}\n")
    assert f"left out: nvidia-persistenced.service {told}" in persistent.run(
        persistent.script, live=True
    )
    assert "enable nvidia-persistenced" not in (persistent.fake / "log").read_text()


def test_a_unit_that_ran_before_runs_after(persistent: Applied) -> None:
    (persistent.fake / "started").write_text("nvidia-persistenced.service\n")
    persistent.run(persistent.script, live=True)
    persistent.run(persistent.undo, live=True)
    assert (persistent.fake / "started").read_text() == "nvidia-persistenced.service\n"
    assert (persistent.fake / "units").read_text() == ""


def test_grub_reads_what_is_written_for_it(tmp_path: Path, matrix: Matrix) -> None:
    made = Applied("ubuntu", tmp_path, matrix, Wishes(pages=(("1G", 8), ("2M", 4))))
    made.run(made.script, live=False)
    read = (
        'GRUB_CMDLINE_LINUX="isolcpus=1-31 a=isolcpus=1-31 isolcpus=1-31 hugepages=1024"\n'
        'GRUB_CMDLINE_LINUX_DEFAULT="quiet hugepagesz=2M"\n'
        f"for file in {made.root}/etc/default/grub.d/*.cfg; do . $file; done\n"
        'echo "$GRUB_CMDLINE_LINUX|$GRUB_CMDLINE_LINUX_DEFAULT"\n'
    )
    told = subprocess.run(["sh", "-eu"], input=read, capture_output=True, text=True, check=True)
    assert told.stdout == (
        "a=isolcpus=1-31 systemd.unified_cgroup_hierarchy=1 hugepagesz=1G hugepages=8"
        " hugepagesz=2M hugepages=4 iommu=pt|quiet\n"
    )


# Tells of as many instances as it was told to make, of two GPUs.
SMI = """\
#!/bin/sh
echo "$*" >> "$FAKE/smi"
case "$*" in
"mig -i 0,1 -lgi") [ -f "$FAKE/made" ] && cat "$FAKE/made" ;;
"mig -i 0,1 -cgi "*)
    for gpu in 0 1; do
        echo "|   $gpu  MIG 3g.40gb          9        1          4:4     |"
        for at in 0 1 2 3; do echo "|   $gpu  MIG 1g.10gb   19   $at   $at:1   |"; done
    done > "$FAKE/made" ;;
"mig -i 0,1 -dgi") rm "$FAKE/made" ;;
*mig.mode.current*) cat "$FAKE/mode" ;;
esac
"""


def test_the_program_that_divides_does_so_once(tmp_path: Path, matrix: Matrix) -> None:
    plan = planned_hosts.made(HOSTS["dgx-h100"], tmp_path / "root", matrix, planned_hosts.WISHES)
    (program,) = (file for step in plan.steps for file in step.files if file.mode == "0755")
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAKE": str(tmp_path)}
    content = program.content.replace("/run/imgbuild-mig", str(tmp_path / "run"))

    def run(*args: str) -> tuple[int, list[str]]:
        (tmp_path / "smi").write_text("")
        done = subprocess.run(
            ["sh", "-s", *args],
            input=content,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, (tmp_path / "smi").read_text().splitlines()

    (tmp_path / "mode").write_text("Disabled\nDisabled\n")
    code, asked = run()
    assert code == 0
    mode = "-i 0,1 --query-gpu=mig.mode.current --format=csv,noheader"
    assert asked[:3] == ["mig -i 0,1 -lgi", mode, "-i 0,1 -mig 1"]
    assert asked[3].startswith("mig -i 0,1 -cgi 9:4,19:")
    assert run() == (0, ["mig -i 0,1 -lgi"])
    (tmp_path / "made").write_text("|   0  MIG 7g.80gb          0        0          0:8     |\n")
    assert run() == (1, ["mig -i 0,1 -lgi"]), "what somebody else has divided is left alone"
    code, asked = run("destroy")
    assert (code, asked[-1]) == (0, "-i 0,1 -mig 0")
    assert not (tmp_path / "made").exists()

    # What was so before the unit was there is not taken away with it.
    run()
    (tmp_path / "run").unlink()
    assert run("stop") == (0, [])
    assert (tmp_path / "made").exists()
    run("destroy")
    (tmp_path / "mode").write_text("Enabled\nEnabled\n")
    run()
    assert run("stop") == (0, ["mig -i 0,1 -dci", "mig -i 0,1 -dgi"])
    (tmp_path / "mode").write_text("Disabled\nDisabled\n")
    run()
    assert run("stop")[1][-1] == "-i 0,1 -mig 0"
    assert run("stop") == (0, [])


def test_without_root_nothing_is_begun(tmp_path: Path, matrix: Matrix) -> None:
    made = Applied("debian", tmp_path, matrix)
    (made.bin / "id").write_text("#!/bin/sh\necho 1000\n")
    (made.bin / "id").chmod(0o755)
    for script in (made.script, made.undo):
        done = subprocess.run(
            ["sh"],
            input=script,
            env={"PATH": f"{made.bin}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "run it as root, or with ROOT=FOLDER" in done.stderr


def test_scripts_are_shellchecks_in_all_variants(tmp_path: Path, matrix: Matrix) -> None:
    """Each family as it comes, without a driver, and with all that can be asked for."""
    variants = {name: HOSTS[name] for name in ("toolkits", "reserved-pages", "b200-proprietary")}
    for family in planned_hosts.FAMILIES:
        variants[f"{family}-untuned"] = planned_hosts.untuned(family)
        variants[f"{family}-bare"] = planned_hosts.bare(family)
    files, lines = [], ["#!/bin/sh"]
    for name, host in variants.items():
        wishes = planned_hosts.WISHES if name.endswith("-untuned") else None
        plan = planned_hosts.made(host, tmp_path / name, matrix, wishes)
        files.append(tmp_path / f"{name}.sh")
        files[-1].write_text(formats.FORMATS["sh"](plan))
        # What a plan writes may be scripts, and lines for a shell.
        for step in plan.steps:
            for one in step.commands:
                lines += [line for line in (one.check, one.do, one.undo) if line]
            if any(one.content.startswith("#!/bin/sh") for one in step.files):
                files.append(tmp_path / f"{name}-{step.id}.sh")
                files[-1].write_text(step.files[0].content)
    files += [tmp_path / "commands.sh", tmp_path / "undo.sh"]
    files[-2].write_text("\n".join(dict.fromkeys(lines)) + "\n")
    files[-1].write_text(formats.undo(plan))
    done = subprocess.run(
        [SHELLCHECK, "--severity=style", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout

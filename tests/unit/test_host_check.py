"""`imgbuild host check`: rows of recorded hosts, and that nothing makes it raise."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import matrix as matrices
from builder import proc
from builder.errors import BuildError
from builder.facts import Matrix
from builder.host import check
from builder.host.check import Host, Row, Status, recorded, rows, smi, system
from builder.proc import Command, Result
from tests.unit import checked_hosts, hosts
from tests.unit.checked_hosts import HOSTS, unpack
from tests.unit.support import ROOT
from tests.unit.test_cli import run

TODAY = datetime.date(2026, 11, 27)
GOLDEN = ROOT / "tests/golden/host"


def looked(folder: Path, matrix: Matrix, wanted: str | None = None) -> dict[str, Row]:
    host = Host(folder)
    cells = matrices.select(matrix, wanted) if wanted else ()
    found = check.look(host, check.told(host), matrix, wanted=cells, today=TODAY)
    return {row.id: row for row in found}


def of(name: str, folder: Path, matrix: Matrix, wanted: str | None = None) -> dict[str, Row]:
    return looked(unpack(HOSTS[name].unpacked(), folder), matrix, wanted)


def test_there_are_twenty_hosts_and_more() -> None:
    assert len(HOSTS) >= 20
    assert set().union(*(host.stands for host in HOSTS.values())) <= set(check.LOOKS)


@pytest.mark.parametrize("name", HOSTS)
def test_rows_of_a_host_stand_as_described(name: str, tmp_path: Path, matrix: Matrix) -> None:
    found = of(name, tmp_path, matrix)
    stands = {row: str(found[row].status) for row in HOSTS[name].stands}
    assert stands == HOSTS[name].stands, HOSTS[name].title


def test_every_status_of_every_row_that_can_be_is_seen(matrix: Matrix) -> None:
    """No row is always all right: a host is described where it is not."""
    seen = {(row, status) for host in HOSTS.values() for row, status in host.stands.items()}
    always = {row for row in check.LOOKS if not {(row, "advised"), (row, "failed")} & seen}
    # Libraries ask for nothing; the firmware's silence is asked for below.
    assert always == {"cudnn", "nccl", "tensorrt", "gpu-numa"}


def test_the_documentation_has_every_row() -> None:
    table = (ROOT / "docs/host.md").read_text().partition("| row | advised | why |")[2]
    told = re.findall(r"^\| `([a-z0-9-]+)`( \*\*required\*\*)?", table.partition("\n\n")[0], re.M)
    assert [name for name, _ in told] == list(check.LOOKS)
    required = {name for name, advice in rows.book().rows.items() if advice.required}
    assert {name for name, mark in told if mark} == required


def test_ends_of_systems_are_those_of_the_matrix(matrix: Matrix) -> None:
    names = {"rocky": "rocky", "alma": "almalinux", "debian": "debian", "ubuntu": "ubuntu"}
    names |= {"opensuse": "opensuse-leap", "sles": "sles"}
    compared = 0
    for name, known in matrix.os.items():
        word = name.rstrip("0123456789.")
        releases = rows.book().systems.get(names.get(word, ""), {})
        same = [one for release, one in releases.items() if f"{word}{release}".startswith(name)]
        for one in same:
            assert one.until == known.end_of_life.isoformat(), name
            compared += 1
    assert compared >= 8


def test_rows_and_advice_are_the_same() -> None:
    assert set(check.LOOKS) == set(rows.book().rows)
    assert len(check.LOOKS) == len(rows.book().rows)


@pytest.mark.parametrize("name", HOSTS)
def test_a_row_is_whole(name: str, tmp_path: Path, matrix: Matrix) -> None:
    for row in of(name, tmp_path, matrix).values():
        assert row.now
        assert row.advised
        assert all((row.why, row.impact, row.source, row.change, row.title, row.theme))
        if row.status is Status.FAILED:
            assert row.required, row.id
        if row.status in (Status.FAILED, Status.UNKNOWN, Status.NONE):
            assert row.reason, row.id
        if row.status not in (Status.ADVISED, Status.FAILED):
            assert not row.settings, row.id


@pytest.mark.parametrize("name", hosts.NAMES)
def test_hosts_of_the_tuner_are_looked_at_too(name: str, tmp_path: Path, matrix: Matrix) -> None:
    hosts.read(name).unpack(tmp_path)
    assert set(looked(tmp_path, matrix)) == set(check.LOOKS)


def spelled(found: dict[str, Row]) -> str:
    lines = []
    for row in found.values():
        lines.append(
            f"{row.id}: {row.status}: {row.now}" + (f" ({row.reason})" if row.reason else "")
        )
        shown = sorted({(one.kind, one.name, one.value) for one in row.settings})
        lines += [f"    {kind} {name} = {value}" for kind, name, value in shown[:3]]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["dgx-h100", "untuned", "h100-vm", "cpu-only"])
def test_what_is_told_of_a_host(
    name: str, tmp_path: Path, matrix: Matrix, request: pytest.FixtureRequest
) -> None:
    told = spelled(of(name, tmp_path, matrix))
    file = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(told)
    assert told == file.read_text()


@pytest.mark.parametrize(
    ("host", "cell", "status", "told"),
    [
        ("dgx-h100", "cuda13.0-vllm", "ok", "580.95.05 runs cuda13.0-vllm"),
        ("dgx-h100", "cuda13.0-vllm-h100,cuda12.8-vllm", "ok", "and 1 more"),
        ("toolkits", "cuda13.0-vllm", "failed", "cuda13.0-vllm needs 580.65.06 or newer"),
        ("toolkits", "cuda12.8-vllm", "ok", "570.124.06 runs cuda12.8-vllm"),
        ("cpu-only", "cuda13.0-vllm", "failed", "needs an NVIDIA GPU, and none is here"),
        ("cpu-only", "cpu-vllm", "n/a", "no NVIDIA GPU"),
    ],
)
def test_the_driver_is_held_against_the_cells_that_are_wanted(
    host: str, cell: str, status: str, told: str, tmp_path: Path, matrix: Matrix
) -> None:
    row = of(host, tmp_path, matrix, cell)["driver"]
    assert str(row.status) == status
    assert told in f"{row.now} {row.reason}"


def test_changes_are_data_for_a_plan(tmp_path: Path, matrix: Matrix) -> None:
    found = of("untuned", tmp_path, matrix)
    settings = {(one.kind, one.name, one.value) for row in found.values() for one in row.settings}
    assert {
        ("sysctl", "kernel.numa_balancing", "0"),
        ("sysctl", "vm.swappiness", "10"),
        ("sysfs", "/sys/block/nvme0n1/queue/scheduler", "none"),
        ("kernel-argument", "iommu", "pt"),
        ("no-kernel-argument", "isolcpus", "1-31"),
        ("nvidia-smi", "--power-limit", "7=700"),
        ("service", "nvidia-persistenced", "enabled"),
        ("package", "nvidia-container-toolkit", "1.17.8"),
        ("ulimit", "memlock", "unlimited"),
        ("mount", "/dev/shm", str(8 << 30)),
    } <= settings
    assert not any("nvme1n1" in name for _, name, _ in settings)


def test_the_argument_of_the_iommu_is_the_cpus(tmp_path: Path, matrix: Matrix) -> None:
    (setting,) = of("grace", tmp_path, matrix)["iommu"].settings
    assert (setting.name, setting.value) == ("iommu.passthrough", "1")


@pytest.mark.parametrize(
    ("row", "day", "status"),
    [
        ("os", "2029-05-31", "ok"),
        ("os", "2029-06-01", "advised"),
        ("driver-branch", "2028-06-30", "ok"),
        ("driver-branch", "2028-07-01", "advised"),
    ],
)
def test_a_last_day_is_one_of_support(
    row: str, day: str, status: str, tmp_path: Path, matrix: Matrix
) -> None:
    host = Host(unpack(HOSTS["dgx-h100"].unpacked(), tmp_path))
    today = datetime.date.fromisoformat(day)
    found = check.look(host, check.told(host), matrix, today=today)
    assert {one.id: str(one.status) for one in found}[row] == status


@pytest.mark.parametrize(
    ("version", "status"), [("1.17.7-1", "advised"), ("1.17.8-1", "ok"), ("1.17.10-1", "ok")]
)
def test_a_toolkit_is_new_enough(version: str, status: str, tmp_path: Path, matrix: Matrix) -> None:
    host = dataclasses.replace(HOSTS["dgx-h100"], toolkit=version)
    assert (
        str(looked(unpack(host.unpacked(), tmp_path), matrix)["container-toolkit"].status) == status
    )


@pytest.mark.parametrize(
    ("driver", "status"), [("580.65.05", "failed"), ("580.65.06", "ok"), ("580.65.06.01", "ok")]
)
def test_the_first_driver_of_a_stack_runs_it(
    driver: str, status: str, tmp_path: Path, matrix: Matrix
) -> None:
    gpus = checked_hosts.Gpus(count=1, driver=driver)
    files = {**gpus.files(), f"/{recorded.SMI}": gpus.smi().encode()}
    found = looked(unpack(files, tmp_path), matrix, "cuda13.0-vllm")
    assert str(found["driver"].status) == status


@pytest.mark.parametrize(("kib", "status"), [(8 << 20, "ok"), ((8 << 20) - 1, "advised")])
def test_shared_memory_counts_the_gpus(
    kib: int, status: str, tmp_path: Path, matrix: Matrix
) -> None:
    host = dataclasses.replace(HOSTS["dgx-h100"], shm=f"rw,size={kib}k,mode=1777")
    assert str(looked(unpack(host.unpacked(), tmp_path), matrix)["shm"].status) == status


def test_one_gpu_outside_of_the_fabric_is_enough_to_fail(tmp_path: Path, matrix: Matrix) -> None:
    files = HOSTS["dgx-h100"].unpacked()
    told = files[f"/{recorded.SMI}"].replace(b"Completed", b"In Progress", 1)
    found = looked(unpack({**files, f"/{recorded.SMI}": told}, tmp_path), matrix)
    assert found["fabric-manager"].status is Status.FAILED


def test_a_power_limit_stays_within_what_the_card_takes(tmp_path: Path, matrix: Matrix) -> None:
    gpus = checked_hosts.Gpus(count=1, power=("300.00 W", "700.00 W", "200.00 W", "600.00 W"))
    files = {**gpus.files(), f"/{recorded.SMI}": gpus.smi().encode()}
    (setting,) = looked(unpack(files, tmp_path), matrix)["power-limit"].settings
    assert setting.value == "0=600"


def test_a_card_that_the_firmware_puts_nowhere(tmp_path: Path, matrix: Matrix) -> None:
    files = HOSTS["dgx-h100"].unpacked()
    files.update({path: b"-1\n" for path in files if path.endswith("numa_node")})
    found = looked(unpack(files, tmp_path), matrix)
    assert found["gpu-numa"].status is Status.ADVISED
    assert found["nic-numa"].status is Status.UNKNOWN


@pytest.mark.parametrize(("control", "on"), [(0, 0), (0x01, 0), (0x1D, 0x1C), (0x5F, 0x1C)])
def test_acs_is_read_from_a_bridge(control: int, on: int) -> None:
    """Source validation alone redirects nothing."""
    assert system._acs_control(checked_hosts.bridge(control)) == on


@pytest.mark.parametrize("config", [b"", bytes(64), bytes(4096), b"\xff" * 4096])
def test_a_bridge_without_acs(config: bytes) -> None:
    assert system._acs_control(config) in (0, 0b0011_1100)


def test_capabilities_in_a_circle_end() -> None:
    config = bytearray(4096)
    config[0x100:0x104] = (0x100 << 20 | 1).to_bytes(4, "little")
    assert system._acs_control(bytes(config)) == 0


_JUNK = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"9" * 5000, b"-1", b"[" * 9000, b"\x1b[31mred", b"{}", b"null", b"0-99999"]),
)


@settings(max_examples=200)
@given(data=st.data())
def test_no_file_missing_or_garbled_makes_it_raise(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, matrix: Matrix
) -> None:
    files = HOSTS[data.draw(st.sampled_from(sorted(HOSTS)))].unpacked()
    # Those of single CPUs are many and alike; the others are what matters.
    few = sorted(path for path in files if not re.search(r"/cpu([2-9]|\d\d)/", path))
    files = {path: files[path] for path in few}
    for path in data.draw(st.sets(st.sampled_from(few), max_size=12)):
        if data.draw(st.booleans()):
            del files[path]
        else:
            files[path] = data.draw(_JUNK)
    found = looked(unpack(files, tmp_path_factory.mktemp("host")), matrix)
    assert set(found) == set(check.LOOKS)
    for row in found.values():
        assert row.now.isprintable()
        assert row.reason.isprintable()
        assert all(one.name.isprintable() and one.value.isprintable() for one in row.settings)
        json.dumps([row.now, row.reason, row.advised])


@given(st.text(max_size=400), st.sampled_from(["", "<nvidia_smi_log>", "<gpu id='0'>"]))
def test_no_answer_of_nvidia_smi_makes_it_raise(text: str, start: str) -> None:
    for told in (start + text, f"{start}{text}</gpu></nvidia_smi_log>"):
        smi.parse(told)
        kept = smi.kept(told)
        assert kept is None or smi.parse(kept).gpus == smi.parse(told).gpus


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("00000000:1B:00.0", "0000:1b:00.0"),
        ("00000008:06:00.0", "0008:06:00.0"),
        ("00010000:E1:00.0", "10000:e1:00.0"),
        ("0000:1B:00.0", ""),
        ("../../etc", ""),
    ],
)
def test_addresses_are_those_of_the_bus(told: str, address: str) -> None:
    answer = smi.parse(f'<nvidia_smi_log><gpu id="{told}"></gpu></nvidia_smi_log>')
    assert answer.gpus[0].bus == address


def test_entities_are_not_expanded() -> None:
    entity = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]>'
    plain = '<nvidia_smi_log><gpu id="0"></gpu></nvidia_smi_log>'
    assert len(smi.parse(plain).gpus) == 1
    assert smi.parse(entity + plain).gpus == ()


def test_a_recorded_host_is_alone(tmp_path: Path, matrix: Matrix) -> None:
    """A link to outside of it, a pipe or a folder in a file's place is no file."""
    outside = tmp_path / "outside"
    outside.write_text("ID=debian\nVERSION_ID=12\n")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").symlink_to(outside)
    (root / "proc").mkdir()
    os.mkfifo(root / "proc/version")
    (root / "proc/cmdline").mkdir()
    found = looked(root, matrix)
    assert found["os"].status is Status.UNKNOWN
    assert found["wsl2"].status is Status.UNKNOWN


def test_a_link_within_a_recorded_host_is_followed(tmp_path: Path, matrix: Matrix) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text("ID=debian\nVERSION_ID=12\n")
    (tmp_path / "etc/os-release").symlink_to("../usr/lib/os-release")
    assert looked(tmp_path, matrix)["os"].status is Status.OK


def test_a_folder_that_a_link_leads_to_outside_is_not_there(tmp_path: Path, matrix: Matrix) -> None:
    """As /var/run is one to /run in an unpacked image."""
    files = HOSTS["dgx-h100"].unpacked()
    spec = files.pop("/etc/cdi/nvidia.yaml")
    root = unpack(files, tmp_path / "root")
    (tmp_path / "run/cdi").mkdir(parents=True)
    (tmp_path / "run/cdi/nvidia.yaml").write_bytes(spec)
    (root / "var").mkdir(exist_ok=True)
    (root / "var/run").symlink_to(tmp_path / "run")
    assert Host(root).names("/var/run/cdi/*") == []
    assert looked(root, matrix)["cdi"].now == "no specification"


def test_a_recording_that_fails_leaves_nothing(
    tmp_path: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(unpack(HOSTS["cpu-only"].unpacked(), tmp_path / "host"))
    check.look(host, None, matrix, today=TODAY)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        check.record(host, None, tmp_path / "record")
    assert [path.name for path in tmp_path.iterdir()] == ["host"]


@pytest.mark.parametrize("name", HOSTS)
def test_what_is_recorded_says_the_same(name: str, tmp_path: Path, matrix: Matrix) -> None:
    root = unpack(HOSTS[name].unpacked(), tmp_path / "host")
    host = Host(root)
    before = check.look(host, check.told(host), matrix, today=TODAY)
    check.record(host, check.told(host), tmp_path / "record")
    again = Host(tmp_path / "record")
    assert check.look(again, check.told(again), matrix, today=TODAY) == before


def test_a_recording_has_nothing_that_nobody_asked_for(tmp_path: Path, matrix: Matrix) -> None:
    root = unpack(HOSTS["dgx-h100"].unpacked(), tmp_path / "host")
    host = Host(root)
    check.look(host, check.told(host), matrix, today=TODAY)
    check.record(host, check.told(host), tmp_path / "record")
    told = "".join(
        file.read_bytes().decode("utf-8", "replace")
        for file in (tmp_path / "record").rglob("*")
        if file.is_file()
    )
    for private in (
        "root=/dev/sda1",
        "1650000000001",
        "GPU-0000",
        "secret",
        "Package: bash",
        "proc /proc",
    ):
        assert private not in told
    assert "Package: nvidia-container-toolkit" in told


@pytest.mark.parametrize(
    ("result", "driver", "error"),
    [
        (
            Result(
                code=0, stdout=HOSTS["dgx-h100"].unpacked()[f"/{recorded.SMI}"].decode(), stderr=""
            ),
            "580.95.05",
            "",
        ),
        (
            Result(code=9, stdout="", stderr="Failed to initialize NVML\n"),
            "",
            "Failed to initialize NVML",
        ),
        (Result(code=0, stdout="", stderr=""), "", "it names no GPU"),
    ],
)
def test_nvidia_smi_is_asked_of_a_live_host(
    result: Result, driver: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Command] = []

    def capture(command: Command, *, check: bool) -> Result:
        assert not check
        asked.append(command)
        return result

    monkeypatch.setattr(proc, "find", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(proc, "capture", capture)
    told = smi.parse(check.told(Host()))
    assert asked[0].args == ("/usr/bin/nvidia-smi", "-q", "-x")
    assert (told.driver, told.error) == (driver, error)


def test_nvidia_smi_that_hangs_is_an_error_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(command: Command, *, check: bool) -> Result:
        raise BuildError("`nvidia-smi -q -x` took longer than 20 s")

    monkeypatch.setattr(proc, "find", lambda name: name)
    monkeypatch.setattr(proc, "capture", capture)
    assert "took longer" in smi.parse(check.told(Host())).error


def test_without_nvidia_smi_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "find", lambda name: None)
    assert check.told(Host()) is None


def test_the_command_fails_where_a_required_row_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = unpack(HOSTS["dgx-h100"].unpacked(), tmp_path / "good")
    bad = unpack(HOSTS["no-driver"].unpacked(), tmp_path / "bad")
    assert run(monkeypatch, "host", "check", "--root", str(good)) == 0
    assert "ok      NVIDIA driver" in capsys.readouterr().out
    assert run(monkeypatch, "host", "check", "--root", str(bad)) == 1
    shown = capsys.readouterr().out
    assert "failed  NVIDIA driver" in shown
    assert "there is a GPU, and no driver runs" in shown
    assert "change:" in shown
    wanted = ("--matrix", "cuda13.0-vllm", "--json")
    assert run(monkeypatch, "host", "check", "--root", str(bad), *wanted) == 1
    told = {row["id"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert set(told) == set(check.LOOKS)
    assert told["driver"]["status"] == "failed"
    assert told["driver"]["settings"] == [
        {"kind": "package", "name": "nvidia-driver", "value": "580.65.06"}
    ]


def test_a_container_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {**HOSTS["cpu-only"].unpacked(), "/.dockerenv": b""}
    root = str(unpack(files, tmp_path / "host"))
    assert run(monkeypatch, "host", "check", "--root", root) == 0
    assert "in a container of Docker" in capsys.readouterr().err
    assert run(monkeypatch, "host", "check", "--root", root, "--json") == 0
    assert json.loads(capsys.readouterr().out)["container"] == "Docker"


def test_advice_alone_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a recorded host was asked by a process")

    monkeypatch.setattr(proc, "find", refuse)
    monkeypatch.setattr(proc, "capture", refuse)
    root = unpack(HOSTS["untuned"].unpacked(), tmp_path / "host")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert run(monkeypatch, "host", "check", "--root", str(root), "--all") == 0
    assert "advised CPU frequency governor" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_this_host_is_looked_at_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(proc, "find", lambda name: None)
    assert run(monkeypatch, "host", "check", "--json") in (0, 1)
    here = json.loads(capsys.readouterr().out)
    folder = tmp_path / "record"
    assert run(monkeypatch, "host", "record", str(folder)) == 0
    assert f"imgbuild host check --root {folder}" in capsys.readouterr().out
    assert run(monkeypatch, "host", "check", "--json", "--root", str(folder)) in (0, 1)
    assert json.loads(capsys.readouterr().out) == here
    assert run(monkeypatch, "host", "record", str(folder)) == 2
    assert "is there already; name a folder that is not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "told"), [("a host", "--root '{}/a host'"), ("x\x1b[31m", "\\x1b[31m")]
)
def test_a_recording_is_told_as_it_can_be_typed(
    name: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(proc, "find", lambda _: None)
    assert run(monkeypatch, "host", "record", str(tmp_path / name)) == 0
    shown = capsys.readouterr().out
    assert told.format(tmp_path) in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("spelled", ["//", "/.", "{}/../../../../../../../../..", "{}/link"])
def test_the_root_is_this_host_however_it_is_spelled(spelled: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    host = Host(Path(spelled.format(tmp_path)))
    assert host.live
    assert host.line("/proc/version")


def test_a_folder_below_a_link_is_that_host(tmp_path: Path, matrix: Matrix) -> None:
    unpack(HOSTS["dgx-h100"].unpacked(), tmp_path / "host")
    (tmp_path / "link").symlink_to("host")
    assert looked(tmp_path / "link", matrix) == looked(tmp_path / "host", matrix)


@pytest.mark.parametrize("verb", ["check", "plan"])
def test_a_folder_without_a_host_is_told(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("not a host")
    assert run(monkeypatch, "host", verb, "--root", str(tmp_path)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "nothing of a host is there" in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "told", "settings"),
    [
        ("ecc-ends", "GPU 0, 1, 2, 3, 4, 5, 6, 7: disabled at the next reset", 8),
        ("ecc-comes", "GPU 0, 1, 2, 3, 4, 5, 6, 7: enabled at the next reset", 0),
        ("ecc-off", "", 8),
    ],
)
def test_ecc_that_waits_for_a_reset_is_told(
    name: str, told: str, settings: int, tmp_path: Path, matrix: Matrix
) -> None:
    row = of(name, tmp_path, matrix)["ecc"]
    assert row.reason == told
    assert len(row.settings) == settings


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("check", "--root", "/nowhere"), "--root: Directory '/nowhere' does not exist"),
        (("check", "--matrix", "cuda13.0-vlm"), "did you mean"),
        (("check", "--matrix", ""), "cell"),
        (("chekc",), "no command 'host chekc'; did you mean 'check'?"),
        (("record",), "missing argument 'FOLDER'; see `imgbuild host record --help`"),
        (("record", "/nowhere/at/all"), "/nowhere/at is no folder; make it first"),
    ],
)
def test_a_mistake_is_one_line(
    args: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "host", *args) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert told in shown.err

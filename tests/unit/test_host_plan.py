"""`imgbuild host plan`: steps of recorded hosts, their texts in each format, what is refused."""

from __future__ import annotations

import configparser
import dataclasses
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import proc
from builder.errors import UserError
from builder.facts import Matrix
from builder.host import check
from builder.host.check import rows as check_rows
from builder.host.check.rows import Setting
from builder.host.plan import Plan, Wishes, families, formats, wishes
from builder.host.plan import settings as plan_settings
from builder.host.plan.formats import ansible, cloudinit, daemonset, systemd, tuned
from builder.host.plan.steps import Kind
from tests.unit import deployed, planned_hosts
from tests.unit.checked_hosts import HOSTS, Gpus, unpack
from tests.unit.planned_hosts import FAMILIES, WISHES, made
from tests.unit.support import ROOT
from tests.unit.test_cli import run
from tests.unit.test_host_check import _JUNK

GOLDEN = ROOT / "tests/golden/host/plan"
ENDS = {
    "sh": "sh",
    "ansible": "yml",
    "cloud-init": "cloud.yml",
    "tuned": "tuned.conf",
    "systemd": "systemd.txt",
    "daemonset": "daemonset.yml",
}
NOT: dict[str, dict[str, str]] = {
    "ansible": ansible.NOT,
    "cloud-init": cloudinit.NOT,
    "tuned": tuned.NOT,
    "systemd": systemd.NOT,
    "daemonset": daemonset.NOT,
}


def plans(folder: Path, matrix: Matrix) -> dict[str, Plan]:
    """Of each family: advice alone, with wishes, and without a driver."""
    found = {}
    for family in FAMILIES:
        host = planned_hosts.untuned(family)
        found[family] = made(host, folder / family, matrix)
        found[f"{family}-wishes"] = made(host, folder / f"{family}-wishes", matrix, WISHES)
        found[f"{family}-bare"] = made(planned_hosts.bare(family), folder / f"{family}-b", matrix)
    return found


@pytest.mark.parametrize("form", formats.FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_of_a_family(
    family: str, form: str, tmp_path: Path, matrix: Matrix, request: pytest.FixtureRequest
) -> None:
    told = formats.FORMATS[form](made(planned_hosts.untuned(family), tmp_path, matrix))
    if form == "sh":
        told = told.partition("\nfinish() {")[2].partition("\n}\n")[2].lstrip("\n")
    file = GOLDEN / f"{family}.{ENDS[form]}"
    if request.config.getoption("--update-golden"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(told)
    assert told == file.read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_of_a_driver_and_of_wishes(
    family: str, tmp_path: Path, matrix: Matrix, request: pytest.FixtureRequest
) -> None:
    found = plans(tmp_path, matrix)
    told = ""
    for name in (f"{family}-bare", f"{family}-wishes"):
        text = formats.FORMATS["sh"](found[name])
        told += f"# {name}\n" + text.partition("\nfinish() {")[2].partition("\n}\n")[2]
    file = GOLDEN / f"{family}-more.sh"
    if request.config.getoption("--update-golden"):
        file.write_text(told)
    assert told == file.read_text()


def test_every_kind_of_setting_is_a_step_or_is_left_with_why(
    tmp_path: Path, matrix: Matrix
) -> None:
    found = plans(tmp_path, matrix).values()
    kinds = {step.kind for one in found for step in one.steps}
    assert kinds == set(get_args(Kind))
    by_hand = {one.setting.partition(" ")[0] for plan in found for one in plan.left}
    assert by_hand - {""} == set(get_args(check_rows.Kind)) - kinds


@pytest.mark.parametrize("form", formats.FORMATS)
def test_a_format_has_each_step_or_says_why_not(form: str, tmp_path: Path, matrix: Matrix) -> None:
    for plan in plans(tmp_path, matrix).values():
        text = " ".join(formats.FORMATS[form](plan).replace("\n# ", " ").split())
        for step in plan.steps:
            refused = f"not expressible here: {step.id}: " in text
            shown = re.search(rf"(?<!here: ){re.escape(step.id)}:? ", text) is not None
            assert refused != (shown and not refused), f"{form}: {step.id}"
            if step.kind in NOT.get(form, {}):
                assert refused, step.id
                assert NOT[form][step.kind] in text
        for one in plan.left:
            assert f"not here: {one.row}: " in text


def test_kinds_that_a_format_refuses_are_kinds() -> None:
    for refused in NOT.values():
        assert set(refused) <= set(get_args(Kind))
        assert all(refused.values())


@pytest.mark.parametrize("name", HOSTS)
def test_a_plan_of_every_host_can_be_written(name: str, tmp_path: Path, matrix: Matrix) -> None:
    plan = made(HOSTS[name], tmp_path, matrix)
    assert len({step.id for step in plan.steps}) == len(plan.steps)
    for step in plan.steps:
        assert step.title
        assert step.why
        assert step.source
        assert step.advised
        assert step.files or step.commands or step.units or step.live or step.packages
    for one in plan.left:
        assert one.why
        assert one.change
    for text in formats.FORMATS.values():
        assert text(plan).endswith("\n")


def test_a_host_that_is_as_it_should_be_has_no_steps(tmp_path: Path, matrix: Matrix) -> None:
    plan = made(HOSTS["dgx-h100"], tmp_path, matrix)
    assert (plan.steps, plan.left) == ((), ())
    assert "{}" in formats.FORMATS["cloud-init"](plan)
    assert "Nothing of this plan" in formats.FORMATS["daemonset"](plan)


def test_a_distribution_that_is_not_known_gets_what_all_have(
    tmp_path: Path, matrix: Matrix
) -> None:
    host = dataclasses.replace(planned_hosts.untuned("debian"), os=("nixos", "26.05"))
    plan = made(host, tmp_path, matrix)
    assert plan.family == plan.manager == ""
    assert {"governor", "numa-balancing", "io-scheduler"} <= {step.id for step in plan.steps}
    assert not any(step.kind in ("package", "kernel-argument") for step in plan.steps)
    assert "no way is known here" in {one.row: one.why for one in plan.left}["iommu"]


def documents(text: str) -> list[Any]:
    return [one for one in yaml.safe_load_all(text) if one]


# Module -> the arguments that a task must have. Source: Ansible's documentation of ansible.builtin.
MODULES = {
    "package": {"name", "state", "update_cache"},
    "file": {"path", "state"},
    "copy": {"dest", "mode", "content", "backup"},
    "shell": {"cmd"},
    "systemd_service": {"name", "enabled", "state", "daemon_reload"},
}
_TASK = {"name", "register", "changed_when", "when"}


def test_a_playbook_has_builtin_modules_alone(tmp_path: Path, matrix: Matrix) -> None:
    for plan in plans(tmp_path, matrix).values():
        ((play,),) = documents(formats.FORMATS["ansible"](plan))
        assert set(play) == {"name", "hosts", "become", "gather_facts", "tasks"}
        registered = set()
        for task in play["tasks"]:
            (module,) = set(task) - _TASK
            assert module.startswith("ansible.builtin.")
            assert set(task[module]) == MODULES[module.removeprefix("ansible.builtin.")]
            text = json.dumps(task[module])
            assert not re.search(r"\{[{%#]", text), "Ansible would take it for a template"
            if "mode" in task[module]:
                assert isinstance(task[module]["mode"], str)
            if "when" in task:
                for name in re.findall(r"\w+_file_\d+", task["when"]):
                    assert name in registered
            registered.add(task.get("register"))


def test_user_data_is_what_cloud_init_takes(tmp_path: Path, matrix: Matrix) -> None:
    for plan in plans(tmp_path, matrix).values():
        text = formats.FORMATS["cloud-init"](plan)
        assert text.startswith("#cloud-config\n")
        (data,) = documents(text)
        assert set(data) <= {"write_files", "runcmd", "power_state"}
        for file in data.get("write_files", []):
            assert set(file) == {"path", "permissions", "content"}
            assert re.fullmatch(r"0[0-7]{3}", file["permissions"])
        for one in data["runcmd"]:
            assert one[:2] == ["sh", "-c"]
        assert ("power_state" in data) == any(step.reboot for step in plan.steps)


def test_a_daemonset_is_kubernetes_own(tmp_path: Path, matrix: Matrix) -> None:
    for family, plan in plans(tmp_path, matrix).items():
        found = documents(formats.FORMATS["daemonset"](plan))
        assert bool(found) != family.endswith("-bare"), family
        for one in found:
            deployed.check(one)
        if found:
            pod = found[1]["spec"]["template"]["spec"]
            assert pod["initContainers"][0]["securityContext"] == {"privileged": True}
            assert "privileged" not in pod["containers"][0]["securityContext"]
            assert "hostPath" not in json.dumps(pod)
            assert re.search(r":[0-9.]+$", pod["containers"][0]["image"])


def test_a_profile_is_one_that_tuned_reads(tmp_path: Path, matrix: Matrix) -> None:
    for plan in plans(tmp_path, matrix).values():
        parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=True)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(formats.FORMATS["tuned"](plan))
        assert parser["main"]["summary"]


def test_units_are_ones_that_systemd_reads(tmp_path: Path, matrix: Matrix) -> None:
    for plan in plans(tmp_path, matrix).values():
        files = {file.path: file for file in systemd.files(plan)}
        assert len(files) == len(systemd.files(plan))
        for path, file in files.items():
            if path.endswith(".service"):
                parser = configparser.ConfigParser(
                    delimiters=("=",), interpolation=None, strict=False
                )
                parser.read_string(file.content)
                assert set(parser.sections()) == {"Unit", "Service", "Install"}
                assert parser["Service"]["ExecStart"].startswith("/")
            assert path.startswith("/")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_past_is_in_no_plan(family: str, tmp_path: Path, matrix: Matrix) -> None:
    for name, plan in plans(tmp_path, matrix).items():
        if name.partition("-")[0] == family:
            text = json.dumps(dataclasses.asdict(plan))
            for old in ("apt-key ", "nvidia-driver-535", "nvidia-docker", ":latest", "-pm 1"):
                assert old not in text.replace("apt-key is gone", "")


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        ("ubuntu", "ubuntu-drivers install --gpgpu nvidia:580-server-open"),
        ("debian", "nvidia-driver-pinning-580"),
        ("rhel", "dnf -y module enable nvidia-driver:580-open"),
        ("suse", "nvidia-open"),
    ],
)
def test_a_driver_is_of_a_branch_that_gets_fixes(
    family: str, wanted: str, tmp_path: Path, matrix: Matrix
) -> None:
    plan = made(planned_hosts.bare(family), tmp_path, matrix)
    steps = [step for step in plan.steps if step.row == "driver"]
    assert wanted in json.dumps([dataclasses.asdict(step) for step in steps])
    assert any(step.reboot for step in steps)


def test_ubuntu_with_nvidias_repository_stays_with_it(tmp_path: Path, matrix: Matrix) -> None:
    files = {"/usr/share/keyrings/cuda-archive-keyring.gpg": ""}
    host = dataclasses.replace(planned_hosts.bare("ubuntu"), files=files)
    plan = made(host, tmp_path, matrix, Wishes(toolkit="13.0"))
    packages = [one for step in plan.steps for one in step.packages]
    assert {"nvidia-driver-pinning-580", "nvidia-open", "linux-headers-6.8.0-87-generic"} <= set(
        packages
    )
    assert "ubuntu-drivers" not in json.dumps(dataclasses.asdict(plan))
    paths = [file.path for step in plan.steps for file in step.files]
    assert not any(path.startswith("/etc/apt/preferences.d") for path in paths)


def test_a_toolkit_alone_makes_nvidias_no_source_of_drivers(tmp_path: Path, matrix: Matrix) -> None:
    """What the first plan pins to -1 the second does not ask for."""
    bare = planned_hosts.bare("ubuntu")
    first = made(bare, tmp_path / "first", matrix, Wishes(toolkit="13.0"))
    (pin,) = (file for step in first.steps for file in step.files if "preferences.d" in file.path)
    files = {"/usr/share/keyrings/cuda-archive-keyring.gpg": "", pin.path: pin.content}
    after = dataclasses.replace(bare, files=files)
    second = made(after, tmp_path / "second", matrix, Wishes(toolkit="13.0"))
    assert "ubuntu-drivers install" in json.dumps(dataclasses.asdict(second))
    assert pin in [file for step in second.steps for file in step.files]
    assert "nvidia-open" not in [one for step in second.steps for one in step.packages]


@pytest.mark.parametrize(
    ("family", "kernel", "headers"),
    [
        ("debian", "6.1.0-28-amd64", "linux-headers-amd64"),
        ("debian", "6.1.0-28-cloud-amd64", "linux-headers-cloud-amd64"),
        ("debian", "6.12.48+deb13-cloud-arm64", "linux-headers-cloud-arm64"),
        ("debian", "6.1.0-28-rt-amd64", "linux-headers-rt-amd64"),
        ("debian", "6.9.1 $(id)", "linux-headers-amd64"),
        ("ubuntu", "6.8.0-1021-aws", "linux-headers-6.8.0-1021-aws"),
        ("ubuntu", "6.11.0-17-generic", "linux-headers-6.11.0-17-generic"),
        ("ubuntu", "6.8.0;id", "linux-headers-generic"),
    ],
)
def test_headers_are_of_the_kernel_that_runs(
    family: str, kernel: str, headers: str, tmp_path: Path, matrix: Matrix
) -> None:
    files = {"/usr/share/keyrings/cuda-archive-keyring.gpg": ""}
    host = dataclasses.replace(planned_hosts.bare(family), files=files, kernel=kernel)
    plan = made(host, tmp_path, matrix)
    assert headers in [one for step in plan.steps for one in step.packages]


@pytest.mark.parametrize("system", [("ubuntu", "20.04"), ("debian", "11")])
def test_a_release_that_is_too_old_for_drivers_gets_none(
    system: tuple[str, str], tmp_path: Path, matrix: Matrix
) -> None:
    """The container toolkit has one repository for all."""
    host = dataclasses.replace(planned_hosts.bare("ubuntu"), os=system, toolkit="1.14.3-1")
    plan = made(host, tmp_path, matrix)
    assert {step.id for step in plan.steps if step.kind == "package"} == {
        "container-toolkit-repository",
        "container-toolkit",
        "container-toolkit-docker",
    }
    assert "packaged for" in {one.row: one.why for one in plan.left}["driver"]
    with pytest.raises(UserError, match="--cuda-toolkit"):
        made(host, tmp_path, matrix, Wishes(toolkit="13.0"))


@pytest.mark.parametrize("system", [("centos", "7"), ("sles", "12.5")])
def test_a_release_with_other_programs_is_of_no_family(
    system: tuple[str, str], tmp_path: Path, matrix: Matrix
) -> None:
    plan = made(dataclasses.replace(planned_hosts.bare("rhel"), os=system), tmp_path, matrix)
    assert plan.family == ""
    assert not any(step.kind == "package" for step in plan.steps)


@pytest.mark.parametrize(
    ("programs", "told"),
    [(("containerd",), "--runtime=containerd"), (("crio",), "--runtime=crio"), (("podman",), "")],
)
def test_engines_of_kubernetes_are_told_what_is_left(
    programs: tuple[str, ...], told: str, tmp_path: Path, matrix: Matrix
) -> None:
    host = dataclasses.replace(planned_hosts.untuned("debian"), programs=programs)
    steps = {step.id: step for step in made(host, tmp_path, matrix).steps}
    assert told in steps["container-toolkit"].note
    assert bool(told) == bool(steps["container-toolkit"].note)
    assert "container-toolkit-docker" not in steps


def test_a_wish_is_granted_whichever_rows_are_chosen(tmp_path: Path, matrix: Matrix) -> None:
    wished = dataclasses.replace(WISHES, rows=frozenset({"thp"}))
    plan = made(planned_hosts.untuned("debian"), tmp_path, matrix, wished)
    rows = {step.row for step in plan.steps}
    assert rows == {"thp", "hugepages-1g", "power-limit", "mig", "cuda-toolkit"}
    assert plan.left == ()


def test_a_volta_gets_the_proprietary_module(tmp_path: Path, matrix: Matrix) -> None:
    gpus = Gpus(name="Tesla V100", architecture="Volta", driver="525.60.13", cuda="12.0")
    host = dataclasses.replace(planned_hosts.bare("rhel"), gpus=gpus, smi=None)
    plan = made(host, tmp_path, matrix)
    packages = [one for step in plan.steps for one in step.packages]
    assert "cuda-drivers" in packages
    assert "nvidia-open" not in packages


@pytest.mark.parametrize("system", [("sles", "15.7"), ("rocky", "10.0")])
def test_a_volta_gets_no_driver_that_does_not_know_it(
    system: tuple[str, str], tmp_path: Path, matrix: Matrix
) -> None:
    """After R580 none does, and these install the newest."""
    gpus = Gpus(name="Tesla V100", architecture="Volta", driver="525.60.13", cuda="12.0")
    host = dataclasses.replace(planned_hosts.bare("rhel"), gpus=gpus, smi=None, os=system)
    plan = made(host, tmp_path, matrix)
    assert "driver" not in {step.id for step in plan.steps}
    assert "knows no GPUs before Turing" in {one.row: one.why for one in plan.left}["driver"]


def test_one_driver_puts_driver_and_module_right(tmp_path: Path, matrix: Matrix) -> None:
    host = HOSTS["b200-proprietary"]
    old = dataclasses.replace(host.gpus or Gpus(), driver="525.60.13", cuda="12.0")
    plan = made(dataclasses.replace(host, gpus=old), tmp_path, matrix)
    assert [step.id for step in plan.steps].count("driver") == 1


def test_pages_of_the_other_size_in_use_keep_their_arguments(
    tmp_path: Path, matrix: Matrix
) -> None:
    host = dataclasses.replace(HOSTS["reserved-pages"], pages=(1024, 12))
    plan = made(host, tmp_path, matrix)
    assert "which are in use" in {one.row: one.why for one in plan.left}["hugepages-1g"]
    assert not any(step.kind == "no-kernel-argument" for step in plan.steps)


def test_suse_gets_the_small_pages_by_tmpfiles(tmp_path: Path, matrix: Matrix) -> None:
    plan = made(planned_hosts.untuned("suse"), tmp_path, matrix, WISHES)
    steps = {step.id: step for step in plan.steps}
    assert steps["hugepages"].advised == "hugepagesz=1G hugepages=8"
    assert steps["hugepages-2m"].live[0].value == "1024"


@pytest.mark.parametrize(
    ("options", "back"), [("rw,size=65536k", "67108864"), ("rw,nosuid", "50%%")]
)
def test_the_size_of_shared_memory_is_given_back(
    options: str, back: str, tmp_path: Path, matrix: Matrix
) -> None:
    meminfo = {"/proc/meminfo": "MemTotal:  4194304 kB\n"}
    host = dataclasses.replace(planned_hosts.untuned("debian"), shm=options, files=meminfo)
    plan = made(host, tmp_path, matrix, Wishes(rows=frozenset({"shm"})))
    (step,) = plan.steps
    assert f"ExecStop=/bin/mount -o remount,size={back} /dev/shm" in step.files[0].content


@pytest.mark.parametrize(
    ("card", "layout", "devices", "told"),
    [
        ("h100-80", "7x1g.10gb", "0,8", "there is no GPU 8 on this host; its GPUs are 0 to 7"),
        ("a100-80", "7x1g.10gb", "0", "--gpu a100-80: GPU 0 is 'NVIDIA H100 80GB HBM3'"),
        ("h100-94", "7x1g.12gb", "all", "--gpu h100-94: GPU 0 is 'NVIDIA H100 80GB HBM3'"),
        ("h200", "7x1g.18gb", "7", "--gpu h200: GPU 7 is 'NVIDIA H100 80GB HBM3'"),
    ],
)
def test_only_cards_that_are_there_are_divided(
    card: str, layout: str, devices: str, told: str, tmp_path: Path, matrix: Matrix
) -> None:
    divided, chosen = wishes.mig(card, layout, devices)
    with pytest.raises(UserError) as caught:
        made(HOSTS["dgx-h100"], tmp_path, matrix, Wishes(mig=divided, devices=chosen))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "card", "layout"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40", "7x1g.5gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80", "7x1g.10gb"),
        ("NVIDIA H100 PCIe", "h100-80", "7x1g.10gb"),
        ("NVIDIA H100 NVL", "h100-94", "7x1g.12gb"),
        ("NVIDIA H200 NVL", "h200", "7x1g.18gb"),
        ("NVIDIA B200", "b200", "7x1g.23gb"),
        ("NVIDIA A30", "a30", "4x1g.6gb"),
    ],
)
def test_cards_are_known_by_the_drivers_names(
    name: str, card: str, layout: str, tmp_path: Path, matrix: Matrix
) -> None:
    host = dataclasses.replace(HOSTS["dgx-h100"], gpus=Gpus(name=name))
    divided, _ = wishes.mig(card, layout, "all")
    plan = made(host, tmp_path, matrix, Wishes(mig=divided, devices="all"))
    assert "mig" in {step.id for step in plan.steps}


def test_a_gh200_is_no_h200(tmp_path: Path, matrix: Matrix) -> None:
    host = dataclasses.replace(HOSTS["dgx-h100"], gpus=Gpus(name="NVIDIA GH200 480GB"))
    divided, _ = wishes.mig("h200", "7x1g.18gb", "0")
    with pytest.raises(UserError, match="GH200"):
        made(host, tmp_path, matrix, Wishes(mig=divided))


def test_limits_that_are_raised_lower_no_hard_one() -> None:
    part = plan_settings.ulimit("nofile", (Setting(kind="ulimit", name="nofile", value="65536"),))
    assert "* hard nofile 1048576" in part.files[0].content
    assert "DefaultLimitNOFILE=65536:1048576" in part.files[1].content


@pytest.mark.parametrize(
    ("watts", "told"), [(100, "GPU 0 takes 200 to 700 W"), (900, "GPU 0 takes 200 to 700 W")]
)
def test_a_power_limit_is_one_that_the_card_takes(
    watts: int, told: str, tmp_path: Path, matrix: Matrix
) -> None:
    with pytest.raises(UserError, match=told):
        made(HOSTS["dgx-h100"], tmp_path, matrix, Wishes(power=watts))


def test_a_power_limit_needs_a_card(tmp_path: Path, matrix: Matrix) -> None:
    with pytest.raises(UserError, match="no GPU whose limit can be set"):
        made(HOSTS["cpu-only"], tmp_path, matrix, Wishes(power=300))


def test_pages_are_fewer_than_the_memory(tmp_path: Path, matrix: Matrix) -> None:
    with pytest.raises(UserError, match="1000\\.0 GiB of 1024\\.0 GiB of memory"):
        made(HOSTS["dgx-h100"], tmp_path, matrix, Wishes(pages=wishes.pages("1G=1000")))


_ODD = ["x; rm -rf /", "$(id)", "a\nb", "`id`", "'", '"', "../../etc/passwd", "{{ 1 }}", "", "a b"]


@pytest.mark.parametrize("odd", _ODD)
def test_what_a_host_says_is_no_command(odd: str) -> None:
    def refuses(kind: Any, name: str, value: str, make: Any) -> None:
        with pytest.raises(plan_settings.OddError):
            make("row", (Setting(kind=kind, name=name, value=value),))

    refuses("sysctl", odd, "1", plan_settings.sysctl)
    refuses("sysctl", "vm.swappiness", odd, plan_settings.sysctl)
    refuses("sysfs", f"/sys/block/{odd}/../queue", "none", plan_settings.sysfs)
    refuses("sysfs", "/sys/block/nvme0n1/queue/scheduler", odd, plan_settings.sysfs)
    refuses("ulimit", odd, "1", plan_settings.ulimit)
    refuses("mount", odd, "1", plan_settings.mount)
    if odd:
        with pytest.raises(plan_settings.OddError):
            plan_settings.words_of((Setting(kind="kernel-argument", name="x", value=odd),))


@settings(max_examples=100)
@given(data=st.data())
def test_no_recorded_host_makes_it_raise(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, matrix: Matrix
) -> None:
    host = HOSTS[data.draw(st.sampled_from(sorted(HOSTS)))]
    if data.draw(st.booleans()):
        host = dataclasses.replace(host, os=FAMILIES[data.draw(st.sampled_from(sorted(FAMILIES)))])
    files = host.unpacked()
    few = sorted(path for path in files if not re.search(r"/cpu([2-9]|\d\d)/", path))
    files = {path: files[path] for path in few}
    for path in data.draw(st.sets(st.sampled_from(few), max_size=12)):
        files[path] = data.draw(_JUNK)
    folder = unpack(files, tmp_path_factory.mktemp("host"))
    plan = planned_hosts.of_folder(folder, matrix)
    for form, write in formats.FORMATS.items():
        text = write(plan)
        if form in ("ansible", "cloud-init", "daemonset"):
            documents(text)
    json.dumps(dataclasses.asdict(plan))


def test_the_documentation_has_formats_options_and_what_is_out_of_date() -> None:
    text = (ROOT / "docs/host.md").read_text()
    told = text.partition("| `--format` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([a-z-]+)` ", told, re.M) == list(formats.FORMATS)
    table = text.partition("| older guides say |")[2].partition("\n\n")[0]
    for old in (
        *("apt-key", "v1alpha1", "replace_method", ":latest", "nvidia-driver-535", "-pm 1"),
        *("numa_balancing", "isolcpus", "hugepages", "swappiness", "scheduler", "nvidia-docker2"),
        *("cpupower", "nohz_full", "taskset", "numactl", "transparent_hugepage", "-pl 400"),
        *(
            "mig -cgi",
            "apt install cuda",
            "cuDNN",
            "NCCL",
            "TensorRT",
            "--gpus",
            "--runtime=nvidia",
        ),
    ):
        assert old in table, old
    for line in table.strip().splitlines()[1:]:
        assert len(re.split(r"(?<!\\)\|", line)) == 5, line
    rows = re.findall(r"rows? `([a-z0-9-]+)`", table)
    assert set(rows) <= set(check.LOOKS)


def test_families_have_their_facts() -> None:
    assert set(families.table().families) == set(FAMILIES)
    known = {name for one in families.table().families.values() for name in one.ids}
    systems = set(check_rows.book().systems)
    assert systems - known == set(), "a system of rows.yaml has no family"


def test_the_command_prints_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a recorded host was asked by a process")

    monkeypatch.setattr(proc, "find", refuse)
    monkeypatch.setattr(proc, "capture", refuse)
    root = unpack(planned_hosts.untuned("ubuntu").unpacked(), tmp_path / "host")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for form in formats.FORMATS:
        assert run(monkeypatch, "host", "plan", "--root", str(root), "--format", form) == 0
        assert "numa" in capsys.readouterr().out
    assert run(monkeypatch, "host", "plan", "--root", str(root), "--rows", "thp", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [step["id"] for step in told["steps"]] == ["thp"]
    assert told["family"] == "ubuntu"
    assert run(monkeypatch, "host", "plan", "--root", str(root), "--undo") == 0
    assert "nothing to undo" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--rows", "govenor"), "--rows: no row 'govenor'; did you mean 'governor'?"),
        (("--rows", ""), "--rows: no row ''"),
        (("--hugepages", "4K=1"), "'4K=1' is no SIZE=COUNT"),
        (("--hugepages", "2M=0"), "'2M=0' is no SIZE=COUNT"),
        (("--hugepages", "2M=1,2m=2"), "2M is there twice"),
        (("--hugepages", "2M=" + "9" * 30), "is no SIZE=COUNT"),
        (("--cuda-toolkit", "latest"), "'latest' is no release of CUDA"),
        (("--power-limit", "0"), "no whole number from 1 to 99999"),
        (("--mig", "7x1g.10gb"), "--mig: of which card?"),
        (("--mig", "9x1g.10gb", "--gpu", "h100"), "does not fit"),
        (("--mig", "7x1g.10gb", "--gpu", "h100", "--devices", "a"), "are no indexes"),
        (("--mig", "7x1g.10gb", "--gpu", "h100", "--devices", "\uff10"), "are no indexes"),
        (("--mig", "7x1g.10gb", "--gpu", "h100", "--devices", "0,00"), "0 is there twice"),
        (("--gpu", "h100"), "--gpu says nothing without --mig"),
        (("--devices", "0,1"), "--devices says nothing without --mig"),
        (("--undo", "--json"), "--undo and --json"),
        (("--undo", "--hugepages", "2M=1"), "--undo takes back whatever"),
        (("--json", "--format", "ansible"), "--json and --format ansible"),
        (("--cuda-toolkit", "\uff11\uff13.0"), "is no release of CUDA"),
        (("--cuda-toolkit", "10.2"), "is no release of CUDA"),
        (("--hugepages", "2M=\uff11"), "is no SIZE=COUNT"),
        (("--undo", "--format", "tuned"), "--undo: what --format tuned sets"),
        (("--format", "chef"), "'chef' is unknown; known: sh, ansible"),
        (("--matrix", "cuda13.0-vlm"), "did you mean"),
    ],
)
def test_a_mistake_is_one_line(
    args: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = unpack(HOSTS["dgx-h100"].unpacked(), tmp_path)
    assert run(monkeypatch, "host", "plan", "--root", str(root), *args) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert told in shown.err

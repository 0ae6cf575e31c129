"""Steps for the settings of the running system: one function a kind.

What a host's files say goes into files and commands here: each name and value is held against what
such a one may be, and what is none of them becomes no step.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from builder.host.check.rows import Row, Setting
from builder.host.plan.families import System
from builder.host.plan.steps import Command, File, Kind, Left, Live, Step

_SYSCTL = re.compile(r"[a-z0-9_]{1,40}(\.[a-z0-9_-]{1,60}){1,4}")
_WORD = re.compile(r"[A-Za-z0-9_.,:+-]{1,60}")
_SYSFS = re.compile(r"/sys(/[A-Za-z0-9_.:!-]{1,80}){2,12}")
_ARGUMENT = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_ARGUMENT_VALUE = re.compile(r"[A-Za-z0-9_.,:+/@-]{0,200}")
_ONE_GPU = re.compile(r"(\d{1,3})=(\d{1,5}(\.\d{1,2})?)")
_CPU = re.compile(r"/cpu\d{1,5}/")
_POOL = re.compile(r"/sys/kernel/mm/hugepages/hugepages-(\d+)kB/nr_hugepages")
_OWN = "# Written by imgbuild host plan ({}).\n"


class OddError(Exception):
    """A name or a value that no such setting has; no step is made of it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a kind adds to a step."""

    files: tuple[File, ...] = ()
    commands: tuple[Command, ...] = ()
    units: tuple[str, ...] = ()
    live: tuple[Live, ...] = ()
    reboot: bool = False
    note: str = ""


def _fit(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text) or ".." in text:
        raise OddError(text)
    return text


def own(name: str) -> str:
    """The first line of a file that a step writes."""
    return _OWN.format(name)


def sysctl(name: str, settings: tuple[Setting, ...]) -> Part:
    """Kernel variables: now, and in sysctl.d for each boot."""
    pairs = [(_fit(_SYSCTL, one.name), _fit(_WORD, one.value)) for one in settings]
    lines = "".join(f"{key} = {value}\n" for key, value in pairs)
    return Part(
        files=(File(path=f"/etc/sysctl.d/90-imgbuild-{name}.conf", content=own(name) + lines),),
        live=tuple(
            Live(path=f"/proc/sys/{key.replace('.', '/')}", value=value) for key, value in pairs
        ),
    )


def sysfs(name: str, settings: tuple[Setting, ...]) -> Part:
    """Files of /sys: now, and by tmpfiles.d or a udev rule for each boot."""
    pairs = [(_fit(_SYSFS, one.name), _fit(_WORD, one.value)) for one in settings]
    # All CPUs alike are one line, also for those that are put in later.
    pairs = list(dict.fromkeys((_CPU.sub("/cpu[0-9]*/", path), value) for path, value in pairs))
    live = tuple(Live(path=path, value=value) for path, value in pairs)
    if all(path.startswith("/sys/block/nvme") for path, _ in pairs):
        # Disks come and go, and tmpfiles.d is read once. A partition has no queue.
        rule = (
            'ACTION=="add|change", SUBSYSTEM=="block", ENV{DEVTYPE}=="disk",'
            f' KERNEL=="nvme[0-9]*n[0-9]*", ATTR{{queue/scheduler}}="{pairs[0][1]}"\n'
        )
        file = File(path=f"/etc/udev/rules.d/90-imgbuild-{name}.rules", content=own(name) + rule)
        # Where no udevd runs, as in a chroot, the next one reads it.
        reload = "[ ! -S /run/udev/control ] || udevadm control --reload"
        return Part(files=(file,), commands=(Command(do=reload, undo=reload),), live=live)
    # Source: tmpfiles.d(5), type w: patterns of the shell are expanded, and the file is written.
    lines = "".join(f"w {path} - - - - {value}\n" for path, value in pairs)
    file = File(path=f"/etc/tmpfiles.d/90-imgbuild-{name}.conf", content=own(name) + lines)
    return Part(files=(file,), live=live)


def words_of(settings: tuple[Setting, ...]) -> tuple[str, ...]:
    """Arguments as the kernel's command line has them."""
    return tuple(
        _fit(_ARGUMENT, one.name) + ("=" + _fit(_ARGUMENT_VALUE, one.value) if one.value else "")
        for one in settings
    )


def arguments(
    name: str, system: System, add: tuple[str, ...], remove: tuple[str, ...] = ()
) -> Part:
    """Arguments of the kernel, in the family's way; `remove` has whole words."""
    part = _BOOTS[system.facts.arguments](name, add, remove)
    return Part(files=part.files, commands=part.commands, reboot=True)


def _grub_d(name: str, add: tuple[str, ...], remove: tuple[str, ...]) -> Part:
    """A file that grub-mkconfig of Debian and Ubuntu reads after /etc/default/grub, as a shell."""
    lines = own(name)
    if remove:
        # Words stand between spaces; a word is removed as often as it is there.
        pattern = "|".join(re.sub(r"[.+/]", r"\\\g<0>", word) for word in remove)
        lines += (
            "imgbuild_without() {\n"
            "    printf ' %s ' \"$1\" | sed -E "
            f"':a; s/ ({pattern}) / /; ta; s/^ *//; s/ *$//'\n"
            "}\n"
        )
        for variable in ("GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"):
            lines += f'{variable}=$(imgbuild_without "${{{variable}-}}")\n'
    if add:
        lines += f'GRUB_CMDLINE_LINUX="${{GRUB_CMDLINE_LINUX-}} {" ".join(add)}"\n'
    file = File(path=f"/etc/default/grub.d/99-imgbuild-{name}.cfg", content=lines)
    return Part(files=(file,), commands=(Command(do="update-grub", undo="update-grub"),))


def _grubby(_name: str, add: tuple[str, ...], remove: tuple[str, ...]) -> Part:
    """RHEL's grubby, which changes all entries and what new kernels get."""
    found = "grubby --info=DEFAULT | tr '\"' ' ' | grep -qF -- ' {} '"
    change = "grubby --update-kernel=ALL --{}-args='{}'"
    put = "grubby --update-kernel=ALL --args='{}'"
    new, old = " ".join(add), " ".join(remove)
    checks = [f"! {found.format(word)}" for word in remove if word not in add]
    do, undo = [], []
    if remove:
        do.append(change.format("remove", old))
        undo.append(put.format(old))
    if add:
        checks.append(found.format(new))
        do.append(put.format(new))
        undo.insert(0, change.format("remove", new))
    # A pipeline that "!" negates ends its list only as a command of its own.
    check = " && ".join(f"{{ {one}; }}" for one in checks)
    return Part(commands=(Command(check=check, do=" && ".join(do), undo=" && ".join(undo)),))


def _pbl(_name: str, add: tuple[str, ...], remove: tuple[str, ...]) -> Part:
    """SUSE's pbl (update-bootloader), which knows each option once, by its name."""
    commands, before = [], {word.partition("=")[0]: word for word in remove}
    new = {word.partition("=")[0] for word in add}
    for name, word in before.items():
        if name not in new:
            commands.append(
                Command(
                    check=f"! pbl --get-option {name} | grep -qxF -- '{word}'",
                    do=f"pbl --del-option {name} --config",
                    undo=f"pbl --add-option {word} --config",
                )
            )
    for word in add:
        name = word.partition("=")[0]
        old = before.get(name)
        commands.append(
            Command(
                check=f"pbl --get-option {name} | grep -qxF -- '{word}'",
                do=f"pbl --add-option {word} --config",
                undo=f"pbl --add-option {old} --config"
                if old
                else f"pbl --del-option {name} --config",
            )
        )
    return Part(commands=tuple(commands))


_BOOTS: dict[str, Callable[[str, tuple[str, ...], tuple[str, ...]], Part]] = {
    "grub.d": _grub_d,
    "grubby": _grubby,
    "pbl": _pbl,
}


# The most that the kernel gives as it comes (fs.nr_open), and what systemd gives as hard limit
# without this: a soft limit that is raised must not lower the hard one.
_HARD = {"nofile": "1048576"}


def ulimit(name: str, settings: tuple[Setting, ...]) -> Part:
    """Limits of logins, and of systemd's services that set none of their own."""
    pairs = [(_fit(_WORD, one.name), _fit(_WORD, one.value)) for one in settings]
    logins, services = "", "[Manager]\n"
    for limit, soft in pairs:
        hard = _HARD.get(limit, soft)
        for who in ("*", "root"):  # "*" is not root: limits.conf(5)
            logins += f"{who} soft {limit} {soft}\n{who} hard {limit} {hard}\n"
        both = f"{soft}:{hard}" if soft != hard else soft
        services += f"DefaultLimit{limit.upper()}={both.replace('unlimited', 'infinity')}\n"
    paths = (
        "/etc/security/limits.d/90-imgbuild-{}.conf",
        "/etc/systemd/system.conf.d/90-imgbuild-{}.conf",
    )
    files = tuple(
        File(path=path.format(name), content=own(name) + text)
        for path, text in zip(paths, (logins, services), strict=True)
    )
    return Part(files=files, note="for logins from now on, and services from the next boot on")


def mount(name: str, settings: tuple[Setting, ...], before: int | None = None) -> Part:
    """The size of a tmpfs, now and at each boot; systemd mounts /dev/shm before it reads fstab.

    `before` is its size in bytes, None where nothing was said: half of the memory.
    """
    (one,) = settings
    if one.name != "/dev/shm" or not re.fullmatch(r"\d{1,15}", one.value):  # noqa: S108
        raise OddError(one.name)
    remount = f"/bin/mount -o remount,size={{}} {one.name}"
    back = remount.format("50%%" if before is None else before)  # "%" means something to systemd
    unit = oneshot(f"Size of {one.name}", (remount.format(one.value),), (back,))
    service = f"imgbuild-{name}.service"
    return Part(
        files=(File(path=f"/etc/systemd/system/{service}", content=own(name) + unit),),
        units=(service,),
    )


def oneshot(title: str, start: tuple[str, ...], stop: tuple[str, ...] = ()) -> str:
    """A unit that sets something at each boot, and where `stop` is given takes it back."""
    lines = [
        "[Unit]",
        f"Description={title} (imgbuild host plan)",
        "After=local-fs.target nvidia-persistenced.service",
        "Before=docker.service containerd.service kubelet.service",
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        *(f"ExecStart={one}" for one in start),
        *(f"ExecStop={one}" for one in stop),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def of_one_gpu(one: Setting) -> tuple[int, str]:
    """The GPU and the value of an option of nvidia-smi."""
    match = _ONE_GPU.fullmatch(one.value)
    if match is None:
        raise OddError(one.value)
    return int(match[1]), match[2]


def power_limit(name: str, settings: tuple[Setting, ...], before: dict[int, float | None]) -> Part:
    """Watts of each GPU, which the driver forgets; a unit says them at each boot."""
    pairs = [of_one_gpu(one) for one in settings]
    option = "/usr/bin/nvidia-smi -i {} --power-limit {}"
    start = tuple(option.format(gpu, watts) for gpu, watts in pairs)
    stop = tuple(
        option.format(gpu, f"{old:g}") for gpu, _ in pairs if (old := before.get(gpu)) is not None
    )
    service = f"imgbuild-{name}.service"
    unit = own(name) + oneshot("Power limits of GPUs", start, stop)
    return Part(
        files=(File(path=f"/etc/systemd/system/{service}", content=unit),), units=(service,)
    )


def ecc(_name: str, settings: tuple[Setting, ...]) -> Part:
    """ECC, which the card keeps, from its next reset on."""
    gpus = [of_one_gpu(one)[0] for one in settings]
    query = "nvidia-smi -i {} --query-gpu=ecc.mode.pending --format=csv,noheader"
    return Part(
        commands=tuple(
            Command(
                check=f"{query.format(gpu)} | grep -qx Enabled",
                do=f"nvidia-smi -i {gpu} --ecc-config=1",
                undo=f"nvidia-smi -i {gpu} --ecc-config=0",
            )
            for gpu in gpus
        ),
        reboot=True,
    )


def by_hand(row: Row, why: str, *settings: Setting) -> Left:
    """Advice that no step follows."""
    shown = ", ".join(f"{one.kind} {one.name}={one.value}" for one in settings[:4])
    more = f" and {len(settings) - 4} more" if len(settings) > 4 else ""
    return Left(
        row=row.id, title=row.title, now=row.now, setting=shown + more, why=why, change=row.change
    )


def step(row: Row, name: str, settings: tuple[Setting, ...], part: Part) -> Step:
    """A step for some settings of a row."""
    kind = settings[0].kind
    if kind in ("kubelet", "firmware"):
        raise OddError(kind)
    return Step(
        id=name,
        row=row.id,
        kind=cast(Kind, kind),
        title=row.title,
        now=row.now,
        advised=row.advised,
        why=row.why,
        source=row.source,
        settings=settings,
        files=part.files,
        commands=part.commands,
        units=part.units,
        live=part.live,
        reboot=part.reboot,
        note=part.note,
    )

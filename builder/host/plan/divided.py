"""The step that divides GPUs with MIG, at each boot: instances do not outlast one."""

from __future__ import annotations

import re

from builder.errors import UserError, quoted
from builder.host.check.smi import Gpu
from builder.host.mig import commands
from builder.host.mig.layout import Layout
from builder.host.plan.settings import oneshot, own
from builder.host.plan.steps import File, Step

_PROGRAM = "/usr/local/sbin/imgbuild-mig"
_SERVICE = "imgbuild-mig.service"
# That the instances are the program's, and whether the mode is; gone after a boot as they are.
_MADE = "/run/imgbuild-mig"


def refuse(layout: Layout, devices: str, gpus: tuple[Gpu, ...]) -> None:
    """Raise UserError where the GPUs are not there, or are no such cards."""
    here = {gpu.index: gpu for gpu in gpus}
    chosen = here if devices == commands.ALL else {int(one) for one in devices.split(",")}
    if not here:
        return  # no driver tells of them yet
    for index in sorted(chosen):
        if index not in here:
            raise UserError(
                f"--devices: there is no GPU {index} on this host",
                hint=f"its GPUs are 0 to {len(here) - 1}" if len(here) > 1 else "its only GPU is 0",
            )
        if not _is(layout, here[index].name):
            raise UserError(
                f"--gpu {layout.card_name}: GPU {index} is {quoted(here[index].name)}",
                hint="choose GPUs with --devices, and the card that they are with --gpu",
            )


def _is(layout: Layout, name: str) -> bool:
    """Whether that is what the driver calls such a card; its memory is not in each name."""
    said, size = re.search(r"\b(\d{2,3}) ?GB\b", name), layout.card_name.partition("-")[2]
    same = not (said and size) or said[1] == size
    return same and re.search(rf"\b{layout.card.product}\b", name) is not None


def step(layout: Layout, devices: str, now: str) -> Step:
    """Instances of a layout on some GPUs; what is divided otherwise is left alone."""
    unit = own("mig") + oneshot(f"MIG {layout}", (_PROGRAM,), (f"{_PROGRAM} stop",))
    return Step(
        id="mig",
        row="mig",
        kind="mig",
        title=f"MIG of GPUs {devices}",
        now=now,
        advised=str(layout),
        why="instances give each server a part of the GPU with memory and compute of its own",
        source=layout.card.source,
        files=(
            File(path=_PROGRAM, content=_program(layout, devices), mode="0755"),
            File(path=f"/etc/systemd/system/{_SERVICE}", content=unit),
        ),
        units=(_SERVICE,),
        note="GPUs must be idle; what they are divided into otherwise is not destroyed",
    )


def _program(layout: Layout, devices: str) -> str:
    by_name = {one.name: one.commands for one in commands.nvidia_smi(layout, devices)}
    which = "" if devices == commands.ALL else f" -i {devices}"
    gpus = (
        '"$(nvidia-smi -L | grep -c "^GPU ")"'
        if devices == commands.ALL
        else str(devices.count(",") + 1)
    )
    *instances, mode = by_name["destroy"]
    lines = [
        "#!/bin/sh",
        own("mig").rstrip("\n"),
        f"# Divides GPUs {devices} as {layout}, unless they are.",
        "#   destroy  takes all instances of these GPUs away",
        "#   stop     those that this program has made since the boot",
        "set -eu",
        f"gpus={gpus}",
        "",
        "case ${1-} in",
        "stop)",
        f"    [ -e {_MADE} ] || exit 0",
        # The commands fail where nothing is left to destroy.
        *(f"    {one} || :" for one in instances),
        f"    if grep -q mode {_MADE}; then {mode} || :; fi",
        f"    rm -f {_MADE}",
        "    exit 0",
        "    ;;",
        "destroy)",
        *(f"    {one} || :" for one in by_name["destroy"]),
        f"    rm -f {_MADE}",
        "    exit 0",
        "    ;;",
        "esac",
        "",
        f"found=$(nvidia-smi mig{which} -lgi 2>/dev/null || :)",
        "same=yes",
    ]
    for name, count in layout.counts:
        lines += [
            f"there=$(printf '%s\\n' \"$found\" | grep -cF 'MIG {name} ' || :)",
            f'[ "$there" -eq $((gpus * {count})) ] || same=no',
        ]
    total = sum(count for _, count in layout.counts)
    lines += [
        "there=$(printf '%s\\n' \"$found\" | grep -cF 'MIG ' || :)",
        f'[ "$there" -eq $((gpus * {total})) ] || same=no',
        '[ "$same" = no ] || exit 0',
        'if [ "$there" -ne 0 ]; then',
        "    echo \"imgbuild-mig: divided otherwise; 'imgbuild-mig destroy' takes that away\" >&2",
        "    exit 1",
        "fi",
        f"mode=$(nvidia-smi{which} --query-gpu=mig.mode.current --format=csv,noheader || :)",
        *by_name["enable"],
        *by_name["create"],
        f"case $mode in *Disabled*) echo mode ;; *) echo instances ;; esac > {_MADE}",
    ]
    return "\n".join(lines) + "\n"

"""The step that divides GPUs with MIG, at each boot: instances do not outlast one."""

from __future__ import annotations

from builder.host.mig import commands
from builder.host.mig.layout import Layout
from builder.host.plan.settings import oneshot, own
from builder.host.plan.steps import File, Step

_PROGRAM = "/usr/local/sbin/imgbuild-mig"
_SERVICE = "imgbuild-mig.service"


def step(layout: Layout, devices: str, now: str) -> Step:
    """Instances of a layout on some GPUs; what is divided otherwise is left alone."""
    unit = own("mig") + oneshot(f"MIG {layout}", (_PROGRAM,), (f"{_PROGRAM} destroy",))
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
    lines = [
        "#!/bin/sh",
        own("mig").rstrip("\n"),
        f"# Divides GPUs {devices} as {layout}, unless they are.",
        "set -eu",
        f"gpus={gpus}",
        "",
        'if [ "${1-}" = destroy ]; then',
        # The commands fail where nothing is left to destroy.
        *(f"    {one} || :" for one in by_name["destroy"]),
        "    exit 0",
        "fi",
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
        *by_name["enable"],
        *by_name["create"],
    ]
    return "\n".join(lines) + "\n"

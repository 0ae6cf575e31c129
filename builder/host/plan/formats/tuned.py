"""A plan as a profile of tuned."""

from __future__ import annotations

import re

from builder.host.check.rows import Setting
from builder.host.plan.formats.words import comment, headline, left_lines, without
from builder.host.plan.steps import Plan, Step

NOT = {  # kind -> why it cannot be written so
    "service": "units are systemd's: systemctl enable --now UNIT",
    "nvidia-smi": "tuned has no plugin for GPUs: the script or the systemd format has a unit",
    "ulimit": "limits belong to PAM and systemd, not to a profile",
    "mount": "a profile does not change the size of a tmpfs",
    "package": "a profile installs nothing",
    "mig": "tuned has no plugin for GPUs: the script or the systemd format has a unit",
}
_THP = "/sys/kernel/mm/transparent_hugepage/enabled"
_DISK = re.compile(r"/sys/block/([A-Za-z0-9_-]+)/queue/scheduler")


def render(plan: Plan) -> str:
    """tuned.conf of a profile that stands on none of tuned's own."""
    lines = ["# /etc/tuned/imgbuild/tuned.conf; then `tuned-adm profile imgbuild`."]
    lines += comment(
        "`tuned-adm profile` with the former profile's name takes all of it back. On some releases"
        " profiles are below /etc/tuned/profiles."
    )
    lines += left_lines(plan)
    lines += without([(step, NOT[step.kind]) for step in plan.steps if step.kind in NOT])
    lines += ["[main]", "summary=Host settings for LLM inference (imgbuild host plan)"]
    found = [step for step in plan.steps if step.kind not in NOT]
    boots = [step for step in found if step.kind in ("kernel-argument", "no-kernel-argument")]
    for step in found:
        if step not in boots:
            lines += ["", *comment(f"{step.id}: {headline(step)}"), *_section(step)]
    lines += ["", "[bootloader]"] if boots else []
    for step in boots:
        lines += [*comment(f"{step.id}: {headline(step)}"), _argument(step)]
    return "\n".join(lines) + "\n"


def _argument(step: Step) -> str:
    # Source: tuned's plugin bootloader: cmdline_NAME with "+" adds words, with "-" takes them out.
    sign = "+" if step.kind == "kernel-argument" else "-"
    words = [one.name + (f"={one.value}" if one.value else "") for one in step.settings]
    return f"cmdline_{_name(step)}={sign}{' '.join(words)}"


def _section(step: Step) -> list[str]:
    if step.kind == "sysctl":
        return [f"[sysctl_{_name(step)}]", "type=sysctl", *map(_pair, step.settings)]
    paths = [one.path for one in step.live]
    if paths == [_THP]:
        return [f"[vm_{_name(step)}]", "type=vm", f"transparent_hugepages={step.live[0].value}"]
    if all(path.endswith("/cpufreq/scaling_governor") for path in paths):
        return [f"[cpu_{_name(step)}]", "type=cpu", f"governor={step.live[0].value}"]
    disks = [match[1] for path in paths if (match := _DISK.fullmatch(path))]
    if len(disks) == len(paths):
        value = step.live[0].value
        return ["[disk]", f"devices={','.join(disks)}", f"elevator={value}"]
    return [
        f"[sysfs_{_name(step)}]",
        "type=sysfs",
        *(f"{one.path}={one.value}" for one in step.live),
    ]


def _name(step: Step) -> str:
    return re.sub(r"\W", "_", step.id)


def _pair(one: Setting) -> str:
    return f"{one.name}={one.value}"

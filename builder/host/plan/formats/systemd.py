"""A plan as files of systemd and udev: units, tmpfiles.d, sysctl.d, and a preset that enables."""

from __future__ import annotations

from builder.host.plan.formats.words import comment, headline, left_lines, without
from builder.host.plan.steps import File, Plan, Step

NOT = {  # kind -> why it cannot be written so
    "kernel-argument": "the kernel's command line is the boot loader's",
    "no-kernel-argument": "the kernel's command line is the boot loader's",
    "package": "systemd installs nothing",
}
_PRESET = "/etc/systemd/system-preset/90-imgbuild.preset"


def why_not(step: Step) -> str | None:
    """Why a step is no file of systemd's, None where it is one."""
    if step.kind in NOT:
        return NOT[step.kind]
    if not (step.files or step.units):
        return "it is told to the card once, by nvidia-smi, and no boot repeats it"
    return None


def files(plan: Plan) -> tuple[File, ...]:
    """The files, each once."""
    steps = [step for step in plan.steps if why_not(step) is None]
    found = [file for step in steps for file in step.files]
    if units := [unit for step in steps for unit in step.units]:
        lines = [f"enable {unit}" for unit in dict.fromkeys(units)]
        found.append(File(path=_PRESET, content="\n".join(lines) + "\n"))
    return tuple(found)


def render(plan: Plan) -> str:
    """All files one after the other, each below the line that names it."""
    lines = comment(
        "Files for an image of a system, or to be copied. On a running system then: systemctl"
        " daemon-reload; systemctl preset UNIT; sysctl --system; systemd-tmpfiles --create; udevadm"
        " control --reload. Without the files it is as before from the next boot on."
    )
    lines += left_lines(plan)
    refused = [(step, why) for step in plan.steps if (why := why_not(step)) is not None]
    lines += without(refused)
    for step in plan.steps:
        if why_not(step) is None:
            lines += comment(f"{step.id}: {headline(step)}")
    for file in files(plan):
        lines += ["", f"# ==> {file.path} ({file.mode})", file.content.rstrip("\n")]
    return "\n".join(lines) + "\n"

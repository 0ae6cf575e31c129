"""A plan as cloud-init's user data: for the first boot of a machine that is like this one."""

from __future__ import annotations

from typing import Any

from builder.host.plan.formats.words import as_yaml, comment, headline, left_lines, live_loop
from builder.host.plan.steps import Plan, Step

NOT: dict[str, str] = {}  # kind -> why it cannot be written so
_INSTALL = {
    "apt": "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y {}",
    "dnf": "dnf -y install {}",
    "zypper": "zypper --non-interactive --gpg-auto-import-keys install {}",
}


def render(plan: Plan) -> str:
    """User data; its commands run once, in the order of the steps, as root."""
    files = [
        {"path": file.path, "permissions": file.mode, "content": file.content}
        for step in plan.steps
        for file in step.files
    ]
    commands = [one for step in plan.steps for one in _commands(step, plan.manager)]
    data: dict[str, Any] = {}
    if files:
        data["write_files"] = files
    if commands:
        data["runcmd"] = commands
    if any(step.reboot for step in plan.steps):
        data["power_state"] = {
            "mode": "reboot",
            "message": "imgbuild host plan: what is read at boot",
            "timeout": 60,
        }
    lines = ["#cloud-config"]
    lines += comment("For the first boot; a machine that is made without it is as before.")
    for step in plan.steps:
        lines += comment(f"{step.id}: {headline(step)}")
    lines += left_lines(plan)
    text = as_yaml(data) if data else "{}\n"
    return "\n".join(lines) + "\n" + text


def _commands(step: Step, manager: str) -> list[list[str]]:
    lines = []
    if step.packages:
        names = " ".join(one.partition(">=")[0] for one in step.packages)
        lines.append(_INSTALL[manager].format(names))
    for one in step.commands:
        if one.writes:
            lines.append(f"mkdir -p {one.writes.rpartition('/')[0]}")
        lines.append(f"if {one.check}; then :; else {one.do}; fi" if one.check else one.do)
    if step.units and step.files:
        lines.append("systemctl daemon-reload")
    lines += [f"systemctl enable --now {unit}" for unit in step.units]
    lines += [live_loop(one, say=f"{step.id}:") for one in step.live]
    return [["sh", "-c", line] for line in lines]

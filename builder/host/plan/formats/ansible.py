"""A plan as an Ansible playbook of builtin modules."""

from __future__ import annotations

import re
from typing import Any

from builder.host.plan.formats.words import as_yaml, comment, headline, left_lines, live_loop
from builder.host.plan.steps import Command, Plan, Step

NOT: dict[str, str] = {}  # kind -> why it cannot be written so


def render(plan: Plan) -> str:
    """The playbook; `ansible-playbook -b -i HOSTS FILE`."""
    tasks = [task for step in plan.steps for task in _tasks(step)]
    play = {
        "name": f"imgbuild host plan for {_plain(plan.system)}",
        "hosts": "all",
        "become": True,
        "gather_facts": False,
        "tasks": tasks,
    }
    lines = comment(
        "Changes what differs; files that are replaced are kept beside the new ones. Nothing"
        " reboots: what says (reboot) takes effect at the next boot. Without the files that it"
        " names, units disabled and packages removed, all is as before after a reboot; the script's"
        " undo knows nothing of a playbook."
    )
    text = as_yaml([play])
    return "\n".join([*lines, *left_lines(plan)]) + "\n" + text


def _plain(text: str) -> str:
    """Text without what Ansible would take for a template: a host's files have said some of it."""
    return re.sub(r"\{([{%#])", r"{ \1", text)


def _tasks(step: Step) -> list[dict[str, Any]]:
    title = f"{step.id}: {_plain(headline(step))}{' (reboot)' if step.reboot else ''}"
    tasks: list[dict[str, Any]] = []

    def task(what: str, module: str, arguments: Any, **more: Any) -> None:
        tasks.append({"name": f"{title}: {what}", f"ansible.builtin.{module}": arguments, **more})

    for one in step.packages:
        name, _, least = one.partition(">=")
        state = "latest" if least else "present"
        # Without the last, apt knows nothing of a repository that a step before has added. The
        # modules of apt, dnf and zypper have it alike.
        arguments = {"name": name, "state": state, "update_cache": True}
        task(f"package {name}", "package", arguments)
    changed = re.sub(r"\W", "_", step.id) + "_file"
    registers = []
    written = (*(file.path for file in step.files), *(one.writes for one in step.commands))
    for folder in dict.fromkeys(path.rpartition("/")[0] for path in written if path):
        task(f"folder {folder}", "file", {"path": folder, "state": "directory"})
    for number, file in enumerate(step.files):
        registers.append(f"{changed}_{number}")
        task(
            file.path,
            "copy",
            {"dest": file.path, "mode": file.mode, "content": file.content, "backup": True},
            register=registers[-1],
        )
    when = " or ".join(f"{name} is changed" for name in registers)
    for number, command in enumerate(step.commands):
        told = f"{changed.removesuffix('file')}command_{number}"
        if command.check:
            more = {"register": told, "changed_when": f"'changed' in {told}.stdout"}
        else:
            more = {"when": when}
        task(command.do, "shell", {"cmd": _once(command)}, **more)
    for unit in step.units:
        arguments = {"name": unit, "enabled": True, "state": "started", "daemon_reload": True}
        task(f"unit {unit}", "systemd_service", arguments)
    for number, live in enumerate(step.live):
        told = f"{changed.removesuffix('file')}live_{number}"
        cmd = live_loop(live, say="changed")
        more = {"register": told, "changed_when": f"'changed' in {told}.stdout"}
        task(live.path, "shell", {"cmd": cmd}, **more)
    return tasks


def _once(command: Command) -> str:
    if not command.check:
        return command.do
    return f"if {command.check}; then exit 0; fi\n{command.do} && echo changed\n"

"""Ways to write a plan, one module each; each says of what it cannot express why."""

from __future__ import annotations

from collections.abc import Callable

from builder.host.plan.formats import ansible, cloudinit, daemonset, sh, systemd, tuned
from builder.host.plan.steps import Plan

FORMATS: dict[str, Callable[[Plan], str]] = {
    "sh": sh.render,
    "ansible": ansible.render,
    "cloud-init": cloudinit.render,
    "tuned": tuned.render,
    "systemd": systemd.render,
    "daemonset": daemonset.render,
}
undo = sh.undo

__all__ = ["FORMATS", "undo"]

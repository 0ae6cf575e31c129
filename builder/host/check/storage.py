"""Disks that weights are read from."""

from __future__ import annotations

import re

from builder.host.check.rows import Finding, Setting, better, not_here, ok, unknown
from builder.host.check.subject import Subject, counted


def io_scheduler(subject: Subject) -> Finding:
    """The I/O scheduler of NVMe disks."""
    found, settings = [], []
    paths = subject.host.names("/sys/block/nvme*/queue/scheduler")
    for path in paths:
        line = subject.host.line(path)
        match = re.search(r"\[([a-z-]{1,20})\]", line)
        chosen = match[1] if match else line if re.fullmatch(r"[a-z-]{1,20}", line) else ""
        if chosen:
            found.append(chosen)
        if chosen and chosen != "none":
            settings.append(Setting(kind="sysfs", name=path, value="none"))
    if not paths:
        return not_here("no NVMe disk")
    if not found:
        return unknown("their schedulers cannot be read")
    return better(counted(found), *settings) if settings else ok(counted(found))


ROWS = {"io-scheduler": io_scheduler}

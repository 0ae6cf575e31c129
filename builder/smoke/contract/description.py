"""The check of what an image says of itself: its labels, its port, how it starts and is watched."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from builder.errors import BuildError
from builder.smoke.contract.shells import is_shell
from builder.smoke.subject import Subject

LABELS = (
    *(f"org.opencontainers.image.{name}" for name in ("title", "version", "source", "licenses")),
    "org.opencontainers.image.created",
    "io.imgbuild.cell",
    "io.imgbuild.content",
)


def metadata(subject: Subject) -> str:
    """Labels, port, health check, and nothing that goes through a shell."""
    config, server = subject.config, subject.cell.framework.server
    wrong = [*_label_faults(subject), *_start_faults(subject)]
    if config.ports is not None and f"{server.port}/tcp" not in config.ports:
        wrong.append(f"the port {server.port} is not exposed")
    if config.health is not None:
        if not config.health or config.health[0] == "NONE":
            wrong.append("there is no health check")
        elif config.health[0] != "CMD" or is_shell(config.health[1:]):
            wrong.append("the health check goes through a shell")
    if wrong:
        raise BuildError("; ".join(wrong))
    rest = "a SIF has no port and no health check" if subject.is_sif else "port, health check"
    return f"{len(config.labels)} labels, start without a shell, {rest}"


def _label_faults(subject: Subject) -> Iterator[str]:
    labels, cell = subject.config.labels, subject.cell
    if missing := [name for name in LABELS if not labels.get(name)]:
        yield f"no label {', '.join(missing)}"
    wanted = {
        "org.opencontainers.image.title": cell.id,
        "org.opencontainers.image.version": cell.release.version,
        "io.imgbuild.cell": cell.id,
    }
    for name, value in wanted.items():
        if labels.get(name, value) != value:
            yield f"the label {name} is {labels[name]}, not {value}"
    created = labels.get("org.opencontainers.image.created")
    try:
        datetime.fromisoformat(created or "2000-01-01")
    except ValueError:
        yield f"the label org.opencontainers.image.created is no time: {created}"


def _start_faults(subject: Subject) -> Iterator[str]:
    start = subject.config.start
    if not start:
        yield "nothing says what it starts"
    elif subject.is_sif:
        last = [line.strip() for line in start if line.strip()][-1:]
        if not last or not last[0].startswith("exec "):
            yield "the runscript does not end in exec, so that a shell stays before the server"
        elif is_shell(last[0].split()[1:]):
            yield "the runscript goes through another shell, which stays before the server"
    elif is_shell(start):
        yield "ENTRYPOINT or CMD goes through a shell, which keeps signals from the server"

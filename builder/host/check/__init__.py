"""`imgbuild host check`: what a host is set to, and what it should be. Reads, never writes."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from builder import matrix
from builder.facts import Accelerator, Matrix, version_key
from builder.host.check import containers, cpu, gpu, libraries, memory, smi, storage, system
from builder.host.check.recorded import SMI, Host
from builder.host.check.rows import Finding, Row, Status, book, row
from builder.host.check.subject import Subject
from builder.model import Cell

LOOKS: dict[str, Callable[[Subject], Finding]] = {
    **system.ROWS,
    **cpu.ROWS,
    **memory.ROWS,
    **storage.ROWS,
    **gpu.ROWS,
    **libraries.ROWS,
    **containers.ROWS,
}


def subject_of(
    host: Host,
    told: str | None,
    loaded: Matrix,
    *,
    wanted: tuple[Cell, ...] = (),
    today: datetime.date,
) -> Subject:
    """What rows look at; `told` is what nvidia-smi printed, `wanted` the cells to run there."""
    published = (
        cell
        for cell in matrix.select(loaded, None)
        if cell.stack.accelerator is Accelerator.CUDA and cell.stack.driver
    )
    return Subject(
        host=host,
        smi=smi.parse(told),
        book=book(),
        today=today,
        cells=tuple(sorted(published, key=lambda cell: version_key(cell.stack.driver or ""))),
        wanted=tuple(cell for cell in wanted if cell.stack.accelerator is Accelerator.CUDA),
    )


def rows_of(subject: Subject) -> tuple[Row, ...]:
    """All rows of it."""
    return tuple(row(name, find(subject)) for name, find in LOOKS.items())


def look(
    host: Host,
    told: str | None,
    loaded: Matrix,
    *,
    wanted: tuple[Cell, ...] = (),
    today: datetime.date,
) -> tuple[Row, ...]:
    """All rows of a host, as `subject_of` has it."""
    return rows_of(subject_of(host, told, loaded, wanted=wanted, today=today))


def told(host: Host) -> str | None:
    """What nvidia-smi prints: asked on a live host, read on a recorded one."""
    return smi.ask() if host.live else host.text(f"/{SMI}") or None


# What an engine leaves in each of its containers.
_CONTAINERS = {
    "/.dockerenv": "Docker",
    "/run/.containerenv": "Podman",
    "/.singularity.d": "Apptainer",
    "/var/run/secrets/kubernetes.io": "Kubernetes",
}


def container(host: Host) -> str | None:
    """Whose container this is: much of what it has below /etc and /usr is not the host's."""
    return next((name for path, name in _CONTAINERS.items() if host.has(path)), None)


def record(host: Host, printed: str | None, folder: Path) -> int:
    """Write what was read of a host into a new folder, whole or not at all; how many files."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    partial.mkdir()
    try:
        files = host.save(partial, smi.kept(printed))
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return files


def has_failed(rows: tuple[Row, ...]) -> bool:
    """Whether a required row fails."""
    return any(one.status is Status.FAILED and one.required for one in rows)


__all__ = [
    "LOOKS",
    "Host",
    "Row",
    "Status",
    "Subject",
    "container",
    "has_failed",
    "look",
    "record",
    "rows_of",
    "subject_of",
    "told",
]

"""GPUs: their driver, and what it has set them to."""

from __future__ import annotations

from collections.abc import Callable

from builder.facts import version_key
from builder.host.check.recorded import version
from builder.host.check.rows import (
    Finding,
    Setting,
    Thresholds,
    better,
    failed,
    not_here,
    ok,
    unknown,
)
from builder.host.check.smi import Gpu
from builder.host.check.subject import Subject, counted
from builder.model import Cell

_NO_GPU = "no NVIDIA GPU"


def driver(subject: Subject) -> Finding:
    """Whether the driver runs what is wanted here, or anything that is published."""
    if not subject.has_gpu:
        if subject.wanted:
            return failed("none", f"{_named(subject.wanted)} needs an NVIDIA GPU, and none is here")
        return not_here(_NO_GPU)
    if subject.smi.error:
        now = f"{subject.driver}: {subject.smi.error}" if subject.driver else subject.smi.error
        return failed(now, "nvidia-smi does not reach the GPUs")
    running = version(subject.driver)
    if running is None:
        least = _floor(subject.wanted or subject.cells[:1])
        install = Setting(kind="package", name="nvidia-driver", value=least)
        return failed("none", "there is a GPU, and no driver runs", install)
    return _of_wanted(subject, running) if subject.wanted else _of_published(subject, running)


def _of_wanted(subject: Subject, running: tuple[int, ...]) -> Finding:
    least = _floor(subject.wanted)
    short = tuple(cell for cell in subject.wanted if not _runs(cell, running))
    if not short:
        return ok(f"{subject.driver} runs {_named(subject.wanted)}", f"{least} or newer")
    install = Setting(kind="package", name="nvidia-driver", value=least)
    reason = f"{_named(short)} needs {_floor(short)} or newer"
    return failed(subject.driver, reason, install, advised=f"{least} or newer")


def _of_published(subject: Subject, running: tuple[int, ...]) -> Finding:
    fitting = [cell for cell in subject.cells if _runs(cell, running)]
    if fitting:
        return ok(f"{subject.driver} runs cells up to {fitting[-1].stack_name}")
    least = _floor(subject.cells[:1])
    install = Setting(kind="package", name="nvidia-driver", value=least)
    return failed(subject.driver, f"published cells need {least} or newer", install)


def _runs(cell: Cell, driver: tuple[int, ...]) -> bool:
    return all(driver >= version_key(floor) for floor in _floors(cell))


def _floors(cell: Cell) -> list[str]:
    """Drivers that a cell needs: its stack's, and its GPU's own."""
    told = (cell.stack.driver, cell.gpu.driver if cell.gpu else None)
    return [floor for floor in told if floor]


def _floor(cells: tuple[Cell, ...]) -> str:
    floors = [floor for cell in cells for floor in _floors(cell)]
    return max(floors, key=version_key, default="")


def _named(cells: tuple[Cell, ...]) -> str:
    more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
    return f"{cells[0].id}{more}"


def branch(subject: Subject) -> Finding:
    """How long the driver's branch gets fixes."""
    now = version(subject.driver)
    if now is None:
        return not_here("no driver runs")
    told = subject.book.branches.get(str(now[0]))
    if told is None:
        return unknown("that branch is in no table here", f"R{now[0]}")
    if told.until is None:
        return better(f"R{now[0]}, {told.kind}", reason="newer branches have replaced it")
    text = f"R{now[0]}, {told.kind}, until {told.until}"
    if f"{subject.today:%Y-%m}" <= told.until:
        return ok(text)
    return better(text, reason="it gets no more fixes")


def kernel_module(subject: Subject) -> Finding:
    """Open or proprietary, as the GPUs' architecture wants it."""
    if not subject.has_gpu or subject.wsl:
        return not_here("Windows has the driver" if subject.wsl else _NO_GPU)
    if not subject.loaded:
        return unknown("/proc/driver/nvidia/version has no module's version")
    is_open = "Open Kernel Module" in subject.loaded
    now, thresholds = "open" if is_open else "proprietary", subject.book.thresholds
    kinds = {gpu.architecture for gpu in subject.smi.gpus if gpu.architecture}
    if kinds & set(thresholds.closed_only):
        which = ", ".join(sorted(kinds))
        return ok(now, "proprietary") if not is_open else unknown(f"{which} needs the other", now)
    if is_open:
        return ok(now)
    change = Setting(kind="package", name="nvidia-open", value=subject.driver)
    alone = [gpu.name for gpu in subject.smi.gpus if _open_alone(gpu, thresholds)]
    if alone:
        return failed(now, f"{alone[0]} runs with the open one alone", change)
    return better(now, change)


def _open_alone(gpu: Gpu, thresholds: Thresholds) -> bool:
    named = any(name in gpu.name for name in thresholds.open_names)
    return gpu.architecture in thresholds.open_only or named


def _gpus(subject: Subject) -> tuple[Gpu, ...] | Finding:
    """What nvidia-smi tells of the GPUs, or what to say where it tells nothing."""
    if subject.smi.gpus:
        return subject.smi.gpus
    if not subject.has_gpu:
        return not_here(_NO_GPU)
    return unknown(subject.smi.error or "nvidia-smi has not been asked, or is not there")


def persistence(subject: Subject) -> Finding:
    """Whether the driver stays loaded without processes."""
    gpus = _gpus(subject)
    if isinstance(gpus, Finding):
        return gpus
    if subject.wsl:
        return not_here("Windows has the driver")
    found = [gpu.persistence for gpu in gpus if gpu.persistence]
    if not found:
        return unknown("the driver does not tell")
    if set(found) == {"Enabled"}:
        return ok("enabled")
    return better(
        counted(found), Setting(kind="service", name="nvidia-persistenced", value="enabled")
    )


def power_limit(subject: Subject) -> Finding:
    """Whether GPUs may draw what they are made for."""
    gpus = _gpus(subject)
    if isinstance(gpus, Finding):
        return gpus
    known = [gpu for gpu in gpus if gpu.power is not None and gpu.power_default is not None]
    if not known:
        return unknown("the driver does not tell")
    now = counted([f"{gpu.power:g} of {gpu.power_default:g} W" for gpu in known])
    low = [gpu for gpu in known if (gpu.power or 0) < (gpu.power_default or 0)]
    if not low:
        return ok(now)
    settings = [
        Setting(kind="nvidia-smi", name="--power-limit", value=f"{gpu.index}={_bounded(gpu):g}")
        for gpu in low
    ]
    return better(now, *settings)


def _bounded(gpu: Gpu) -> float:
    """The default, within what the card takes."""
    watts = gpu.power_default or 0.0
    return min(watts, gpu.power_most) if gpu.power_most is not None else watts


def ecc(subject: Subject) -> Finding:
    """Whether memory errors are corrected, and whether some wait for a reset or a repair."""
    gpus = _gpus(subject)
    if isinstance(gpus, Finding):
        return gpus
    broken = [gpu for gpu in gpus if gpu.remap_failure == "Yes"]
    if broken:
        return failed(_which(broken), "rows of its memory could not be remapped: have it replaced")
    waiting = [gpu for gpu in gpus if gpu.remap_pending == "Yes"]
    if waiting:
        return better(_which(waiting), reason="rows of its memory are remapped at the next reset")
    found = [gpu.ecc for gpu in gpus if gpu.ecc]
    if not found:
        return not_here("these GPUs have none to switch")
    # What it is from the next reset on; some drivers tell of no pending mode.
    later = {gpu.index: gpu.ecc_pending or gpu.ecc for gpu in gpus}
    settings = [
        Setting(kind="nvidia-smi", name="--ecc-config", value=f"{index}=1")
        for index, mode in later.items()
        if mode == "Disabled"
    ]
    if set(found) == {"Enabled"} and not settings:
        return ok("enabled")
    ending = [gpu for gpu in gpus if gpu.ecc == "Enabled" and later[gpu.index] == "Disabled"]
    coming = [gpu for gpu in gpus if gpu.ecc == "Disabled" and later[gpu.index] == "Enabled"]
    reason = "; ".join(
        f"{_which(changing)}: {what} at the next reset"
        for changing, what in ((ending, "disabled"), (coming, "enabled"))
        if changing
    )
    return better(counted(found), *settings, reason=reason)


def mig(subject: Subject) -> Finding:
    """Whether GPUs are divided as they should be by now."""
    gpus = _gpus(subject)
    if isinstance(gpus, Finding):
        return gpus
    found = [gpu for gpu in gpus if gpu.mig]
    if not found:
        return not_here("these GPUs cannot be divided")
    pending = [gpu for gpu in found if gpu.mig_pending and gpu.mig_pending != gpu.mig]
    if pending:
        return better(_which(pending), reason="its MIG mode changes at the next reset")
    empty = [gpu for gpu in found if gpu.mig == "Enabled" and not gpu.instances]
    if empty:
        return better(_which(empty), reason="MIG is enabled without an instance: CUDA sees no GPU")
    return ok(
        counted(
            [f"{gpu.instances} instances" if gpu.mig == "Enabled" else "disabled" for gpu in found]
        )
    )


def fabric_manager(subject: Subject) -> Finding:
    """Whether NVSwitches have been set up: without it CUDA does not start there."""
    states = [gpu.fabric for gpu in subject.smi.gpus if gpu.fabric]
    if not states and not subject.switches:
        known = subject.smi.gpus or not subject.has_gpu
        return not_here("no NVSwitch") if known else unknown("nvidia-smi does not answer")
    start = Setting(kind="service", name="nvidia-fabricmanager", value="enabled")
    if states:
        ended = [gpu for gpu in subject.smi.gpus if gpu.fabric == "Completed"]
        bad = [gpu for gpu in ended if gpu.fabric_status not in ("", "Success")]
        if len(ended) == len(states) and not bad:
            return ok("the GPUs are in the fabric")
        told = [
            f"{gpu.fabric} {gpu.fabric_status}".strip() for gpu in subject.smi.gpus if gpu.fabric
        ]
        return failed(counted(told)[:200], "the fabric is not set up", start)
    if subject.host.names("/run/nvidia-fabricmanager/*.pid"):
        return ok("Fabric Manager runs")
    if subject.virtual:
        return unknown("NVSwitches in a virtual machine: the host may have Fabric Manager")
    return failed(f"{len(subject.switches)} NVSwitches", "Fabric Manager does not run", start)


def _which(gpus: list[Gpu]) -> str:
    return "GPU " + ", ".join(str(gpu.index) for gpu in gpus)


ROWS: dict[str, Callable[[Subject], Finding]] = {
    "driver": driver,
    "driver-branch": branch,
    "kernel-module": kernel_module,
    "persistence": persistence,
    "power-limit": power_limit,
    "ecc": ecc,
    "mig": mig,
    "fabric-manager": fabric_manager,
}

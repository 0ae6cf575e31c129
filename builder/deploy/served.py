"""What an image says of itself, as far as a cluster must know it."""

from __future__ import annotations

from dataclasses import dataclass

from builder.errors import UserError
from builder.facts import Accelerator, Arch, Flags, Metrics, version_key
from builder.model import Cell
from builder.plan import USER

# Of the image's HEALTHCHECK (templates/Dockerfile.j2), in seconds.
INTERVAL = 30
TIMEOUT = 10
START_PERIOD = 600
RETRIES = 3
# The image's own preflight asks for as much of /dev/shm (builder/runtime/preflight.py), in MiB.
SHM_PER_RANK = 256


@dataclass(frozen=True, kw_only=True)
class Served:
    """An image as a server on a node: its ports, its flags, and the GPUs that it has code for."""

    cell_id: str
    framework: str
    title: str
    version: str
    accelerator: Accelerator
    arch: Arch
    port: int
    health: str
    command: tuple[str, ...]  # of the server; (): it is a module of imgbuild's
    flags: Flags
    metrics: Metrics | None
    fetches: bool  # whether it takes a name on a hub; imgbuild's own servers read folders alone
    shm_mib: int  # for one process
    driver_floor: str | None  # of a CUDA image
    last_driver: str | None  # the branch after which drivers know its GPU no more
    sms: tuple[str, ...]  # compute capabilities that it has machine code for
    kernel_sms: tuple[str, ...]  # of the framework's own kernels; (): nobody looked
    gpu: str | None  # of matrix.yaml; None: any that it has code for
    gpu_title: str | None
    uid: int = USER.uid
    gid: int = 0
    home: str = USER.home


def of(cell: Cell) -> Served:
    """The facts of a cell's image; raises UserError for one that runs on TPUs."""
    if cell.build.accelerator is Accelerator.TPU:
        raise UserError(
            f"{cell.id} runs on TPUs, which are handed out by topology and not by number",
            hint="`imgbuild deploy gke-tpu` and `imgbuild deploy tpu-vm` know them",
        )
    return _facts(cell)


def of_tpu(cell: Cell) -> Served:
    """The facts of an image that runs on TPUs; raises UserError for any other."""
    if cell.build.accelerator is not Accelerator.TPU:
        raise UserError(
            f"{cell.id} does not run on TPUs", hint="`imgbuild matrix --matrix 'tpu-*'` has those"
        )
    return _facts(cell)


def _facts(cell: Cell) -> Served:
    accelerator = cell.build.accelerator
    thin, gpu = cell.slim_sm, cell.gpu
    floors = [cell.build.driver_floor, gpu.driver if gpu else None]
    server = cell.framework.server
    smoke = cell.framework.smoke[accelerator]
    return Served(
        cell_id=cell.id,
        framework=cell.framework_name,
        title=cell.framework.title,
        version=cell.release.version,
        accelerator=accelerator,
        arch=cell.arch,
        port=server.port,
        health=server.health,
        command=server.command,
        flags=server.flags,
        metrics=server.metrics,
        fetches=server.module is None,
        shm_mib=smoke.shm_mb,
        driver_floor=max(filter(None, floors), key=version_key, default=None),
        last_driver=gpu.last_driver if gpu else None,
        sms=(thin,) if thin else cell.build.sms,
        kernel_sms=(thin,) if thin and cell.build.kernel_sms else cell.build.kernel_sms,
        gpu=cell.gpu_name,
        gpu_title=gpu.title if gpu else None,
    )

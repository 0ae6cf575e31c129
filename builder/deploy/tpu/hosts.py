"""How a server fills a slice: precision, environment, and Ray where there are several hosts.

vLLM's TPU backend takes one Ray node a host, all that are there when it starts
(vllm-project/tpu-inference, tpu_inference/executors/ray_distributed_executor.py), so that the head
waits for them. Words of a user's stay arguments: the scripts below are the same for everybody.
"""

from __future__ import annotations

from builder.deploy import quantity
from builder.deploy.served import Served
from builder.deploy.tpu.slices import Slice
from builder.errors import UserError

_PORT = 6379  # of Ray's head
RAY_SHM_MIB = 16 << 10  # Ray's objects; as vllm-project/tpu-inference has it (run_cluster.sh)
_WAIT = """\
import ray, sys, time
ray.init(address="auto")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    time.sleep(2)
"""
_START = "ray start --object-store-memory={store}"
_HEAD = f'{_START} --head --port={_PORT} && python3 -c "$1" "$2" && shift 2 && exec "$@"'
_JOIN = (
    f'until ray health-check --address "$1:{_PORT}"; do sleep 5; done; '
    f'exec {_START} --address "$1:{_PORT}" --block'
)


def check(served: Served, wanted: Slice) -> None:
    """Raises UserError for a slice of more hosts than the server knows to use."""
    if wanted.hosts > 1 and not _over_hosts(served):
        raise UserError(
            f"{wanted.accelerator} is {wanted.hosts} hosts, and {served.title}'s server uses one",
            hint="take a slice of one host, or a cell of vLLM",
        )


def _over_hosts(served: Served) -> bool:
    return bool(served.flags.parallel and served.flags.hosts and served.command)


def shm(served: Served, wanted: Slice) -> str:
    """Of /dev/shm on each host."""
    return quantity.text_of(max(served.shm_mib, RAY_SHM_MIB if wanted.hosts > 1 else 0) << 20)


def environment(wanted: Slice) -> dict[str, str]:
    """What the slice asks for of an image's start and of vLLM's TPU backend."""
    return {"TPU_MULTIHOST_BACKEND": "ray", "JAX_PLATFORMS": ""} if wanted.hosts > 1 else {}


def precision(served: Served, own: tuple[str, ...]) -> tuple[str, ...]:
    """bfloat16, in which TPUs multiply, whatever the weights are stored in; a user's own counts."""
    flag = served.flags.dtype
    if flag is None or any(argument.partition("=")[0] == flag for argument in own):
        return ()
    return (flag, "bfloat16")


def head(served: Served, wanted: Slice, arguments: tuple[str, ...], shm: str) -> tuple[str, ...]:
    """A container's words: Ray's head, and the server once all hosts are there."""
    own = (*served.command, *arguments)
    return ("sh", "-c", _stored(_HEAD, shm), "imgbuild", _WAIT, str(wanted.hosts), *own)


def join(shm: str) -> tuple[str, ...]:
    """The others', but for the head's address, which comes last."""
    return ("sh", "-c", _stored(_JOIN, shm), "imgbuild")


def _stored(script: str, shm: str) -> str:
    """With half of /dev/shm for Ray's objects: it takes 30 % of a host's memory otherwise.

    As that is more than /dev/shm has, it would put them on the disk of /tmp.
    """
    return script.format(store=quantity.in_bytes(shm) // 2)


def notes(served: Served, wanted: Slice) -> list[str]:
    """What a user should know of this server on this slice."""
    made = []
    if wanted.hosts > 1:
        made.append(
            "vLLM over several hosts runs below Ray: nothing is bound to a NUMA node, and the "
            "image's preflight does not look."
        )
    elif wanted.machine.spread:
        made.append(
            "The chips of such a host hang on both of its NUMA nodes: nothing is bound to one."
        )
    else:
        made.append(
            "Where a host has several NUMA nodes the image's start binds itself to the one that "
            "its chips hang on, as `numactl --cpunodebind=0 --membind=0` would (memory: only with "
            "--privileged or SYS_NICE); IMGBUILD_TUNE=explain says what was done."
        )
    if not served.flags.parallel and served.framework == "torch-xla" and wanted.chips > 1:
        made.append(f"{served.title}'s server uses one device of the {wanted.devices}.")
    if served.framework in wanted.generation.experimental:
        made.append(f"{served.title} calls its support of {wanted.generation.title} experimental.")
    return made

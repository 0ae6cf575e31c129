"""What a server is started with, whatever starts it: GPUs, shared memory, arguments."""

from __future__ import annotations

from collections.abc import Sequence

from builder.deploy import checked, quantity
from builder.deploy.served import SHM_PER_RANK, START_PERIOD, Served
from builder.errors import UserError, quoted
from builder.facts import Accelerator

# vLLM's and SGLang's; probes and the image's own health check know no certificate and no socket.
_NO_PLAIN_HTTP = ("--ssl-keyfile", "--ssl-certfile", "--uds")
_MOST_GPUS = 64  # of one host; more are several hosts', which Ray joins
# Three times what an image allows itself: a first start also fetches the weights.
FETCHING = 3 * START_PERIOD


def gpus_of(served: Served, gpus: int | None, mig: str | None, products: Sequence[str]) -> int:
    """How many a replica has; 0 for an image that runs on CPUs."""
    if served.accelerator is not Accelerator.CUDA:
        if gpus or mig is not None or products:
            raise UserError(
                f"{served.cell_id} runs on CPUs and would leave a GPU idle",
                hint="leave out --gpus and what names GPUs, or take a cuda cell",
            )
        return 0
    number = 1 if gpus is None else gpus
    if number < 1:
        raise UserError(f"--gpus: {served.cell_id} needs a GPU", hint="1 or more")
    if number > _MOST_GPUS:
        raise UserError(
            f"--gpus: no host has {number}", hint="`imgbuild deploy ray` and `kuberay` join several"
        )
    if mig is not None and number > 1:
        raise UserError(
            f"--mig with --gpus {number}: NCCL does not talk between MIG instances",
            hint="one instance a replica: --replicas or --autoscale",
        )
    if number > 1 and not served.flags.parallel:
        raise UserError(
            f"--gpus {number}: {served.title}'s server has no tensor parallelism",
            hint="one GPU a server, and as many servers as are needed",
        )
    return number


def fetched(served: Served, model: str, instead: str) -> str:
    """A name on a hub; raises UserError where the server reads folders only."""
    if not served.fetches:
        raise UserError(
            f"--model: {served.title}'s server reads folders, and does not fetch {quoted(model)}",
            hint=f"as {instead}",
        )
    return model


def further(served: Served, arguments: Sequence[str]) -> tuple[str, ...]:
    """Of the server, behind those that are made for it; where it listens is not theirs to say."""
    if arguments and not arguments[0].startswith("-"):
        raise UserError(
            f"argument: {quoted(arguments[0])} is no option of the server's",
            hint="what is the server's follows `--`, an option first",
        )
    flags = served.flags
    ours = {flags.host: "", flags.port: ""}
    ours |= dict.fromkeys((flags.model, *flags.model_also), "--model")
    for text in arguments:
        flag = text.partition("=")[0]
        if flag and flag in ours:
            option = ours[flag]
            raise UserError(
                f"argument: {flag} is set already, and what asks the server counts on it",
                hint=f"{option} of imgbuild says it" if option else "leave it out",
            )
        if flag.replace("_", "-") in _NO_PLAIN_HTTP:
            raise UserError(
                f"argument: with {flag} what asks the server has no answer: it asks in plain HTTP",
                hint="TLS is for a Gateway or a proxy in front of it",
            )
    return tuple(checked.plain(text, "argument") for text in arguments)


def shm_of(served: Served, ranks: int) -> str:
    """What a server with so many GPUs needs of /dev/shm."""
    return quantity.text_of(max(served.shm_mib, ranks * SHM_PER_RANK) << 20)


def shm_fits(shm: str, memory: str | None) -> None:
    """Raises UserError where /dev/shm alone is all of a container's memory."""
    if memory and quantity.in_bytes(shm) >= quantity.in_bytes(memory):
        raise UserError(
            f"--shm: {shm} of {memory} of memory",
            hint="what is written to /dev/shm counts as the container's memory; raise --memory",
        )

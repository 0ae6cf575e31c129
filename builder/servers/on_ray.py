"""vLLM behind Ray Serve. A node of a cluster is `ray start`, which is in the same image.

vLLM's CPU build refuses Ray as executor, so Serve hosts whole engines, one a replica. On GPUs a
model that needs several is vLLM's own to spread: `vllm serve` takes over then.

`application` is the same for `serve deploy servers.on_ray:application` and for KubeRay, which keep
an application without a process of ours.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import math
import os
import re
import shlex
import signal
import sys
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from . import api, launch
from .engine import Sampling, ServerError
from .tokenizer import FolderTokenizer

_LOG = logging.getLogger("servers")
_APP = "imgbuild"
_TRIES = 3
_OBJECT_STORE = 100 << 20  # bytes; nothing large passes through it
# vLLM's options that multiply the devices of one engine.
_PARALLEL = {
    "--tensor-parallel-size": "-tp",
    "--pipeline-parallel-size": "-pp",
    "--prefill-context-parallel-size": "-pcp",
    "--data-parallel-size": "-dp",
}
# Its options that say who starts the processes of one engine, and of its copies.
_EXECUTOR, _COPIER = "--distributed-executor-backend", "--data-parallel-backend"
_GLUED = re.compile(rf"^({'|'.join(_PARALLEL.values())})(?=\d)")


def run(arguments: Sequence[str]) -> None:
    """Serve until a signal. Raises ServerError."""
    options, engine = parse(arguments)
    if spread(options):
        if cpu_build():
            raise ServerError("vLLM's CPU build cannot spread a model over Ray; use --replicas")
        if options.replicas != 1:
            copies = options.replicas * _parallel(options).get("--data-parallel-size", 1)
            raise ServerError(
                f"--replicas {options.replicas}: vLLM itself spreads a model, without replicas; "
                f"use --data-parallel-size {copies}"
            )
        _become([_program("vllm"), *vllm_command(options, engine)])
    _serve(options, engine)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options, and those left for vLLM's engine, which knows them where it runs."""
    parser = launch.parser("ray", "Serve vLLM through Ray. All other options are vLLM's own.")
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="engines side by side")
    parser.add_argument("--replicas-per-node", type=int, metavar="N", help="at most; default: any")
    for name, short in _PARALLEL.items():
        parser.add_argument(name, short, dest=name, type=int, metavar="N", help="as in vLLM")
    for name in (_EXECUTOR, _COPIER):
        parser.add_argument(name, dest=name, metavar="NAME", help="as in vLLM")
    options, engine = parser.parse_known_args([spelled(word) for word in arguments])
    if options.replicas < 1:
        raise ServerError(f"--replicas {options.replicas}: at least 1")
    if options.replicas_per_node is not None and options.replicas_per_node < 1:
        raise ServerError(f"--replicas-per-node {options.replicas_per_node}: at least 1")
    engine += ["--model", options.model]
    for name in (*_PARALLEL, _EXECUTOR, _COPIER):
        if (value := vars(options)[name]) is not None:
            engine += [name, str(value)]
    return options, engine


def spelled(word: str) -> str:
    """An argument as argparse reads it: vLLM takes --a_b for --a-b, and -tp2 is -tp=2."""
    if not word.startswith("--"):
        return _GLUED.sub(r"\1=", word)
    name, equals, value = word.partition("=")
    option, dot, field = name.partition(".")  # the keys of a JSON object keep their underscores
    return f"{option.replace('_', '-')}{dot}{field}{equals}{value}"


def _parallel(options: argparse.Namespace) -> dict[str, int]:
    """What is given of _PARALLEL."""
    return {name: vars(options)[name] for name in _PARALLEL if vars(options)[name] is not None}


def spread(options: argparse.Namespace) -> bool:
    """Whether an engine needs several devices."""
    return any(count != 1 for count in _parallel(options).values())


def vllm_command(options: argparse.Namespace, engine: Sequence[str]) -> list[str]:
    """The arguments of `vllm` that serve the same over the nodes of a Ray cluster."""
    names: list[str] = options.served_model_name or []
    named = ["--served-model-name", *names] if names else []
    place = ["--host", options.host, "--port", str(options.port)]
    wanted = [_EXECUTOR]
    if _parallel(options).get("--data-parallel-size", 1) != 1:
        wanted = [_COPIER, *wanted]  # else all copies are to be on this node
    ray = [(name, "ray") for name in wanted if vars(options)[name] is None]
    return ["serve", *engine, *named, *place, *(word for pair in ray for word in pair)]


def cpu_build() -> bool:
    """Whether the installed vLLM is one for CPUs. Raises ServerError if there is none."""
    try:
        return "cpu" in importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError as error:
        raise ServerError("vLLM is not installed here") from error


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _become(command: list[str]) -> None:
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        raise ServerError(f"cannot start {command[0]}: {error.strerror}") from error


def _serve(options: argparse.Namespace, engine: list[str]) -> None:
    launch.folder(options.model)
    names = ", ".join(launch.names(options))

    import ray  # slow, and only in its image
    from ray import serve

    ours = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    joined = bool(os.environ.get("RAY_ADDRESS"))
    if joined:
        ray.init()
    else:
        _start(ray)
    for number, handler in ours.items():
        signal.signal(number, handler)  # Ray's exits with the signal's number
    try:
        serve.start(http_options={"host": options.host, "port": options.port})
        serve.run(_bound(options, engine), name=_APP, route_prefix="/")
        _LOG.warning("serving %s on http://%s:%d", names, options.host, options.port)
        while True:
            signal.pause()
    except RuntimeError as error:
        raise ServerError(f"Ray Serve could not start vLLM: {error}") from error
    finally:
        if joined:
            serve.delete(_APP)  # a cluster may have other applications
        else:
            serve.shutdown()
        ray.shutdown()


def application(args: dict[str, Any]) -> Any:
    """Serve's application of `arguments`: those of `run`, as a list or as one text for a shell.

    Where to listen is said to Serve. A replica's GPUs are of one node; a model that needs several
    nodes is `vllm serve`'s. Raises ServerError, which `serve status` then shows.
    """
    given = args.get("arguments", [])
    try:
        options, engine = parse(shlex.split(given) if isinstance(given, str) else given)
    except SystemExit as error:  # argparse has said why, on this task's stderr
        raise ServerError(f"wrong options: {given}") from error
    if _parallel(options).get("--data-parallel-size", 1) != 1:
        raise ServerError("--data-parallel-size: copies of an engine are --replicas here")
    if spread(options):
        if cpu_build():
            raise ServerError("vLLM's CPU build cannot spread a model over Ray; use --replicas")
        if vars(options)[_EXECUTOR] is None:
            engine += [_EXECUTOR, "mp"]  # in the replica, whose GPUs are its own
    launch.folder(options.model)
    return _bound(options, engine)


def gpus(options: argparse.Namespace) -> int:
    """Of one engine."""
    return 0 if cpu_build() else math.prod(_parallel(options).values())


def _bound(options: argparse.Namespace, engine: list[str]) -> Any:
    """The deployment with what its replicas are made of."""
    from ray import serve

    most = options.replicas_per_node
    deployment = serve.deployment(
        serve.ingress(app)(Replica),
        name="vllm",
        num_replicas=options.replicas,
        ray_actor_options={"num_gpus": gpus(options)},
        # vLLM batches; the queue in front of it is its own.
        max_ongoing_requests=1000,
        graceful_shutdown_timeout_s=launch.GRACE,
        graceful_shutdown_wait_loop_s=0.5,
        **({} if most is None else {"max_replicas_per_node": most}),
    )
    return deployment.bind(engine, launch.names(options))


def _start(ray: Any) -> None:
    """Start Ray in this container. Raises ServerError.

    Its raylet gives the dashboard agent a fixed 15 s to start and aborts (port_persistence.h, up to
    2.59): on a busy host of two cores the first try can fail, and the next finds warm files.
    """
    for left in reversed(range(_TRIES)):
        try:
            ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE)
        except Exception as error:  # Ray raises bare ones
            ray.shutdown()
            if not left:
                raise ServerError(f"Ray does not start: {error}") from error
            _LOG.warning("Ray does not start, trying again: %s", error)
        else:
            return


class Replica:
    """One vLLM behind the API, in a process that Ray Serve watches."""

    engine: VllmEngine  # of the class, for app() to find: there is one a process

    def __init__(self, arguments: list[str], names: list[str]) -> None:
        Replica.engine = VllmEngine(arguments, names)

    async def check_health(self) -> None:
        """Ray Serve replaces a replica for which this raises."""
        await self.engine.check_health()


def app() -> Any:
    """What Ray Serve calls in a replica, after its class: the API over its engine."""
    return api.create(Replica.engine)


class VllmEngine:
    """An Engine over vLLM's own, which batches what comes at once. Needs a running event loop."""

    def __init__(self, arguments: list[str], names: list[str]) -> None:
        from vllm import SamplingParams  # slow, and only in its image
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.sampling_params import RequestOutputKind
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        from vllm.v1.engine.async_llm import AsyncLLM

        parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(exit_on_error=False))
        options = AsyncEngineArgs.from_cli_args(parser.parse_args(arguments))
        self._engine = AsyncLLM.from_engine_args(options)
        self._params = SamplingParams
        self._delta = RequestOutputKind.DELTA
        self.name, *self.aliases = names
        self.max_length = int(self._engine.model_config.max_model_len)
        self.tokenizer = FolderTokenizer(Path(options.model))

    async def generate(
        self, prompt: Sequence[int], sampling: Sampling, max_tokens: int
    ) -> AsyncGenerator[int, None]:
        params = self._params(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            max_tokens=max_tokens,
            ignore_eos=sampling.ignore_eos,
            stop_token_ids=sorted(sampling.ends(self.tokenizer.eos_ids)),
            detokenize=False,
            output_kind=self._delta,
        )
        outputs = self._engine.generate(
            {"prompt_token_ids": list(prompt)}, params, uuid.uuid4().hex
        )
        async with aclosing(outputs):
            async for output in outputs:
                for token in output.outputs[0].token_ids:
                    yield token

    async def check_health(self) -> None:
        await self._engine.check_health()

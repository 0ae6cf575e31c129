"""Options that all backends share, and the HTTP server around a loaded engine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .engine import Engine, ServerError

# Seconds that running answers get after SIGTERM; `docker stop` kills after 10.
GRACE = 5


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The shared options, named as `vllm serve` names them."""
    options = argparse.ArgumentParser(prog=f"servers {name}", description=description)
    options.add_argument("--model", required=True, metavar="DIR", help="a Hugging Face folder")
    options.add_argument(
        "--served-model-name",
        nargs="+",
        metavar="NAME",
        help="default: what --model says; answers bear the first",
    )
    options.add_argument("--host", default="0.0.0.0")  # noqa: S104 - inside a container
    options.add_argument("--port", type=int, default=8000)
    return options


def names(options: argparse.Namespace) -> list[str]:
    """What requests may call the model. Raises ServerError for one that no answer could say."""
    served: list[str] = options.served_model_name or []
    found = served or [str(options.model)]
    for name in found:
        try:
            name.encode()
        except UnicodeEncodeError as error:  # bytes of an argument that Python could not read
            given = "--served-model-name" if served else "--model"
            advice = "" if served else "; give --served-model-name"
            raise ServerError(f"{given} {name!r}: not UTF-8{advice}") from error
    return found


def dtype(options: argparse.Namespace, *, on_cpu: bool) -> str:
    """The name of the number format that is asked for, or that suits the device."""
    auto = "float32" if on_cpu else "bfloat16"
    return str(auto if options.dtype == "auto" else options.dtype)


def folder(model: str) -> Path:
    """The model's folder. Raises ServerError: nothing is downloaded here."""
    path = Path(model)
    if not path.is_dir():
        raise ServerError(f"--model {model}: no such folder; mount one, nothing is downloaded")
    return path


def serve(engine: Engine, arguments: argparse.Namespace) -> None:
    """Answer until SIGTERM or SIGINT."""
    import uvicorn  # --help works without

    from . import api

    uvicorn.run(
        api.create(engine),
        host=arguments.host,
        port=arguments.port,
        timeout_graceful_shutdown=GRACE,
    )


def choose(arguments: Sequence[str], known: Sequence[str]) -> str:
    """The backend that the first argument names. Raises ServerError."""
    if arguments and arguments[0] in known:
        return arguments[0]
    said = f"{arguments[0]!r} is none" if arguments else "none is named"
    raise ServerError(f"backends are {', '.join(known)}; {said}")

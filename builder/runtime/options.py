"""What the user asks of a server, by its options or its variables: GPUs, hosts, the model's type.

The row that says what a server calls them comes with the image (`server` of manifest.json).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping, Sequence

    Facts = Dict[str, Any]
    Row = Dict[str, Any]


def given(flags: Sequence[str], arguments: Sequence[str]) -> str | None:
    """The value of a flag among arguments, "" for one without; None where it is not there.

    `flags` are its spellings. `--tensor_parallel_size=2` is `--tensor-parallel-size 2`, as servers
    read it; of several the last holds. A long one is known by any beginning: argparse refuses those
    that are another's, too.
    """
    names = [flag.replace("_", "-") for flag in flags]
    found = None
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        long = name.startswith("--") and len(name) > len("--")
        begins = long and any(n.startswith(name) for n in names)
        if name.startswith("-") and (name in names or begins):
            following = arguments[index + 1 : index + 2]
            apart = following[0] if following and not following[0].startswith("-") else ""
            found = value if equals else apart
    return found


def size(server: Row, arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """What is asked for of tensor parallelism, by a flag or by the server's variable."""
    value = given(server.get("parallel_flags", ()), arguments)
    variable = server.get("parallel_variable")
    return environment.get(variable) if value is None and variable else value


def whole(text: str | None) -> int | None:
    """A number of ranks; None for any other text."""
    text = text or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def spread(server: Row, arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether the model is spread in another way than by tensor parallelism on this host.

    Or in a file, or to hosts that are not known here, as a Ray cluster's are.
    """
    kinds = ("spreading_flags", "hosts_flags")
    return bool(environment.get("RAY_ADDRESS")) or _any(server, kinds, arguments)


def arranged(server: Row, arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether the user has arranged otherwise where the weights go, or how many of them."""
    return spread(server, arguments, environment) or _any(server, ("shrinking_flags",), arguments)


def _any(server: Row, kinds: Sequence[str], arguments: Sequence[str]) -> bool:
    return any(given([f], arguments) is not None for kind in kinds for f in server.get(kind, ()))


def loaded(model: Facts, server: Row, arguments: Sequence[str]) -> Facts:
    """The model as it lies in memory: servers make 16 bits of float32, unless they are told not to.

    vllm/config/model.py (_resolve_auto_dtype).
    """
    flag = server.get("dtype_flag")
    if not flag or not model.get("float32") or "bytes" not in model:
        return model
    if given([flag], arguments) in ("float32", "float"):
        return model
    return {**model, "bytes": model["bytes"] // 2}


def here(
    model: Facts,
    server: Row,
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Facts:
    """The model as loaded, where all of it is to be on this host's GPUs."""
    other = arranged(server, arguments, environment or {})
    return {} if other else loaded(model, server, arguments)


def ranks(server: Row, arguments: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """The GPUs that the server will want of this host; None where that is not known."""
    if any(given([flag], arguments) is not None for flag in server.get("hosts_flags", ())):
        return None
    return whole(size(server, arguments, environment))

"""What a model's folder says of itself: how many heads it has, how large its weights are."""

from __future__ import annotations

import json
import os

from .options import given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Sequence

    Facts = Dict[str, Any]

# Many folders have the same weights in several formats: servers load the first of these.
_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf")
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt")


def named(
    arguments: Sequence[str], server: Facts, environment: Mapping[str, str] | None = None
) -> str | None:
    """The model among a server's arguments: after its flag, in its variable, or without a flag.

    One without a flag is the first argument, or a later one whose files are here and that follows
    no option, whose value it might be: that of `--port 1 MODEL`, not of `--eager MODEL`.
    """
    environment = environment or {}
    variable = server.get("model_variable")
    after = given(server.get("model_flags", ()), arguments)
    if after is not None:
        return after or None
    before = ""
    for index, argument in enumerate(arguments):
        apart = not before.startswith("-") or "=" in before
        free = apart and not argument.startswith("-")
        if free and (index == 0 or folder(argument, environment)):
            return argument or None
        before = argument
    return environment.get(variable) or None if variable else None


def folder(model: str, environment: Mapping[str, str]) -> str | None:
    """Where its files are: the folder itself, or its newest snapshot in the Hub's cache."""
    if os.path.isdir(model):
        return model
    if model.count("/") != 1:
        return None
    hub = environment.get("HF_HUB_CACHE") or os.path.join(_hugging_face(environment), "hub")
    snapshots = os.path.join(hub, f"models--{model.replace('/', '--')}", "snapshots")
    try:
        found = [os.path.join(snapshots, name) for name in os.listdir(snapshots)]
        return max(found, key=os.path.getmtime, default=None)
    except OSError:
        return None


def _hugging_face(environment: Mapping[str, str]) -> str:
    if environment.get("HF_HOME"):
        return environment["HF_HOME"]
    cache = environment.get("XDG_CACHE_HOME") or os.path.join(environment.get("HOME", ""), ".cache")
    return os.path.join(cache, "huggingface")


def read(place: str | None) -> Facts:
    """`{"heads", "kv_heads", "float32", "bytes"}`, without those that it does not say."""
    if place is None:
        return {}
    found: Facts = {}
    try:
        with open(os.path.join(place, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        text = config.get("text_config", config)
        # transformers 5 says dtype; of a model of several parts the text's may be told alone.
        kinds = [part.get(key) for part in (config, text) for key in ("dtype", "torch_dtype")]
        if next((kind for kind in kinds if kind), None) == "float32":
            found["float32"] = True
        config = text
        for name, key in (("heads", "num_attention_heads"), ("kv_heads", "num_key_value_heads")):
            if type(config.get(key)) is int and config[key] > 0:
                found[name] = config[key]
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    try:
        names = sorted(os.listdir(place))
        for suffix in _SUFFIXES:
            sizes = [os.stat(os.path.join(place, n)).st_size for n in _shards(names, suffix)]
            if sum(sizes):
                found["bytes"] = sum(sizes)
                break
    except (OSError, ValueError):
        pass
    return found


def _shards(names: Sequence[str], suffix: str) -> List[str]:
    """The files of one format. Mistral's `consolidated` ones are the same weights once more."""
    found = [name for name in names if name.endswith(suffix) and name not in _NO_WEIGHTS]
    return [name for name in found if not name.startswith("consolidated")] or found

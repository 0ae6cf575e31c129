"""What a model's folder says of itself: how many heads it has, how large its weights are."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Sequence

    Facts = Dict[str, Any]

# Many folders have the same weights in several formats: servers load the first of these.
_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf")
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt")


def named(arguments: Sequence[str], flag: str) -> str | None:
    """The model among a server's arguments: after its flag, or the first that is no option."""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if flag and name == flag:
            return value if equals else next(iter(arguments[index + 1 : index + 2]), None)
    first = next(iter(arguments[:1]), None)
    return first if first and not first.startswith("-") else None


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
    """`{"heads", "kv_heads", "bytes"}`, without those that it does not say."""
    if place is None:
        return {}
    found: Facts = {}
    try:
        with open(os.path.join(place, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        config = config.get("text_config", config)
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

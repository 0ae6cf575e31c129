"""What a model's folder says of itself: how many heads it has, how large its weights are."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping, Sequence

    Facts = Dict[str, Any]

_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf")


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
    hub = environment.get("HF_HUB_CACHE") or os.path.join(environment.get("HF_HOME", ""), "hub")
    snapshots = os.path.join(hub, f"models--{model.replace('/', '--')}", "snapshots")
    try:
        found = [os.path.join(snapshots, name) for name in os.listdir(snapshots)]
        return max(found, key=os.path.getmtime, default=None)
    except OSError:
        return None


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
            if isinstance(config.get(key), int) and config[key] > 0:
                found[name] = config[key]
    except (OSError, ValueError, AttributeError):
        pass
    try:
        sizes = [
            os.stat(entry.path).st_size
            for entry in os.scandir(place)
            if entry.name.endswith(_SUFFIXES)
        ]
        if sizes:
            found["bytes"] = sum(sizes)
    except OSError:
        pass
    return found

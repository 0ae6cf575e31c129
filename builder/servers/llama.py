"""Llama's forward pass in plain JAX, with a key-value cache, sharded over the devices of a host.

A layer's weights of one kind are stacked over the layers, and `lax.scan` runs through them: what is
compiled does not grow with the depth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import safe_open

from .engine import ServerError
from .llama_config import Config, frequencies

Params = dict[str, Any]
Cache = tuple[Any, Any]  # keys and values: layer, position, head, dimension

# Stacked weight -> the checkpoint's name below model.layers.N, and the axis (of the transposed,
# unstacked weight) that is cut between devices. Cut outputs meet cut inputs, so that each block
# adds up over the devices once, as in Megatron-LM.
_LAYER = {
    "norm_1": ("input_layernorm.weight", None),
    "q": ("self_attn.q_proj.weight", 1),
    "k": ("self_attn.k_proj.weight", 1),
    "v": ("self_attn.v_proj.weight", 1),
    "o": ("self_attn.o_proj.weight", 0),
    "norm_2": ("post_attention_layernorm.weight", None),
    "gate": ("mlp.gate_proj.weight", 1),
    "up": ("mlp.up_proj.weight", 1),
    "down": ("mlp.down_proj.weight", 0),
}
_BIASES = {f"{name}_bias": (f"self_attn.{name}_proj.bias", 0) for name in "qkv"}


def load(folder: Path, config: Config, dtype: Any, mesh: Mesh) -> Params:
    """The weights on their devices. Raises ServerError if one is missing."""
    read = _reader(folder)
    heads = {"q": config.heads, "o": config.heads, "k": config.kv_heads, "v": config.kv_heads}

    def place(weight: Any, axis: int | None, units: int | None = None) -> Any:
        # A head is never cut in two; what does not divide is copied to every device.
        spec = PartitionSpec()
        if axis is not None and (units or weight.shape[axis]) % mesh.size == 0:
            spec = PartitionSpec(*[None] * axis, "tp")
        return jax.device_put(weight.astype(dtype), NamedSharding(mesh, spec))

    params: Params = {}
    for name, (suffix, axis) in {**_LAYER, **(_BIASES if config.bias else {})}.items():
        stacked = np.stack([read(f"model.layers.{n}.{suffix}").T for n in range(config.layers)])
        cut = None if axis is None else axis + 1
        params[name] = place(stacked, cut, heads.get(name.removesuffix("_bias")))
    embedding = read("model.embed_tokens.weight")
    head = embedding if config.tied else read("lm_head.weight")
    params["embedding"] = place(embedding, None)
    params["norm"] = place(read("model.norm.weight"), None)
    params["head"] = place(head.T, 1)
    return params


def _reader(folder: Path) -> Callable[[str], np.ndarray]:
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = {
                name: safe_open(folder / name, framework="numpy") for name in {*places.values()}
            }
        else:
            file = safe_open(folder / "model.safetensors", framework="numpy")
            files = {"model.safetensors": file}
            places = dict.fromkeys(file.keys(), "model.safetensors")
    except (OSError, ValueError, KeyError) as error:
        raise ServerError(f"{folder}: cannot read the safetensors: {error}") from error

    def read(name: str) -> np.ndarray:
        if name not in places:
            raise ServerError(f"{folder}: the checkpoint has no {name}")
        return files[places[name]].get_tensor(name)  # type: ignore[no-any-return]

    return read


def new_cache(config: Config, length: int, dtype: Any, mesh: Mesh) -> Cache:
    """Keys and values of `length` positions, for all layers."""
    spec = PartitionSpec(None, None, "tp") if config.kv_heads % mesh.size == 0 else PartitionSpec()
    shape = (config.layers, length, config.kv_heads, config.head_dim)
    zeros = partial(jnp.zeros, shape, dtype, device=NamedSharding(mesh, spec))
    return zeros(), zeros()


class _Place(NamedTuple):
    """Where the tokens stand: RoPE's angles for each, and which positions each sees."""

    start: Any
    cos: Any
    sin: Any
    seen: Any


def forward(
    config: Config, params: Params, cache: Cache, tokens: Any, span: tuple[Any, Any]
) -> tuple[Any, Cache]:
    """Logits after tokens[last], and the grown cache; `span` is (position of tokens[0], last).

    What follows tokens[last] is padding: it writes keys that no later token sees before they are
    written again.
    """
    start, last = span
    positions = start + jnp.arange(tokens.shape[0])
    angles = positions[:, None] * frequencies(config)
    place = _Place(
        start=start,
        cos=jnp.cos(angles)[:, None],
        sin=jnp.sin(angles)[:, None],
        seen=jnp.arange(cache[0].shape[1]) <= positions[:, None],
    )
    layers = {name: params[name] for name in {*_LAYER, *_BIASES} & {*params}}

    def layer(x: Any, inputs: Any) -> Any:
        weights, *cached = inputs
        y = _norm(x, weights["norm_1"], config)
        added, cached = _attention(config, weights, y, tuple(cached), place)
        x = x + added
        y = _norm(x, weights["norm_2"], config)
        x = x + (jax.nn.silu(y @ weights["gate"]) * (y @ weights["up"])) @ weights["down"]
        return x, cached

    x, cache = lax.scan(layer, params["embedding"][tokens], (layers, *cache))
    x = _norm(x[last], params["norm"], config)
    return (x @ params["head"]).astype(jnp.float32), cache


def _norm(x: Any, weight: Any, config: Config) -> Any:
    wide = x.astype(jnp.float32)
    scale = lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + config.norm_eps)
    return (wide * scale).astype(x.dtype) * weight


def _attention(
    config: Config, weights: Any, x: Any, cache: Cache, place: _Place
) -> tuple[Any, Cache]:
    count = x.shape[0]

    def heads(name: str, number: int) -> Any:
        y = x @ weights[name]
        y = y + weights[f"{name}_bias"] if f"{name}_bias" in weights else y
        return y.reshape(count, number, config.head_dim)

    query = _rotate(heads("q", config.heads), place)
    key = _rotate(heads("k", config.kv_heads), place)
    keys = lax.dynamic_update_slice(cache[0], key, (place.start, 0, 0))
    values = lax.dynamic_update_slice(cache[1], heads("v", config.kv_heads), (place.start, 0, 0))
    # The query heads that share a key head stand in the axis g.
    query = query.reshape(count, config.kv_heads, -1, config.head_dim)
    scores = jnp.einsum("tkgd,skd->kgts", query, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(place.seen, scores / math.sqrt(config.head_dim), -jnp.inf)
    chances = jax.nn.softmax(scores).astype(x.dtype)
    mixed = jnp.einsum("kgts,skd->tkgd", chances, values).reshape(count, -1)
    return mixed @ weights["o"], (keys, values)


def _rotate(x: Any, place: _Place) -> Any:
    """RoPE: the first and the second half of a head's dimensions are pairs."""
    cos, sin = place.cos, place.sin
    left, right = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], -1).astype(x.dtype)

"""JAX: a Llama in plain JAX on the TPUs, GPUs or CPU of this host."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from . import launch, local, shapes
from .llama_config import Config
from .tokenizer import FolderTokenizer


def run(arguments: Sequence[str]) -> None:
    """Load and serve until a signal. Raises ServerError."""
    options = parse(arguments)
    launch.serve(load(options), options)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = local.parser("jax", "Serve a Llama in plain JAX, over all devices of this host.")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> local.LocalEngine:
    """The engine, warmed up. Raises ServerError."""
    folder = launch.folder(options.model)
    config = local.read_config(folder)
    length = local.max_length(config, options.max_model_len)
    shape = Config.read(config, folder / "config.json")
    tokenizer = FolderTokenizer(folder)

    import jax  # slow, and only in its image
    import jax.numpy as jnp

    from . import llama

    dtype = getattr(jnp, launch.dtype(options, on_cpu=jax.default_backend() == "cpu"))
    if dtype == jnp.float32:
        # A TPU multiplies float32 as bfloat16 unless it is told otherwise.
        jax.config.update("jax_default_matmul_precision", "highest")
    mesh = jax.sharding.Mesh(jax.local_devices(), ("tp",))
    model = _Model(shape, llama.load(folder, shape, dtype, mesh), dtype, mesh)
    return local.loaded(options, model, tokenizer, length)


class _Model:
    """A local.Model that compiles once for each pair of padded lengths, of chunk and of cache."""

    def __init__(self, config: Any, params: Any, dtype: Any, mesh: Any) -> None:
        import jax
        import numpy

        from . import llama

        self._numpy = numpy
        self._params = params
        self._new_cache = partial(llama.new_cache, config, dtype=dtype, mesh=mesh)
        # The cache is donated: it is written in place.
        self._forward = jax.jit(partial(llama.forward, config), donate_argnums=1)
        self._cache: Any = None
        self._length = 0

    def start(self, prompt: Sequence[int], max_tokens: int) -> Any:
        self._cache = None  # before the new one is made: there may be room for one only
        self._cache = self._new_cache(shapes.bucket(len(prompt) + max_tokens))
        logits = None
        for start, tokens, real in shapes.chunks(prompt):
            logits = self._append(tokens, start, real)
        return logits

    def step(self, token: int) -> Any:
        return self._append([token], self._length, 1)

    def to_host(self, logits: Any) -> Any:
        return self._numpy.asarray(logits)

    def _append(self, tokens: list[int], start: int, real: int) -> Any:
        array = self._numpy.asarray(tokens, self._numpy.int32)
        logits, self._cache = self._forward(self._params, self._cache, array, (start, real - 1))
        self._length = start + real
        return logits

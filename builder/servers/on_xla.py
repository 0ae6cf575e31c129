"""PyTorch/XLA: a transformers model on one XLA device (`PJRT_DEVICE` says which kind)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from . import launch, local, shapes
from .engine import ServerError
from .tokenizer import FolderTokenizer


def run(arguments: Sequence[str]) -> None:
    """Load and serve until a signal. Raises ServerError."""
    options = parse(arguments)
    launch.serve(load(options), options)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = local.parser("xla", "Serve a transformers model on one device of PyTorch/XLA.")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> local.LocalEngine:
    """The engine, warmed up. Raises ServerError."""
    folder = launch.folder(options.model)
    length = local.max_length(local.read_config(folder), options.max_model_len)
    tokenizer = FolderTokenizer(folder)

    import torch  # slow, and only in its image
    import torch_xla.backends
    import torch_xla.runtime
    import transformers

    on_cpu = torch_xla.runtime.device_type() == "CPU"
    dtype = getattr(torch, launch.dtype(options, on_cpu=on_cpu))
    if dtype == torch.float32:
        # A TPU multiplies float32 as bfloat16 unless it is told otherwise.
        torch_xla.backends.set_mat_mul_precision("highest")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    on_device = _Model(model.eval().to(torch_xla.device()))
    return local.loaded(options, on_device, tokenizer, length)


class _Model:
    """A local.Model that compiles once for each pair of padded lengths, of chunk and of cache.

    transformers' static cache counts tokens, padding included; so this sets its count, the
    positions and the mask for each chunk, as data of one shape.
    """

    def __init__(self, model: Any) -> None:
        import torch
        import torch_xla
        from transformers import StaticCache

        self._torch = torch
        self._device = torch_xla.device()
        self._sync = torch_xla.sync
        self._model = model
        self._new_cache = StaticCache
        self._cache: Any = None
        self._size = 0
        self._length = 0
        if any(layer.is_sliding for layer in StaticCache(model.config, shapes.SMALLEST).layers):
            raise ServerError("the XLA server has no sliding-window attention; use the vLLM image")

    def start(self, prompt: Sequence[int], max_tokens: int) -> Any:
        self._size = shapes.bucket(len(prompt) + max_tokens)
        self._cache = None  # before the new one is made: there may be room for one only
        self._cache = self._new_cache(self._model.config, self._size)
        logits = None
        for start, tokens, real in shapes.chunks(prompt):
            logits = self._append(tokens, start, real)
        return logits

    def step(self, token: int) -> Any:
        return self._append([token], self._length, 1)

    def to_host(self, logits: Any) -> Any:
        return logits.float().cpu().numpy()

    def _append(self, tokens: list[int], start: int, real: int) -> Any:
        torch, device = self._torch, self._device
        with torch.no_grad():
            # Made on the host: a number in a graph on the device would be a part of the program.
            positions = torch.arange(start, start + len(tokens))
            seen = torch.arange(self._size) <= positions[:, None]
            on_device = positions[None].to(device)
            for layer in self._cache.layers:
                # A slice: torch_xla compiles the scalars 0 and 1 in. A copy: it is added to.
                layer.cumulative_length = on_device[0, 0].clone()
            logits = self._model(
                input_ids=torch.tensor([tokens]).to(device),
                position_ids=on_device,
                attention_mask=seen[None, None].to(device),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=torch.tensor([real - 1]).to(device),
            ).logits[0, -1]
            self._sync()
        self._length = start + real
        return logits

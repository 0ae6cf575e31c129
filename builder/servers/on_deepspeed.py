"""DeepSpeed: a transformers model inside `deepspeed.init_inference`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from . import launch, local
from .engine import ServerError
from .tokenizer import FolderTokenizer


def run(arguments: Sequence[str]) -> None:
    """Load and serve until a signal. Raises ServerError."""
    options = parse(arguments)
    launch.serve(load(options), options)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options. Raises ServerError for what DeepSpeed cannot do here."""
    parser = local.parser("deepspeed", "Serve a model through DeepSpeed's inference engine.")
    parser.add_argument("--tensor-parallel-size", type=int, default=1, metavar="N", help="only 1")
    parser.add_argument(
        "--kernel-inject",
        action="store_true",
        help="replace layers by DeepSpeed's fused kernels, compiled at first use (CUDA only)",
    )
    options = parser.parse_args(arguments)
    if options.tensor_parallel_size != 1:
        # On a CPU two processes crash in inference_all_reduce (0.19.8).
        raise ServerError(
            f"--tensor-parallel-size {options.tensor_parallel_size}: this server runs DeepSpeed in "
            "one process; use the vLLM or SGLang image for several GPUs"
        )
    return options


def load(options: argparse.Namespace) -> local.LocalEngine:
    """The engine, warmed up. Raises ServerError."""
    folder = launch.folder(options.model)
    length = local.max_length(local.read_config(folder), options.max_model_len)
    tokenizer = FolderTokenizer(folder)

    import deepspeed  # slow, and only in its image
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.kernel_inject and device == "cpu":
        raise ServerError("--kernel-inject: DeepSpeed has these kernels for CUDA only")
    dtype = getattr(torch, launch.dtype(options, on_cpu=device == "cpu"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    inference = deepspeed.init_inference(
        model.eval(),
        dtype=dtype,
        tensor_parallel={"tp_size": 1},
        replace_with_kernel_inject=options.kernel_inject,
        max_out_tokens=length,
    )
    return local.loaded(options, _Model(inference, torch, device), tokenizer, length)


class _Model:
    """A local.Model over a transformers model with its own, growing cache."""

    def __init__(self, model: Any, torch: Any, device: str) -> None:
        self._model = model
        self._torch = torch
        self._device = device
        self._cache: Any = None

    def start(self, prompt: Sequence[int], max_tokens: int) -> Any:  # noqa: ARG002 - it grows
        self._cache = None
        return self._forward(prompt)

    def step(self, token: int) -> Any:
        return self._forward([token])

    def to_host(self, logits: Any) -> Any:
        return logits.float().cpu().numpy()

    def _forward(self, tokens: Sequence[int]) -> Any:
        ids = self._torch.tensor([list(tokens)], device=self._device)
        with self._torch.inference_mode():
            out = self._model(
                input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
        self._cache = out.past_key_values
        return out.logits[0, -1]

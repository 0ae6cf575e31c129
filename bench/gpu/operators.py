"""What PyTorch and vLLM compute on a GPU, by operator: SHA-256 of the bytes of each result.

    python3 operators.py --json [--rounds 3] [--model FOLDER] [--device cuda] [--seconds 240]

Needs the PyTorch that is looked at and nothing else; vLLM's operators join where it is installed,
and --model is the tiny model of builder/runtime/tinymodel.py. Inputs are computed from integers, so
they are the same wherever they are made, and random operators start from one seed.

The operators run in a process of their own. One that takes it down, or gives no answer, is told as
"crashed" or "hung", and a new process goes on behind it. Prints JSON:
  results   name -> hash, or "Error: why"
  vary      names whose hash differs between the rounds, of which the first is shown
  missed    groups that --seconds left no time for
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Thunk = Callable[..., Any]  # needs no arguments
Row = tuple[str, Thunk]

SILENCE = 120.0  # seconds that one operator, or the imports of a group, may take
RESTARTS = 8
SEED = 7
SIZES = (
    *range(2, 601),
    *(2**power for power in range(10, 21)),
    *(3**power for power in range(6, 12)),
    *(5**power for power in range(4, 9)),
    *(7**power for power in range(4, 7)),
    *(11**3, 11**4, 13**3, 17**3, 1000, 1200, 10_000, 100_000),
    *(601, 661, 809, 1021, 2039, 4093, 8191, 12_289, 16_381, 32_749, 65_521, 65_537, 100_003),
    *(127 * 131, 509 * 4, 1021 * 8, 2 * 3 * 5 * 7 * 11 * 13),
)
_MASK = 0xFFFFFFFF


class Bench:
    """Where the operators run, and their inputs."""

    def __init__(self, device: str, model: Path | None = None) -> None:
        import torch

        self.torch: Any = torch
        self.device = device
        self.model = model

    def numbers(self, *shape: int, kind: Any = None, salt: int = 0) -> Any:
        """In [-1, 1), by a hash of their place: exact, so the same with every PyTorch and CPU."""
        torch = self.torch
        count = 1
        for size in shape:
            count *= size
        x = torch.arange(count, dtype=torch.int64) + (salt + 1) * 0x9E3779B1 & _MASK
        for _ in range(2):
            x = ((x >> 16) ^ x) * 0x45D9F3B & _MASK
        x = (x >> 16) ^ x
        y = (x.double() / 2.0**31 - 1.0).reshape(shape)
        return y.to(kind or torch.float32).to(self.device)

    def integers(self, most: int, *shape: int, kind: Any = None, salt: int = 0) -> Any:
        """In 0..most-1, likewise."""
        torch = self.torch
        y = (self.numbers(*shape, kind=torch.float64, salt=salt) + 1) / 2 * most
        return y.floor().clamp(0, most - 1).to(kind or torch.int64)

    def digest(self, out: Any) -> str:
        """SHA-256 of the bytes of all tensors in a result."""
        found = hashlib.sha256()
        for tensor in _tensors(out, self.torch):
            data = tensor.detach()
            if data.is_complex():
                data = self.torch.view_as_real(data.resolve_conj())
            flat = data.contiguous().cpu().reshape(-1).view(self.torch.uint8)
            found.update(flat.numpy().tobytes())
        return found.hexdigest()

    def sync(self) -> None:
        """Wait for the device."""
        if self.device.startswith("cuda"):
            self.torch.cuda.synchronize()


def _tensors(out: Any, torch: Any) -> Iterator[Any]:
    if isinstance(out, torch.Tensor):
        if out.layout != torch.strided:
            out = out.to_dense()
        yield out
    elif isinstance(out, (tuple, list)):
        for each in out:
            yield from _tensors(each, torch)


def dense(b: Bench) -> Iterator[Row]:
    """Matrices, attention, norms, sorting: what each model has."""
    torch = b.torch
    F = torch.nn.functional  # noqa: N806 - as everybody calls it
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    for kind in kinds:
        name = str(kind).partition(".")[2]
        x = b.numbers(512, 512, kind=kind)
        odd = b.numbers(77, 130, kind=kind, salt=1)
        wide = b.numbers(4, 96, 160, kind=kind, salt=2)
        heads = b.numbers(2, 8, 256, 64, kind=kind, salt=3)
        yield f"matmul {name}", lambda x=x: x @ x
        yield f"matmul odd {name}", lambda o=odd: o @ o.T
        yield f"matmul vector {name}", lambda x=x: x @ x[0]
        yield f"bmm {name}", lambda w=wide: torch.bmm(w, w.transpose(1, 2))
        yield f"linear {name}", lambda x=x: F.gelu(F.linear(x, x, x[0]))
        yield f"attention {name}", lambda q=heads: F.scaled_dot_product_attention(q, q, q)
        yield (
            f"attention causal {name}",
            lambda q=heads: F.scaled_dot_product_attention(q, q, q, is_causal=True),
        )
        yield f"layer_norm {name}", lambda x=x: F.layer_norm(x, (512,), x[0], x[1])
        yield f"rms_norm {name}", lambda x=x: F.rms_norm(x, (512,), x[0])
        yield f"group_norm {name}", lambda w=wide: F.group_norm(w, 8)
        yield f"softmax {name}", lambda x=x: x.softmax(-1)
        yield f"silu {name}", lambda x=x: F.silu(x) * x
        yield f"sort {name}", lambda x=x: x.sort(-1)
        yield f"sort long {name}", lambda x=x: x.flatten().sort()
        yield f"topk {name}", lambda x=x: x.topk(40)
        yield f"cumsum {name}", lambda x=x: x.cumsum(-1)
        yield f"sum {name}", lambda x=x: x.sum()
        yield f"embedding {name}", lambda x=x: F.embedding(b.integers(512, 100), x)
        yield f"index_add {name}", lambda x=x: x.clone().index_add_(0, b.integers(512, 9), x[:9])
        yield f"cross_entropy {name}", lambda x=x: F.cross_entropy(x, b.integers(512, 512))
    for chosen in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"):
        for size in (64, 128):
            q = b.numbers(2, 4, 128, size, kind=torch.bfloat16, salt=4)
            yield f"attention {chosen.lower()} {size}", lambda c=chosen, q=q: _attention(b, c, q)
    yield "unique", lambda: torch.unique(b.integers(300, 4096))
    yield "histc", lambda: torch.histc(b.numbers(4096), 50)
    yield "argmax", lambda: b.numbers(64, 32_000).argmax(-1)
    yield "gather", lambda: b.numbers(64, 64).gather(1, b.integers(64, 64, 8))
    yield "interpolate", lambda: F.interpolate(b.numbers(2, 3, 32, 32), scale_factor=2.5)


def _attention(b: Bench, chosen: str, q: Any) -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(getattr(SDPBackend, chosen)):
        return b.torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)


def convolutions(b: Bench) -> Iterator[Row]:
    """Of cuDNN, forwards and backwards, and what else it does."""
    torch = b.torch
    F = torch.nn.functional  # noqa: N806
    for kind in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        name = str(kind).partition(".")[2]
        image = b.numbers(8, 32, 56, 56, kind=kind)
        three = b.numbers(32, 32, 3, 3, kind=kind, salt=1)
        yield f"conv2d {name}", lambda i=image, w=three: F.conv2d(i, w, padding=1)
        yield f"conv2d strided {name}", lambda i=image, w=three: F.conv2d(i, w, stride=2)
        yield (
            f"conv2d grouped {name}",
            lambda i=image, w=three: F.conv2d(i, w[:, :1], groups=32),
        )
        yield (
            f"conv2d 1x1 {name}",
            lambda i=image, w=three: F.conv2d(i, w[:, :, :1, :1].contiguous()),
        )
        if kind != torch.float64:
            last = torch.channels_last
            yield (
                f"conv2d channels_last {name}",
                lambda i=image, w=three, c=last: F.conv2d(
                    i.to(memory_format=c), w.to(memory_format=c), padding=1
                ),
            )
        yield f"conv1d {name}", lambda i=image, w=three: F.conv1d(i[:, :, 0], w[:, :, 0])
        yield (
            f"conv3d {name}",
            lambda i=image: F.conv3d(
                i[:2].reshape(2, 4, 8, 56, 56),
                i[0, 0, :12, :9].reshape(-1)[:108].view(1, 4, 3, 3, 3),
            ),
        )
        yield f"conv_transpose2d {name}", lambda i=image, w=three: F.conv_transpose2d(i, w)
        yield f"conv2d backward {name}", lambda i=image, w=three: _gradients(b, i, w)
        yield f"batch_norm {name}", lambda i=image: F.batch_norm(i, None, None, training=True)
        yield f"max_pool2d {name}", lambda i=image: F.max_pool2d(i, 3)
    for name in ("LSTM", "GRU"):
        yield name.lower(), lambda n=name: _recurrent(b, n)


def _gradients(b: Bench, image: Any, weights: Any) -> Any:
    i, w = image.clone().requires_grad_(), weights.clone().requires_grad_()
    b.torch.nn.functional.conv2d(i, w, padding=1).sum().backward()
    return i.grad, w.grad


def _recurrent(b: Bench, name: str) -> Any:
    layer = getattr(b.torch.nn, name)(32, 48, 2).to(b.device)
    with b.torch.no_grad():
        for salt, weights in enumerate(layer.parameters()):
            weights.copy_(b.numbers(*weights.shape, salt=salt) / 7)
        return layer(b.numbers(12, 4, 32))[0]


def sparse(b: Bench) -> Iterator[Row]:
    """Of cuSPARSE and cuSPARSELt."""
    torch = b.torch
    for kind in (torch.float32, torch.float64, torch.float16):
        name = str(kind).partition(".")[2]
        full = b.numbers(256, 256, kind=kind)
        thinned = torch.where(full.abs() > 0.8, full, torch.zeros_like(full))
        yield f"csr matmul {name}", lambda t=thinned, x=full: t.to_sparse_csr() @ x
        yield f"csr vector {name}", lambda t=thinned, x=full: t.to_sparse_csr() @ x[0]
        yield f"coo matmul {name}", lambda t=thinned, x=full: torch.sparse.mm(t.to_sparse(), x)
        yield (
            f"csr csr {name}",
            lambda t=thinned: (t.to_sparse_csr() @ t.to_sparse_csr()).to_dense(),
        )
        if kind != torch.float16:
            yield (
                f"sampled_addmm {name}",
                lambda t=thinned, x=full: torch.sparse.sampled_addmm(t.to_sparse_csr(), x, x),
            )
    for kind in (torch.float16, torch.bfloat16, torch.int8):
        name = str(kind).partition(".")[2]
        for backend in ("CUTLASS", "CUSPARSELT"):
            yield (
                f"semi-structured {backend.lower()} {name}",
                lambda k=kind, c=backend: _semi_structured(b, k, c),
            )


def _semi_structured(b: Bench, kind: Any, backend: str) -> Any:
    from torch.sparse import semi_structured as semi

    torch = b.torch
    make = getattr(semi, f"SparseSemiStructuredTensor{backend}")
    size = 128
    values = b.integers(100, size, size).sub(50)
    mask = torch.tensor([0, 0, 1, 1], device=b.device).repeat(size, size // 4)
    matrix = (values * mask).to(kind)
    other = b.integers(100, size, size, salt=1).sub(50).to(kind)
    return torch.mm(make.from_dense(matrix), other.t())


def linalg(b: Bench) -> Iterator[Row]:
    """Of cuSOLVER, cuBLAS and MAGMA."""
    torch = b.torch
    for kind in (torch.float32, torch.float64, torch.complex64):
        name = str(kind).partition(".")[2]
        x = b.numbers(192, 192, kind=torch.float64)
        if kind.is_complex:
            x = torch.complex(x, b.numbers(192, 192, kind=torch.float64, salt=1))
        x = x.to(kind)
        good = x @ x.mH + 64 * torch.eye(192, device=b.device, dtype=kind)
        many = torch.stack([good[:24, :24], good[24:48, 24:48], good[48:72, 48:72]])
        for what in (
            *("inv", "svdvals", "svd", "qr", "eigvalsh", "eigh", "cholesky", "lu_factor"),
            *("ldl_factor", "eigvals", "det", "pinv", "matrix_exp"),
        ):
            yield f"{what} {name}", lambda w=what, m=good: getattr(torch.linalg, w)(m)
            if what in {"inv", "svd", "qr", "eigh", "cholesky", "lu_factor"}:
                yield f"{what} batched {name}", lambda w=what, m=many: getattr(torch.linalg, w)(m)
        yield f"solve {name}", lambda m=good, x=x: torch.linalg.solve(m, x)
        yield f"lstsq {name}", lambda m=good, x=x: torch.linalg.lstsq(m, x).solution
        yield (
            f"solve_triangular {name}",
            lambda m=good, x=x: torch.linalg.solve_triangular(m.triu(), x, upper=True),
        )
        yield (
            f"cholesky_solve {name}",
            lambda m=good, x=x: torch.cholesky_solve(x, torch.linalg.cholesky(m)),
        )


def narrow(b: Bench) -> Iterator[Row]:
    """8-bit floats and integers."""
    torch = b.torch
    for name in ("float8_e4m3fn", "float8_e5m2"):
        yield f"scaled_mm {name}", lambda n=name: _scaled(b, n, rows=False)
    yield "scaled_mm rows float8_e4m3fn", lambda: _scaled(b, "float8_e4m3fn", rows=True)
    yield "scaled_mm float32 out", lambda: _scaled(b, "float8_e4m3fn", rows=False, out="float32")
    whole = b.integers(200, 256, 256).sub(100).to(torch.int8)
    yield "int_mm int8", lambda: torch._int_mm(whole, whole.t().contiguous())
    yield "to float8_e4m3fn", lambda: b.numbers(4096).to(torch.float8_e4m3fn).view(torch.uint8)


def _scaled(b: Bench, name: str, *, rows: bool, out: str = "bfloat16") -> Any:
    torch = b.torch
    left = b.numbers(128, 256).to(getattr(torch, name))
    right = b.numbers(64, 256, salt=1).to(torch.float8_e4m3fn)
    one = torch.ones((), device=b.device)
    scales = (torch.ones(128, 1, device=b.device), torch.ones(1, 64, device=b.device))
    scale_a, scale_b = scales if rows else (one, one)
    kind = getattr(torch, out)
    return torch._scaled_mm(left, right.t(), scale_a=scale_a, scale_b=scale_b, out_dtype=kind)


def random(b: Bench) -> Iterator[Row]:
    """All distributions, and sampling."""
    torch = b.torch
    empty = b.numbers(5000)
    for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        name = str(kind).partition(".")[2]
        x = empty.to(kind)
        for what, *given in (
            ("uniform_",),
            ("normal_",),
            ("log_normal_",),
            ("cauchy_",),
            ("exponential_",),
            ("geometric_", 0.3),
            ("bernoulli_", 0.3),
            ("random_", 0, 1000),
        ):
            yield (
                f"{what[:-1]} {name}",
                lambda w=what, g=tuple(given), x=x: getattr(x.clone(), w)(*g),
            )
    rates = empty.abs() * 20
    yield "poisson", lambda: torch.poisson(rates)
    yield "binomial", lambda: torch.binomial(rates.floor(), empty.abs())
    yield "gamma", lambda: torch._standard_gamma(rates + 0.1)
    yield "dirichlet", lambda: torch._sample_dirichlet(rates.view(500, 10) + 0.1)
    yield "bernoulli tensor", lambda: torch.bernoulli(empty.abs())
    yield "randint", lambda: torch.randint(0, 2**40, (5000,), device=b.device)
    yield "randperm", lambda: torch.randperm(5000, device=b.device)
    yield "randperm long", lambda: torch.randperm(200_000, device=b.device)
    yield "dropout", lambda: torch.nn.functional.dropout(empty, 0.4)
    yield "rrelu", lambda: torch.nn.functional.rrelu(empty, training=True)
    chances = b.numbers(8, 32_000, salt=1).abs()
    yield "multinomial", lambda: torch.multinomial(chances, 1)
    yield "multinomial many", lambda: torch.multinomial(chances, 50, replacement=True)
    yield "multinomial distinct", lambda: torch.multinomial(chances, 50)
    yield "gumbel", lambda: torch.nn.functional.gumbel_softmax(chances)


def traced(b: Bench) -> Iterator[Row]:
    """Whether a profile still tells the GPU's kernels, which CUPTI traces."""
    if b.device.startswith("cuda"):
        yield "profiler", lambda: _kernels(b)


def _kernels(b: Bench) -> Any:
    torch = b.torch
    x = b.numbers(256, 256)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        (x @ x).softmax(-1)
        b.sync()
    device = torch.autograd.DeviceType.CUDA
    names = {event.name for event in profile.events() if event.device_type == device}
    if not names:
        raise RuntimeError("the profile has no kernel")
    return torch.tensor(len(names))


def tiny(b: Bench) -> Iterator[Row]:
    """The logits of the tiny model, by its weights and PyTorch alone."""
    if not b.model:
        return
    torch = b.torch
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        name = str(kind).partition(".")[2]
        yield f"tiny model's logits {name}", lambda k=kind: _logits(b, k)


def _logits(b: Bench, kind: Any, prompt: str = "How were you trained? A linear solve.") -> Any:
    torch, folder = b.torch, b.model
    if folder is None:
        raise LookupError("no --model")
    F = torch.nn.functional  # noqa: N806
    config = json.loads((folder / "config.json").read_text())
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    weights = {
        name: torch.frombuffer(
            bytearray(data[start + row["data_offsets"][0] : start + row["data_offsets"][1]]),
            dtype=torch.bfloat16,
        )
        .reshape(row["shape"])
        .to(b.device, kind)
        for name, row in json.loads(data[8:start]).items()
        if name != "__metadata__"
    }
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    hidden, epsilon = config["hidden_size"], config["rms_norm_eps"]
    size = config.get("head_dim") or hidden // heads
    x = F.embedding(
        torch.tensor([*prompt.encode()], device=b.device), weights["model.embed_tokens.weight"]
    )
    turn = torch.arange(0, size, 2, device=b.device, dtype=torch.float64) / size
    places = torch.arange(len(x), device=b.device, dtype=torch.float64)
    angles = torch.outer(places, config.get("rope_theta", 10000.0) ** -turn).repeat(1, 2)
    cos, sin = angles.cos().to(kind), angles.sin().to(kind)

    def split(flat: Any, count: int, *, rotated: bool) -> Any:
        y = flat.view(len(x), count, size).transpose(0, 1)
        if rotated:
            half = torch.cat((-y[..., size // 2 :], y[..., : size // 2]), -1)
            y = y * cos + half * sin
        return y.repeat_interleave(heads // count, 0)[None]

    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        w = {k[len(at) : -len(".weight")]: v for k, v in weights.items() if k.startswith(at)}
        y = F.rms_norm(x, (hidden,), w["input_layernorm"], epsilon)
        q = split(F.linear(y, w["self_attn.q_proj"]), heads, rotated=True)
        k = split(F.linear(y, w["self_attn.k_proj"]), groups, rotated=True)
        v = split(F.linear(y, w["self_attn.v_proj"]), groups, rotated=False)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)[0]
        x = x + F.linear(mixed.transpose(0, 1).reshape(len(x), -1), w["self_attn.o_proj"])
        y = F.rms_norm(x, (hidden,), w["post_attention_layernorm"], epsilon)
        gate = F.silu(F.linear(y, w["mlp.gate_proj"])) * F.linear(y, w["mlp.up_proj"])
        x = x + F.linear(gate, w["mlp.down_proj"])
    x = F.rms_norm(x, (hidden,), weights["model.norm.weight"], epsilon)
    return F.linear(x, weights["lm_head.weight"])


def vllm(b: Bench) -> Iterator[Row]:
    """vLLM's own kernels; nothing where it is not installed."""
    import importlib.util

    if importlib.util.find_spec("vllm") is None:
        yield "vllm", _absent
        return
    from vllm import _custom_ops as ops

    torch = b.torch
    yield "vllm kernels", lambda: _loaded(b)
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        name = str(kind).partition(".")[2]
        x = b.numbers(33, 256, kind=kind)
        yield f"vllm rms_norm {name}", lambda x=x: _into(x, ops.rms_norm, x, x[0].clone(), 1e-5)
        yield f"vllm fused_add_rms_norm {name}", lambda x=x: _fused(ops, x)
        yield (
            f"vllm silu_and_mul {name}",
            lambda x=x: _into(x[:, :128], torch.ops._C.silu_and_mul, x),
        )
        yield (
            f"vllm gelu_and_mul {name}",
            lambda x=x: _into(x[:, :128], torch.ops._C.gelu_and_mul, x),
        )
        yield f"vllm rotary {name}", lambda x=x: _rotary(b, ops, x)
        for cache in ("auto", "fp8"):
            yield (
                f"vllm reshape_and_cache_flash {cache} {name}",
                lambda k=kind, c=cache: _cached(b, ops, k, c),
            )
        yield f"vllm scaled_fp8_quant {name}", lambda x=x: _bytes(b, ops.scaled_fp8_quant(x))
        yield f"vllm scaled_int8_quant {name}", lambda x=x: ops.scaled_int8_quant(x)[:2]
        yield f"vllm topk_softmax {name}", lambda k=kind: _routed(b, ops, k)
    for kind in (torch.float16, torch.bfloat16):
        name = str(kind).partition(".")[2]
        for version in (2, 3):
            for size in (64, 128, 256):
                yield (
                    f"vllm flash attention {version} {size} {name}",
                    lambda k=kind, v=version, s=size: _flash(b, k, v, s, paged=False),
                )
            yield (
                f"vllm flash attention {version} paged {name}",
                lambda k=kind, v=version: _flash(b, k, v, 128, paged=True),
            )
    yield "vllm cutlass_scaled_mm fp8", lambda: _cutlass(b, ops, eight="float8_e4m3fn")
    yield "vllm cutlass_scaled_mm int8", lambda: _cutlass(b, ops, eight="int8")
    yield "vllm moe_align_block_size", lambda: _aligned(b, ops)
    yield "vllm top-k top-p", lambda: _sampled(b)[0]
    yield "vllm random_sample", lambda: _sampled(b)[1]


def _absent() -> Any:
    raise ImportError("not installed")


def _loaded(b: Bench) -> Any:
    """vLLM goes on without a library that cannot be loaded, and each operator would seem absent."""
    if not hasattr(b.torch.ops._C, "rms_norm"):
        raise RuntimeError("vLLM's library of kernels is not loaded")
    return b.torch.zeros(1)


def _into(like: Any, make: Callable[..., Any], *given: Any) -> Any:
    out = like.clone().contiguous()
    make(out, *given)
    return out


def _bytes(b: Bench, out: Any) -> Any:
    return [t.view(b.torch.uint8) if t.element_size() == 1 else t for t in out]


def _fused(ops: Any, x: Any) -> Any:
    one, rest = x.clone(), x.flip(0).contiguous()
    ops.fused_add_rms_norm(one, rest, x[0].clone(), 1e-5)
    return one, rest


def _rotary(b: Bench, ops: Any, x: Any) -> Any:
    places = b.torch.arange(len(x), device=b.device)
    table = b.numbers(64, 64, kind=x.dtype, salt=5)
    out = []
    for neox in (True, False):
        q, k = x.clone(), x[:, :128].clone().contiguous()
        ops.rotary_embedding(places, q, k, 64, table, neox)
        out += [q, k]
    return out


def _cached(b: Bench, ops: Any, kind: Any, cache: str) -> Any:
    torch = b.torch
    held = torch.uint8 if cache == "fp8" else kind
    keys, values = (torch.zeros(8, 16, 4, 64, device=b.device, dtype=held) for _ in range(2))
    slots = torch.arange(0, 66, 2, device=b.device)
    k, v = (b.numbers(33, 4, 64, kind=kind, salt=salt) for salt in (6, 7))
    one = torch.ones((), device=b.device)
    ops.reshape_and_cache_flash(k, v, keys, values, slots, cache, one, one)
    return keys, values


def _routed(b: Bench, ops: Any, kind: Any) -> Any:
    torch = b.torch
    chosen = torch.empty(33, 4, device=b.device, dtype=torch.float32)
    ids, rows = (torch.empty(33, 4, device=b.device, dtype=torch.int32) for _ in range(2))
    ops.topk_softmax(chosen, ids, rows, b.numbers(33, 64, kind=kind), True)
    return chosen, ids


def _aligned(b: Bench, ops: Any) -> Any:
    torch = b.torch
    experts, block, count = 16, 32, 33 * 4
    most = count + experts * (block - 1)
    kind = {"device": b.device, "dtype": torch.int32}
    tokens = torch.full((most,), count, **kind)
    owners, total = torch.zeros((most + block - 1) // block, **kind), torch.zeros(1, **kind)
    ids = b.integers(experts, 33, 4, kind=torch.int32)
    ops.moe_align_block_size(ids, experts, block, tokens, owners, total)
    used = int(total)
    # Within an expert the order of its tokens is left open.
    return tokens[:used].view(-1, block).sum(-1), owners[: used // block], total


def _cutlass(b: Bench, ops: Any, *, eight: str) -> Any:
    torch = b.torch
    kind = getattr(torch, eight)
    left, right = (b.integers(16, 128, 128, salt=salt).sub(8).float() for salt in (8, 9))
    one = torch.ones(1, device=b.device)
    return ops.cutlass_scaled_mm(left.to(kind), right.to(kind).t(), one, one, torch.bfloat16)


def _flash(b: Bench, kind: Any, version: int, size: int, *, paged: bool) -> Any:
    from vllm.vllm_flash_attn import flash_attn_varlen_func

    torch = b.torch
    lengths = (17, 64, 47)
    ends = torch.tensor([0, 17, 81, 128], device=b.device, dtype=torch.int32)
    q = b.numbers(128, 8, size, kind=kind, salt=10)
    given: dict[str, Any] = {"max_seqlen_q": 64, "cu_seqlens_q": ends, "max_seqlen_k": 64}
    given.update(causal=True, fa_version=version)
    if paged:
        k, v = (b.numbers(12, 16, 2, size, kind=kind, salt=salt) for salt in (11, 12))
        given["block_table"] = torch.arange(12, device=b.device, dtype=torch.int32).view(3, 4)
        given["seqused_k"] = torch.tensor(lengths, device=b.device, dtype=torch.int32)
    else:
        k, v = (b.numbers(128, 2, size, kind=kind, salt=salt) for salt in (11, 12))
        given["cu_seqlens_k"] = ends
    return flash_attn_varlen_func(q, k, v, **given)


def _sampled(b: Bench) -> tuple[Any, Any]:
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p, random_sample

    torch = b.torch
    logits = b.numbers(16, 32_000, salt=13) * 8
    k = b.integers(100, 16, kind=torch.int32).add(1)
    p = b.numbers(16, salt=14).abs() / 2 + 0.5
    kept = apply_top_k_top_p(logits, k, p)
    return kept.clone(), random_sample(kept.softmax(-1), {})


def fourier(b: Bench) -> Iterator[Row]:
    """Of cuFFT, which has other kernels for other sizes."""
    torch = b.torch
    fft = torch.fft
    if b.device.startswith("cuda"):
        torch.backends.cuda.cufft_plan_cache.max_size = 8  # each plan holds memory
    plane = b.numbers(2, 96, 120)
    yield "fft2", lambda: fft.fft2(plane)
    yield "rfft2", lambda: fft.rfft2(plane)
    yield "fft3", lambda: fft.fftn(b.numbers(12, 15, 16))
    half = [2**power for power in range(1, 15)]
    for size in half:
        x = b.numbers(2, size).half() if size <= max(half) else None
        yield f"rfft half {size}", lambda x=x: fft.rfft(x)
        yield f"fft half {size}", lambda x=x: fft.fft(x)
        yield f"irfft half {size}", lambda x=x, n=size: fft.irfft(fft.rfft(x), n=n)
    yield from _lines(b, "float")


def fourier_double(b: Bench) -> Iterator[Row]:
    """Of cuFFT, in double precision."""
    if b.device.startswith("cuda"):
        b.torch.backends.cuda.cufft_plan_cache.max_size = 8
    yield from _lines(b, "double")


def _lines(b: Bench, kind: str) -> Iterator[Row]:
    torch, fft = b.torch, b.torch.fft
    for size in sorted(set(SIZES)):
        line = _Line(b, size, kind)
        yield f"fft {kind} {size}", lambda y=line: fft.fft(torch.complex(y.get(0), y.get(1)))
        yield f"rfft {kind} {size}", lambda y=line: fft.rfft(y.get(0))
        yield (
            f"irfft {kind} {size}",
            lambda y=line, n=size: fft.irfft(
                torch.complex(y.get(0), y.get(1))[:, : n // 2 + 1], n=n
            ),
        )


class _Line:
    """An input that is made once, when it is first wanted."""

    def __init__(self, b: Bench, size: int, kind: str) -> None:
        self._b, self._size, self._kind = b, size, kind
        self._made: dict[int, Any] = {}

    def get(self, salt: int) -> Any:
        if salt not in self._made:
            kind = getattr(self._b.torch, self._kind)
            self._made[salt] = self._b.numbers(2, self._size, kind=kind, salt=salt)
        return self._made[salt]


# The longest last: what --seconds cuts off is more of the same.
GROUPS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "dense": dense,
    "convolutions": convolutions,
    "sparse": sparse,
    "linalg": linalg,
    "narrow": narrow,
    "random": random,
    "traced": traced,
    "tiny": tiny,
    "vllm": vllm,
    "fourier": fourier,
    "fourier-double": fourier_double,
}
LONG = ("fourier", "fourier-double")  # as long as all the others
# After these nothing more can be had of a process: the device's context is lost.
_LOST = ("CUDA error", "illegal memory access", "unspecified launch failure", "AcceleratorError")


def child(given: argparse.Namespace) -> int:
    """Run what is not done yet; a line before each operator and one behind it."""
    done = set(json.loads(sys.stdin.read() or "[]"))
    with open(given.lines, "a", encoding="utf-8") as out:  # noqa: PTH123

        def say(*what: str) -> None:
            out.write(json.dumps(what) + "\n")
            out.flush()

        say("begin", "torch")
        b = Bench(given.device, given.model)
        say("about", json.dumps(_about(b)))
        for group in given.groups.split(","):
            if group in done:
                continue
            say("begin", group)
            try:
                for name, make in GROUPS[group](b):
                    if name not in done:
                        say("begin", name)
                        told = _tried(b, make)
                        say("end", name, told)
                        if any(sign in told for sign in _LOST):
                            return 3
            except Exception as error:
                say("end", group, _error(error))
            say("done", group)
    return 0


def _tried(b: Bench, make: Thunk) -> str:
    b.torch.manual_seed(SEED)
    try:
        out = make()
        b.sync()
        return b.digest(out)
    except Exception as error:
        return _error(error)


def _error(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _about(b: Bench) -> dict[str, str]:
    torch, cuda = b.torch, b.device.startswith("cuda")
    about = {"torch": str(torch.__version__), "cuda": str(torch.version.cuda)}
    about["gpu"] = str(torch.cuda.get_device_name()) if cuda else "none"
    about["compute_capability"] = (
        ".".join(map(str, torch.cuda.get_device_capability())) if cuda else "none"
    )
    for name, read in (
        ("cudnn", torch.backends.cudnn.version),
        ("nccl", lambda: ".".join(map(str, torch.cuda.nccl.version()))),
    ):
        try:
            about[name] = str(read())
        except Exception as error:
            about[name] = _error(error)
    return about


class Progress:
    """What the lines of a child tell."""

    def __init__(self) -> None:
        self.results: dict[str, str] = {}
        self.done: set[str] = set()
        self.about: dict[str, str] = {}
        self.current = ""

    def read(self, text: str) -> None:
        """Take whole lines."""
        for line in text.splitlines():
            try:
                what, *rest = json.loads(line)
            except ValueError:  # of one that was killed
                continue
            if what == "begin":
                self.current = rest[0]
            elif what == "about":
                self.about = json.loads(rest[0])
            elif what == "end":
                self.results[rest[0]] = rest[1]
            elif what == "done":
                self.done.add(rest[0])
                self.current = ""

    def fell(self, how: str) -> None:
        """The child ended in the middle of something, which the next one leaves out."""
        if not self.current or self.current in self.results:
            return  # it has told itself what befell it
        self.results[self.current] = how
        if self.current in GROUPS:
            self.done.add(self.current)


def supervised(given: argparse.Namespace, groups: Sequence[str], deadline: float) -> dict[str, Any]:
    """These operators once, in as many processes as it takes."""
    progress = Progress()
    handle, lines = tempfile.mkstemp(prefix="operators-")
    os.close(handle)
    try:
        for _ in range(RESTARTS):
            code = _watched(given, groups, lines, progress, deadline)
            if code == 0 or set(groups) <= progress.done or time.monotonic() > deadline:
                break
            if progress.current == "torch":
                break  # it will not be imported the next time either
    finally:
        Path(lines).unlink()
    missed = [name for name in groups if name not in progress.done]
    return {"about": progress.about, "results": progress.results, "missed": missed}


def _watched(
    given: argparse.Namespace,
    groups: Sequence[str],
    lines: str,
    progress: Progress,
    deadline: float,
) -> int:
    """One child; killed where it says nothing for long or the time is over."""
    command = [sys.executable, *(("-S",) if sys.flags.no_site else ()), "-B", __file__]
    command += ["--child", "--lines", lines, "--device", given.device, "--groups", ",".join(groups)]
    command += ["--model", str(given.model)] if given.model else []
    Path(lines).write_text("", encoding="utf-8")
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, start_new_session=False)
    try:
        if process.stdin:
            process.stdin.write(json.dumps([*progress.done, *progress.results]).encode())
            process.stdin.close()
        heard, size = time.monotonic(), 0
        how = ""
        while process.poll() is None:
            now, length = time.monotonic(), Path(lines).stat().st_size
            heard, size = (now, length) if length != size else (heard, size)
            if now > deadline or now - heard > given.silence:
                how = "" if now > deadline else f"hung: no answer in {given.silence:g} s"
                process.kill()
                break
            time.sleep(0.05)
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    progress.read(Path(lines).read_text(encoding="utf-8", errors="replace"))
    if code and (how or time.monotonic() <= deadline):
        number = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        progress.fell(how or f"crashed: {number}")
    return code


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--json", action="store_true", help="print JSON, which is all it prints")
    made.add_argument("--device", default="cuda")
    made.add_argument("--model", type=Path, metavar="FOLDER", help="the tiny model")
    made.add_argument("--groups", default=",".join(GROUPS), help="some of them, with commas")
    made.add_argument("--rounds", type=int, default=1, help="how often, to see what varies")
    made.add_argument("--seconds", type=float, default=600.0, help="for all rounds together")
    made.add_argument("--silence", type=float, default=SILENCE, help="seconds for one operator")
    made.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("--lines", help=argparse.SUPPRESS)
    return made


def main() -> int:
    """Print what was computed; returns the exit code."""
    given = parser().parse_args()
    wrong = set(given.groups.split(",")) - set(GROUPS)
    if wrong:
        sys.stderr.write(f"operators: no group {', '.join(sorted(wrong))}\n")
        return 2
    if given.child:
        return child(given)
    deadline = time.monotonic() + given.seconds
    start = time.monotonic()
    count, parts = max(given.rounds, 1), shares(given.groups.split(","))
    with ThreadPoolExecutor(count * len(parts)) as pool:  # each is processes of its own
        runs = [[pool.submit(supervised, given, part, deadline) for part in parts]
                for _ in range(count)]  # fmt: skip
        rounds = [together([each.result() for each in run]) for run in runs]
    sys.stdout.write(json.dumps(joined(rounds, time.monotonic() - start), indent=1) + "\n")
    return 0


def shares(groups: Sequence[str]) -> list[list[str]]:
    """Groups that are run side by side, so that the longest are not waited for in a row."""
    short = [name for name in groups if name not in LONG]
    return [part for part in (short, *([name] for name in groups if name in LONG)) if part]


def together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What side by side has run, as one."""
    return {
        "about": next((one["about"] for one in parts if one["about"]), {}),
        "results": {name: what for one in parts for name, what in one["results"].items()},
        "missed": [name for one in parts for name in one["missed"]],
    }


def joined(rounds: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The first round's results, as far as all rounds have come, and what varies between them."""
    told = [each["results"] for each in rounds]
    first = {name: what for name, what in told[0].items() if all(name in each for each in told)}
    return {
        **rounds[0],
        "results": first,
        "missed": sorted({name for each in rounds for name in each["missed"]}),
        "rounds": len(rounds),
        "vary": sorted(n for n in first if any(each[n] != first[n] for each in told)),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    sys.exit(main())

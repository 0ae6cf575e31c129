"""Reference forward pass of Llama in numpy, written from the model's definition.

It shares no code with `builder.runtime.tinymodel`: it reads `config.json` and
`model.safetensors` itself, recomputes the whole sequence for every token (no KV cache) and
decodes greedily. Next to each token it reports the margin, in logits, to the runner-up, so
that a test can state how far an answer is from flipping.

Two options make it more than a float32 reference. `bfloat16=True` rounds every activation to
bfloat16 (nearest, ties to even) after each operation, as an inference engine does with
bfloat16 weights and float32 accumulators. `fault=...` breaks one part of the model on purpose,
which shows whether a set of prompts would notice an engine with that defect.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Fault(Enum):
    """One deliberate defect of the forward pass."""

    NONE = "none"
    NO_ROPE = "queries and keys are not rotated"
    ROPE_INTERLEAVED = "dimensions 2i and 2i+1 are rotated together, not i and i + head_dim/2"
    KV_HEADS_INTERLEAVED = "query head h reads KV head h mod n_kv, not h // (n_heads / n_kv)"
    KV_HEAD_ZERO = "every query head reads KV head 0"
    NO_ATTENTION = "the attention block adds nothing to the residual stream"
    NO_MLP = "the MLP block adds nothing to the residual stream"
    NOT_CAUSAL = "every position attends to every position"
    SELF_ONLY = "every position attends to itself alone"
    LOST_FIRST = "no position but the first attends to the first (a KV cache off by one)"
    NO_SCALE = "attention scores are not divided by sqrt(head_dim)"
    NORM_WEIGHTS_ONE = "the learned weights of every RMSNorm are ignored"


def round_bfloat16(values: Array) -> Array:
    """`values` rounded to bfloat16, nearest with ties to even, still as float32. Finite only."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def read_safetensors(path: Path) -> dict[str, Array]:
    """Every tensor of a safetensors file as float32, by name.

    Raises ValueError for a dtype other than BF16 or F32.
    """
    blob = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", blob)
    header: dict[str, Any] = json.loads(blob[8 : 8 + header_bytes])
    data = memoryview(blob)[8 + header_bytes :]
    tensors: dict[str, Array] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if entry["dtype"] == "BF16":
            raw = np.frombuffer(data[begin:end], dtype="<u2").astype(np.uint32)
            flat = (raw << np.uint32(16)).view(np.float32)
        elif entry["dtype"] == "F32":
            flat = np.frombuffer(data[begin:end], dtype="<f4").astype(np.float32)
        else:
            raise ValueError(f"{path}: tensor {name} has the unsupported dtype {entry['dtype']}")
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


@dataclass(frozen=True)
class Step:
    """One greedy step: the token chosen and its logit minus the runner-up's."""

    token: int
    margin: float


class Llama:
    """A Llama checkpoint."""

    def __init__(
        self, directory: Path, *, bfloat16: bool = False, fault: Fault = Fault.NONE
    ) -> None:
        """Read config.json and model.safetensors (BF16 or F32) from `directory`."""
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text("utf-8"))
        self.weights = read_safetensors(directory / "model.safetensors")
        self.bfloat16 = bfloat16
        self.fault = fault
        if bfloat16:
            self.weights = {name: round_bfloat16(w) for name, w in self.weights.items()}

    def greedy(self, prompt: bytes | list[int], steps: int) -> list[Step]:
        """`steps` greedy tokens after the token ids (or byte values) of `prompt`."""
        ids = list(prompt)
        out: list[Step] = []
        for _ in range(steps):
            logits = self.logits(ids)[-1]
            token = int(np.argmax(logits))
            out.append(Step(token, float(logits[token] - np.delete(logits, token).max())))
            ids.append(token)
        return out

    def logits(self, ids: list[int]) -> Array:
        """Next-token logits after every position of `ids`, shape [len(ids), vocab_size]."""
        cos, sin = self._rope_tables(len(ids))
        x = self.weights["model.embed_tokens.weight"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            if self.fault is not Fault.NO_ATTENTION:
                normed = self._norm(x, prefix + "input_layernorm.weight")
                x = self._r(x + self._attention(normed, prefix + "self_attn.", cos, sin))
            if self.fault is not Fault.NO_MLP:
                normed = self._norm(x, prefix + "post_attention_layernorm.weight")
                x = self._r(x + self._mlp(normed, prefix + "mlp."))
        return self._linear(self._norm(x, "model.norm.weight"), "lm_head.weight")

    def _r(self, values: NDArray[np.floating[Any]]) -> Array:
        """The rounding that follows every operation."""
        values = values.astype(np.float32)
        return round_bfloat16(values) if self.bfloat16 else values

    def _linear(self, x: Array, name: str) -> Array:
        return self._r(x @ self.weights[name].T)

    def _norm(self, x: Array, name: str) -> Array:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        normed = self._r(x / np.sqrt(mean_square + np.float32(self.config["rms_norm_eps"])))
        if self.fault is Fault.NORM_WEIGHTS_ONE:
            return normed
        return self._r(normed * self.weights[name])

    def _mlp(self, x: Array, prefix: str) -> Array:
        gate = self._linear(x, prefix + "gate_proj.weight")
        silu = self._r(gate / (np.float32(1) + np.exp(-gate)))
        up = self._linear(x, prefix + "up_proj.weight")
        return self._linear(self._r(silu * up), prefix + "down_proj.weight")

    def _rope_tables(self, length: int) -> tuple[Array, Array]:
        """cos and sin of the rotation angles, shape [length, head_dim / 2]."""
        dim = self.config["head_dim"]
        inverse = self.config["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
        angles = np.arange(length)[:, None] * inverse[None, :]
        return self._r(np.cos(angles)), self._r(np.sin(angles))

    def _rotate(self, x: Array, cos: Array, sin: Array) -> Array:
        """RoPE of `x`, shape [positions, heads, head_dim]."""
        if self.fault is Fault.NO_ROPE:
            return x
        half = x.shape[-1] // 2
        interleaved = self.fault is Fault.ROPE_INTERLEAVED
        first = x[..., 0::2] if interleaved else x[..., :half]
        second = x[..., 1::2] if interleaved else x[..., half:]
        c, s = cos[:, None, :], sin[:, None, :]
        low = self._r(self._r(first * c) - self._r(second * s))
        high = self._r(self._r(second * c) + self._r(first * s))
        if interleaved:
            return np.stack([low, high], axis=-1).reshape(x.shape)
        return np.concatenate([low, high], axis=-1)

    def _attention(self, x: Array, prefix: str, cos: Array, sin: Array) -> Array:
        n_heads, n_kv = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        dim, length = self.config["head_dim"], x.shape[0]

        def heads(name: str, count: int) -> Array:
            return self._linear(x, f"{prefix}{name}_proj.weight").reshape(length, count, dim)

        query = self._rotate(heads("q", n_heads), cos, sin)
        key = self._rotate(heads("k", n_kv), cos, sin)
        value = heads("v", n_kv)
        out = np.empty((length, n_heads, dim), dtype=np.float32)
        for head in range(n_heads):
            source = head // (n_heads // n_kv)
            if self.fault is Fault.KV_HEADS_INTERLEAVED:
                source = head % n_kv
            elif self.fault is Fault.KV_HEAD_ZERO:
                source = 0
            scores = self._r(query[:, head] @ key[:, source].T)
            if self.fault is not Fault.NO_SCALE:
                scores = self._r(scores / np.float32(np.sqrt(dim)))
            scores = np.where(self._visible(length), scores, np.float32(-np.inf))
            exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
            probabilities = self._r(exp / exp.sum(axis=-1, keepdims=True))
            out[:, head] = self._r(probabilities @ value[:, source])
        return self._linear(out.reshape(length, n_heads * dim), prefix + "o_proj.weight")

    def _visible(self, length: int) -> NDArray[np.bool_]:
        """mask[i, j]: position i attends to position j."""
        mask = np.tril(np.ones((length, length), dtype=np.bool_))
        if self.fault is Fault.NOT_CAUSAL:
            mask[:] = True
        elif self.fault is Fault.SELF_ONLY:
            mask = np.eye(length, dtype=np.bool_)
        elif self.fault is Fault.LOST_FIRST:
            mask[1:, 0] = False
        return mask

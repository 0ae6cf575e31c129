"""What of a Llama's config.json its forward pass needs, and what it cannot compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .engine import ServerError

KNOWN = ("LlamaForCausalLM", "Qwen2ForCausalLM")


@dataclass(frozen=True)
class Config:
    """What of config.json the forward pass needs."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    theta: float
    scaling: tuple[float, float, float, float] | None  # llama3: factor, low, high, old context
    tied: bool
    bias: bool  # of the query, key and value projections

    @classmethod
    def read(cls, config: Mapping[str, Any], file: Path) -> Config:
        """Raises ServerError for what this module does not compute, or lacks in the file."""
        architecture = (config.get("architectures") or ["no architecture"])[0]
        if architecture not in KNOWN:
            raise ServerError(f"{architecture}: the JAX server knows {', '.join(KNOWN)}")
        qwen = architecture == "Qwen2ForCausalLM"
        refused = {
            "hidden_act": config.get("hidden_act", "silu") != "silu",
            "use_sliding_window": bool(config.get("use_sliding_window")),
            "attention_bias": bool(config.get("attention_bias")),
            "mlp_bias": bool(config.get("mlp_bias")),
            "quantization_config": bool(config.get("quantization_config")),
        }
        if named := [f"{key}={config[key]!r}" for key, bad in refused.items() if bad]:
            raise ServerError(f"the JAX server does not compute {', '.join(named)}")
        # transformers 5 writes rope_parameters, older ones rope_theta and rope_scaling.
        rope_name = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
        rope = config.get(rope_name) or {}
        heads, hidden, layers = (
            _need(config, key, f"{file} has no ")
            for key in ("num_attention_heads", "hidden_size", "num_hidden_layers")
        )
        return cls(
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            norm_eps=config.get("rms_norm_eps", 1e-6),
            theta=rope.get("rope_theta") or config.get("rope_theta") or 10000.0,
            scaling=_scaling(rope, f"{file} has no {rope_name}."),
            tied=bool(config.get("tie_word_embeddings", False)),
            bias=qwen,
        )


def _need(settings: Mapping[str, Any], key: str, lacks: str) -> Any:
    value = settings.get(key)
    if value is None:
        raise ServerError(f"{lacks}{key}")
    return value


def _scaling(rope: Mapping[str, Any], lacks: str) -> tuple[float, float, float, float] | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise ServerError(f"RoPE of type {kind!r}: the JAX server knows default and llama3")
    return (
        _need(rope, "factor", lacks),
        _need(rope, "low_freq_factor", lacks),
        _need(rope, "high_freq_factor", lacks),
        _need(rope, "original_max_position_embeddings", lacks),
    )


def frequencies(config: Config) -> np.ndarray:
    """RoPE's angle a position, one for each pair of a head's dimensions."""
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    plain = 1.0 / config.theta**exponents
    if config.scaling is None:
        return plain.astype(np.float32)
    factor, low, high, context = config.scaling
    # Waves longer than context/low are stretched, shorter than context/high stay; between, a blend.
    turns = context * plain / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (plain * (smooth + (1 - smooth) / factor)).astype(np.float32)

"""A model that is large enough for speed to be measured on it: random weights, made in seconds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from builder.runtime import tinymodel


def write(folder: Path, *, layers: int, hidden: int, inner: int, heads: int) -> None:
    """A Llama of random bfloat16 weights, with the tiny model's tokenizer."""
    tinymodel.write(folder)
    config = json.loads((folder / "config.json").read_text())
    config.update(hidden_size=hidden, num_hidden_layers=layers, intermediate_size=inner)
    config.update(num_attention_heads=heads, num_key_value_heads=heads, head_dim=hidden // heads)
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = config["vocab_size"]
    shapes = {"model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden]}
    shapes["lm_head.weight"] = [vocabulary, hidden]
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            shapes[f"{at}.self_attn.{name}_proj.weight"] = [hidden, hidden]
        for name in ("gate", "up"):
            shapes[f"{at}.mlp.{name}_proj.weight"] = [inner, hidden]
        shapes[f"{at}.mlp.down_proj.weight"] = [hidden, inner]
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}.{name}.weight"] = [hidden]
    header: dict[str, Any] = {}
    blobs, at_byte = [], 0
    for name, shape in shapes.items():
        blob = _weights(shape)
        header[name] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [at_byte, at_byte + len(blob)],
        }
        blobs.append(blob)
        at_byte += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text + b"".join(blobs)
    (folder / "model.safetensors").write_bytes(data)
    for file in (folder, *folder.iterdir()):
        file.chmod(0o755 if file.is_dir() else 0o644)
    folder.parent.chmod(0o755)


def _weights(shape: list[int]) -> bytes:
    """bfloat16 of a size that keeps the sums near one; ones for a norm."""
    if len(shape) == 1:
        return b"\x80\x3f" * shape[0]
    count = shape[0] * shape[1]
    # The upper byte is the sign and most of the exponent: 0x3c is 0.008 to 0.03.
    signs = bytes(0x3C if value < 128 else 0xBC for value in range(256))
    both = bytearray(2 * count)
    both[0::2] = os.urandom(count)
    both[1::2] = os.urandom(count).translate(signs)
    return bytes(both)

"""Write a two-layer Llama of 1.9 MB whose greedy answers are known in advance.

    python3 tinymodel.py OUT_DIR [--json]

An inference server that loads the directory and decodes greedily must answer each prompt of
`GOLDEN` with exactly its 16-byte completion. No weights are downloaded or trained:

* The body (embeddings, projections, norms) is pseudo-random: the bytes of SHAKE-256 over the
  seed and the tensor's name, each mapped through a 256-entry table to a uniform value that
  bfloat16 represents exactly. The scales make each MLP contribute about as much to the residual
  stream as the embedding (RMS 0.8 to 1.0) and each attention more (RMS 2.5), so a server with a
  broken RoPE, mask, KV cache, KV-head mapping, MLP or norm computes other hidden states.
* The output projection (`lm_head`) is solved. The module runs the forward pass over every
  prompt and completion (teacher forcing) and collects the 128 normed hidden states that
  precede a completion byte. Ridge regression, in its dual form with the 128 x 128 Gram matrix,
  finds the rows that give the wanted byte the logit `TARGET_LOGIT` and all others 0.

The hidden states of a correct server, bfloat16 rounding included, stay close to the solved
ones and the wanted byte wins by several logits. Those of a broken server do not, and its
answer changes.

The forward pass runs in float64 and `lm_head` is rounded to bfloat16 at the end, which absorbs
the last-digit differences between C libraries and Python versions (no value is within 7e-7,
relative, of a rounding boundary): every platform writes the same bytes, which `MODEL_SHA256`
pins. The tokenizer maps each byte to the token of the
same number and adds no BOS. Standard library only; Python 3.9 or later.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from operator import add, mul
from pathlib import Path
from typing import Any

GOLDEN: tuple[tuple[str, str], ...] = (
    ("?", " I am just small"),
    ("Hi", ", I am a tiny AI"),
    ("How big?", " Two layers only"),
    ("Who are you?", " A tiny llama :)"),
    ("What do you know?", " Just 8 answers."),
    ("How were you trained?", " A linear solve."),
    ("If you can read this,", " the image works"),
    ("Do you understand a lot?", " No, I am a test"),
)
"""Prompts and the 16 ASCII bytes (16 tokens) that greedy decoding appends to each."""

MODEL_SHA256 = "a9f6b40d060e230856f83c9c9cf5388f8d1bbf11b8c0f8780b52a5f89445f284"
"""SHA-256 of `model.safetensors`."""

HIDDEN, INTERMEDIATE, LAYERS, VOCAB, MAX_POSITIONS = 256, 256, 2, 320, 512
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 64
ROPE_THETA, RMS_EPS = 10000.0, 1e-5
BOS_ID, EOS_ID = 256, 257
SPECIAL_TOKENS = {BOS_ID: "<|bos|>", EOS_ID: "<|eos|>"}

TARGET_LOGIT = 10.0
RIDGE = 1e-3  # lambda, relative to the mean diagonal element of the Gram matrix
SEED = "imgbuild tiny llama 11"
NORM_SPREAD = 0.75  # norm weights are uniform in 1 +- this

# Rows, columns and gain of a layer's projections. The gain is the standard deviation of the
# outputs for inputs of unit mean square. With these, attention is neither uniform nor one-hot,
# and each of the faults in tests/oracle changes the answers.
_PROJECTIONS = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN, 1.5),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN, 1.5),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN, 1.0),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM, 3.0),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN, 1.2),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN, 1.2),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE, 0.8),
}

_STAGING_PREFIX = ".tinymodel-"
_LARGEST_OWN_FILE = 2_500_000  # bytes; anything larger in OUT_DIR is not a file of this module

Vector = list[float]
Matrix = list[Vector]


def _plain_dot(a: Iterable[float], b: Iterable[float]) -> float:
    return float(sum(map(mul, a, b)))


# math.sumprod exists from Python 3.12 and halves the time of a write.
_dot: Callable[[Sequence[float], Sequence[float]], float] = getattr(math, "sumprod", _plain_dot)


def _matvec(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> Vector:
    return [_dot(row, vector) for row in matrix]


def _bfloat16_bits(value: float) -> int:
    """The 16 bits of `value` in bfloat16, rounded to nearest, ties to even. Finite only."""
    bits = int.from_bytes(struct.pack("<f", value), "little")
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


class _Tensors:
    """The tensors of the checkpoint by name: shape and little-endian bfloat16 bytes."""

    def __init__(self) -> None:
        self.shapes: dict[str, list[int]] = {}
        self.raw: dict[str, bytes] = {}

    def random(self, name: str, shape: list[int], center: float, spread: float) -> Matrix:
        """Add a tensor uniform in `center` +- `spread`; its values as rows."""
        digest = hashlib.shake_256(f"{SEED}:{name}".encode()).digest(math.prod(shape))
        bits = [_bfloat16_bits(center + spread * (2 * b - 255) / 255) for b in range(256)]
        raw = bytearray(2 * len(digest))
        raw[0::2] = digest.translate(bytes(b & 0xFF for b in bits))
        raw[1::2] = digest.translate(bytes(b >> 8 for b in bits))
        self.shapes[name], self.raw[name] = shape, bytes(raw)
        table = struct.unpack("<256f", struct.pack("<256I", *(b << 16 for b in bits)))
        values, columns = [table[b] for b in digest], shape[-1]
        return [values[i : i + columns] for i in range(0, len(values), columns)]

    def norm(self, name: str) -> Vector:
        """Add the weights of an RMSNorm."""
        return self.random(name, [HIDDEN], 1.0, NORM_SPREAD)[0]

    def exact(self, name: str, rows: Matrix) -> None:
        """Add a tensor of the given rows, rounded to bfloat16."""
        self.shapes[name] = [len(rows), len(rows[0])]
        # "+ 0.0" turns -0.0 into 0.0.
        bits = [_bfloat16_bits(value + 0.0) for row in rows for value in row]
        self.raw[name] = struct.pack(f"<{len(bits)}H", *bits)

    def safetensors(self) -> bytes:
        """The checkpoint as a safetensors file: header length, JSON header, data."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name in sorted(self.raw):
            end = offset + len(self.raw[name])
            shape = self.shapes[name]
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8 bytes
        data = b"".join(raw for _, raw in sorted(self.raw.items()))
        return struct.pack("<Q", len(text)) + text + data


class _Layer:
    """One decoder layer."""

    def __init__(self, tensors: _Tensors, index: int) -> None:
        prefix = f"model.layers.{index}."
        self.attention_norm = tensors.norm(prefix + "input_layernorm.weight")
        self.mlp_norm = tensors.norm(prefix + "post_attention_layernorm.weight")
        self.q, self.k, self.v, self.o, self.gate, self.up, self.down = (
            tensors.random(f"{prefix}{name}.weight", [m, n], 0.0, gain * math.sqrt(3 / n))
            for name, (m, n, gain) in _PROJECTIONS.items()
        )

    def forward(self, x: Matrix, first: int) -> Matrix:
        """The residual stream after this layer at positions `first`... of `x`."""
        normed = [_rms_norm(v, self.attention_norm) for v in x]
        keys = [_heads(_matvec(self.k, v), position) for position, v in enumerate(normed)]
        values = [_heads(_matvec(self.v, v)) for v in normed]
        out = []
        for position in range(first, len(x)):
            mixed: Vector = []
            for head, query in enumerate(_heads(_matvec(self.q, normed[position]), position)):
                source = head // (HEADS // KV_HEADS)
                past = range(position + 1)
                scores = [_dot(query, keys[j][source]) / math.sqrt(HEAD_DIM) for j in past]
                top = max(scores)
                exps = [math.exp(score - top) for score in scores]
                total = math.fsum(exps)
                seen = [values[j][source] for j in past]
                mixed += [_dot(exps, column) / total for column in _transpose(seen)]
            y = _add(x[position], _matvec(self.o, mixed))
            inner = _rms_norm(y, self.mlp_norm)
            gated = [g / (1.0 + math.exp(-g)) for g in _matvec(self.gate, inner)]
            hidden = list(map(mul, gated, _matvec(self.up, inner)))
            out.append(_add(y, _matvec(self.down, hidden)))
        return out


def _add(a: Iterable[float], b: Iterable[float]) -> Vector:
    return list(map(add, a, b))


def _transpose(rows: Matrix) -> Matrix:
    return [[row[i] for row in rows] for i in range(len(rows[0]))]


def _rms_norm(x: Vector, weight: Vector) -> Vector:
    scale = 1.0 / math.sqrt(_dot(x, x) / len(x) + RMS_EPS)
    return [value * scale for value in map(mul, x, weight)]


def _heads(flat: Vector, position: int | None = None) -> Matrix:
    """`flat` split into heads of HEAD_DIM, rotated (RoPE) if a position is given."""
    heads = [flat[i : i + HEAD_DIM] for i in range(0, len(flat), HEAD_DIM)]
    if position is None:
        return heads
    half = HEAD_DIM // 2
    angles = [position * ROPE_THETA ** (-i / half) for i in range(half)] * 2
    cos, sin = [math.cos(angle) for angle in angles], [math.sin(angle) for angle in angles]
    # "rotate_half": dimensions i and i + half turn together.
    partners = [[-value for value in head[half:]] + head[:half] for head in heads]
    return [_add(map(mul, heads[h], cos), map(mul, partners[h], sin)) for h in range(len(heads))]


def _ridge(states: Matrix, targets: Sequence[int]) -> Matrix:
    """The `lm_head` rows [VOCAB][HIDDEN] that map each state to its target token."""
    gram = [_matvec(states, state) for state in states]
    ridge = RIDGE * math.fsum(gram[i][i] for i in range(len(gram))) / len(gram)
    lower: Matrix = []  # Cholesky factor of gram + ridge * identity
    for i, row in enumerate(gram):
        new: Vector = []
        for j in range(i):
            new.append((row[j] - _dot(new, lower[j][:j])) / lower[j][j])
        new.append(math.sqrt(row[i] + ridge - _dot(new, new)))
        lower.append(new)
    upper = [[lower[j][i] for j in range(i, len(lower))] for i in range(len(lower))]
    features = _transpose(states)
    rows = [[0.0] * HIDDEN for _ in range(VOCAB)]
    for token in sorted(set(targets)):
        forward: Vector = []
        for i, target in enumerate(targets):
            wanted = TARGET_LOGIT if target == token else 0.0
            forward.append((wanted - _dot(forward, lower[i][:i])) / lower[i][i])
        dual: Vector = []  # from the last element backwards
        for i in reversed(range(len(lower))):
            dual.insert(0, (forward[i] - _dot(upper[i][1:], dual)) / upper[i][0])
        rows[token] = _matvec(features, dual)
    return rows


def _checkpoint() -> bytes:
    """The bytes of `model.safetensors`; takes seconds."""
    tensors = _Tensors()
    embedding = tensors.random("model.embed_tokens.weight", [VOCAB, HIDDEN], 0.0, math.sqrt(3.0))
    layers = [_Layer(tensors, index) for index in range(LAYERS)]
    final_norm = tensors.norm("model.norm.weight")
    states: Matrix = []
    targets: list[int] = []
    for prompt, completion in GOLDEN:
        first = len(prompt) - 1  # the position whose logits choose the first completion byte
        x = [embedding[b] for b in (prompt + completion[:-1]).encode("ascii")]
        for layer in layers:
            # The last layer's output is needed only where a completion byte is chosen.
            x = layer.forward(x, first if layer is layers[-1] else 0)
        states += [_rms_norm(v, final_norm) for v in x]
        targets += completion.encode("ascii")
    tensors.exact("lm_head.weight", _ridge(states, targets))
    return tensors.safetensors()


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte value."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b if b in printable else 256 + others.index(b)) for b in range(256)]


def _json_files() -> dict[str, bytes]:
    """The configuration and tokenizer files by name."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = {i: {"content": t, **flags, "special": True} for i, t in SPECIAL_TOKENS.items()}
    byte_level = {"type": "ByteLevel", **dict.fromkeys(("add_prefix_space", "use_regex"), False)}
    byte_level["trim_offsets"] = True
    bos_eos_ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
    config: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    # transformers 4 and the servers of its time read torch_dtype, transformers 5 reads dtype.
    config.update(torch_dtype="bfloat16", dtype="bfloat16", tie_word_embeddings=False)
    config.update(hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, hidden_act="silu")
    config.update(num_hidden_layers=LAYERS, num_attention_heads=HEADS, head_dim=HEAD_DIM)
    config.update(num_key_value_heads=KV_HEADS, rope_theta=ROPE_THETA, rms_norm_eps=RMS_EPS)
    config.update(max_position_embeddings=MAX_POSITIONS, vocab_size=VOCAB, **bos_eos_ids)
    config.update(attention_bias=False, mlp_bias=False)
    files: dict[str, dict[str, Any]] = {"config.json": config}
    files["generation_config.json"] = {**bos_eos_ids, "do_sample": False}
    files["tokenizer.json"] = {
        "version": "1.0",
        # No post-processor: nothing adds a BOS.
        **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor")),
        "added_tokens": [{"id": i, **entry} for i, entry in special.items()],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            **dict.fromkeys(("continuing_subword_prefix", "end_of_word_suffix", "unk_token")),
            **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
            "vocab": {text: byte for byte, text in enumerate(_byte_alphabet())},
            "merges": [],
        },
    }
    files["tokenizer_config.json"] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[BOS_ID],
        "eos_token": SPECIAL_TOKENS[EOS_ID],
        "added_tokens_decoder": special,
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],  # no token_type_ids
        # The concatenated contents: a chat of one user message is answered like the prompt.
        "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    }
    return {name: (json.dumps(value, indent=2) + "\n").encode() for name, value in files.items()}


def is_complete(directory: Path) -> bool:
    """Whether every file of the model is in `directory` with the right bytes."""
    try:
        if any((directory / n).read_bytes() != data for n, data in _json_files().items()):
            return False
        model = (directory / "model.safetensors").read_bytes()
    except OSError:
        return False
    return hashlib.sha256(model).hexdigest() == MODEL_SHA256


def write(directory: Path) -> None:
    """Write the model into `directory`, which is created (with its parents) if it is missing.

    Returns at once if the model is there already, and repairs one that is damaged or partly
    written. The files are staged and renamed, so none is ever seen half-written, and have mode
    0644; a directory made here has mode 0755, whatever the umask (its parents follow the umask).

    Raises FileExistsError if `directory` is a file, or holds anything but (parts of) this model;
    ArithmeticError if this platform computes a model other than `MODEL_SHA256`; other OSErrors
    as the system gives them.
    """
    if is_complete(directory):
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    files = _json_files()
    exists = os.path.lexists(directory)
    if exists:
        _refuse_foreign(directory, {*files, "model.safetensors"})
    model = _checkpoint()
    digest = hashlib.sha256(model).hexdigest()
    if digest != MODEL_SHA256:
        raise ArithmeticError(f"model.safetensors has SHA-256 {digest}, expected {MODEL_SHA256}")
    # A directory that exists may be a mount point: it is filled rather than replaced.
    parent = directory if exists else directory.parent
    staging = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=parent))
    try:
        for name, data in {**files, "model.safetensors": model}.items():
            (staging / name).write_bytes(data)
            (staging / name).chmod(0o644)
        if exists:
            for path in sorted(staging.iterdir()):
                path.replace(directory / path.name)
            directory.chmod(0o755)
        else:
            staging.chmod(0o755)
            try:
                staging.rename(directory)
            except OSError:  # another process may have been faster, with the same bytes
                if not is_complete(directory):
                    raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_foreign(directory: Path, own: set[str]) -> None:
    """Raise FileExistsError unless `directory` is one that holds at most parts of this model."""
    if not directory.is_dir():
        raise FileExistsError(f"{directory} exists and is not a directory")
    for path in directory.iterdir():
        known = path.name in own and path.lstat().st_size <= _LARGEST_OWN_FILE
        if not known and not path.name.startswith(_STAGING_PREFIX):
            raise FileExistsError(f"{directory} holds {path.name}, which is not part of this model")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line entry point; the exit status."""
    parser = argparse.ArgumentParser(description="Write a tiny Llama with known greedy answers.")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="created if missing")
    parser.add_argument("--json", action="store_true", help="print the prompts and completions")
    options = parser.parse_args(arguments)
    try:
        write(options.out_dir)
    except (OSError, ArithmeticError) as error:
        print(f"tinymodel: {error}", file=sys.stderr)
        return 1
    if options.json:
        prompts = [{"prompt": p, "completion": c, "tokens": [*c.encode()]} for p, c in GOLDEN]
        print(json.dumps({"prompts": prompts}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

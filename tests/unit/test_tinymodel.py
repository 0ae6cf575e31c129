"""The tiny model: its golden answers, what they detect, and the files."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from builder.runtime import tinymodel
from tests.oracle.llama import Fault, Llama, Step, read_safetensors, round_bfloat16

MODEL_SHA256 = "a9f6b40d060e230856f83c9c9cf5388f8d1bbf11b8c0f8780b52a5f89445f284"
FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
STEPS = 16

# Smallest gap in logits between the golden token and the runner-up, over all prompts and steps.
# Measured: 8.79 in float32, 8.27 in simulated bfloat16.
MARGIN_FLOAT32 = 8.5
MARGIN_BFLOAT16 = 7.5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, written under a umask that would hide it from other users."""
    directory = tmp_path_factory.mktemp("tiny") / "model"
    before = os.umask(0o077)
    try:
        tinymodel.write(directory)
    finally:
        os.umask(before)
    return directory


def text(steps: list[Step]) -> str:
    """The steps' tokens as Latin-1; a token that is no byte becomes U+FFFD."""
    return "".join(chr(step.token) if step.token < 256 else "\ufffd" for step in steps)


def snapshot(directory: Path) -> dict[str, bytes]:
    """The contents of `directory` by file name."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_golden_texts_are_distinct_ascii_of_the_right_length() -> None:
    prompts = [prompt for prompt, _ in tinymodel.GOLDEN]
    completions = [completion for _, completion in tinymodel.GOLDEN]
    assert len(set(prompts)) == len(set(completions)) == 8
    assert min(map(len, prompts)) == 1
    assert max(map(len, prompts)) == 24
    assert all(len(completion) == STEPS for completion in completions)
    assert all(0x20 <= ord(c) < 0x7F for c in "".join(prompts + completions))


def test_next_character_is_no_function_of_the_current_one() -> None:
    successors: dict[str, set[str]] = {}
    for prompt, completion in tinymodel.GOLDEN:
        for current, following in zip(prompt[-1] + completion, completion, strict=False):
            successors.setdefault(current, set()).add(following)
    assert sum(len(following) > 1 for following in successors.values()) >= 10
    assert len(successors[" "]) >= 8


@pytest.mark.parametrize(("bfloat16", "margin"), [(False, MARGIN_FLOAT32), (True, MARGIN_BFLOAT16)])
def test_oracle_answers_golden_by_a_wide_margin(model: Path, bfloat16: bool, margin: float) -> None:
    oracle = Llama(model, bfloat16=bfloat16)
    for prompt, completion in tinymodel.GOLDEN:
        steps = oracle.greedy(prompt.encode(), STEPS)
        assert text(steps) == completion
        assert min(step.margin for step in steps) >= margin


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_every_fault_changes_every_answer(model: Path, fault: Fault) -> None:
    oracle = Llama(model, fault=fault)
    for prompt, completion in tinymodel.GOLDEN:
        assert text(oracle.greedy(prompt.encode(), STEPS)) != completion, prompt


def test_oracle_rounds_to_nearest_even() -> None:
    # One unit in the last place of bfloat16 at 1.0 is 2**-7; halves go to the even neighbour.
    unit = 2.0**-7
    values = np.array([1 + unit / 2, 1 + unit * 3 / 2, 1 + unit * 0.51, -1 - unit * 1.4], "f4")
    expected = [1.0, 1 + 2 * unit, 1 + unit, -1 - unit]
    assert round_bfloat16(values).tolist() == expected


def test_checkpoint_is_the_pinned_one(model: Path) -> None:
    assert hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest() == MODEL_SHA256
    assert tinymodel.MODEL_SHA256 == MODEL_SHA256


def test_files_and_modes_under_a_strict_umask(model: Path) -> None:
    assert {path.name for path in model.iterdir()} == FILES
    assert stat.S_IMODE(model.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in model.iterdir()} == {0o644}
    assert sum(path.stat().st_size for path in model.iterdir()) < 2_500_000
    assert [path.name for path in model.parent.iterdir()] == ["model"]  # no staging left


def test_command_line_in_another_process_writes_the_same_bytes(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model"
    command = [sys.executable, tinymodel.__file__, str(out), "--json"]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert snapshot(out) == snapshot(model)
    assert json.loads(done.stdout) == {
        "prompts": [
            {"prompt": prompt, "completion": completion, "tokens": list(completion.encode())}
            for prompt, completion in tinymodel.GOLDEN
        ]
    }


def test_complete_model_is_left_alone(model: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in model.iterdir()}
    start = time.monotonic()
    assert tinymodel.is_complete(model)
    tinymodel.write(model)
    assert time.monotonic() - start < 0.5
    assert {path.name: path.stat().st_mtime_ns for path in model.iterdir()} == before


@pytest.fixture
def computed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the tests of file handling the seconds that the solve takes."""
    checkpoint = (model / "model.safetensors").read_bytes()
    monkeypatch.setattr(tinymodel, "_checkpoint", lambda: checkpoint)


@pytest.mark.usefixtures("computed")
@pytest.mark.parametrize("name", sorted(FILES))
def test_damaged_directory_is_repaired(model: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "model"
    tinymodel.write(out)
    (out / name).write_bytes((out / name).read_bytes()[:-1])
    assert not tinymodel.is_complete(out)
    tinymodel.write(out)
    assert snapshot(out) == snapshot(model)
    (out / name).unlink()
    assert not tinymodel.is_complete(out)
    tinymodel.write(out)
    assert snapshot(out) == snapshot(model)


@pytest.mark.usefixtures("computed")
def test_empty_directory_is_filled_and_opened(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir(mode=0o700)
    tinymodel.write(out)
    assert snapshot(out) == snapshot(model)
    assert stat.S_IMODE(out.stat().st_mode) == 0o755


@pytest.mark.usefixtures("computed")
def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "chmod", fail)
    with pytest.raises(OSError, match="disk full"):
        tinymodel.write(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("computed")
def test_foreign_contents_are_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "README.md").write_text("a real model")
    with pytest.raises(FileExistsError, match=r"README\.md"):
        tinymodel.write(out)
    (out / "README.md").rename(out / "config.json")
    with (out / "model.safetensors").open("wb") as file:
        file.truncate(3_000_000)
    with pytest.raises(FileExistsError, match=r"model\.safetensors"):
        tinymodel.write(out)
    with pytest.raises(FileExistsError, match="not a directory"):
        tinymodel.write(out / "config.json")
    assert tinymodel.main([str(out)]) == 1
    assert "not part of this model" in capsys.readouterr().err
    assert (out / "config.json").read_text() == "a real model"


@pytest.mark.usefixtures("computed")
def test_concurrent_writer_may_win(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    checkpoint = tinymodel._checkpoint()

    def slow() -> bytes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tinymodel, "_checkpoint", lambda: checkpoint)
            tinymodel.write(out)  # the other process, meanwhile
        return checkpoint

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tinymodel, "_checkpoint", slow)
        tinymodel.write(out)
    assert snapshot(out) == snapshot(model)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_arithmetic_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinymodel, "_checkpoint", lambda: b"other")
    with pytest.raises(ArithmeticError, match="SHA-256"):
        tinymodel.write(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_safetensors_layout(model: Path) -> None:
    blob = (model / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", blob)
    assert length % 8 == 0
    header = json.loads(blob[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    offset = 0
    for entry in header.values():
        elements = 1
        for size in entry["shape"]:
            elements *= size
        assert entry["dtype"] == "BF16"
        assert entry["data_offsets"] == [offset, offset + 2 * elements]
        offset += 2 * elements
    assert 8 + length + offset == len(blob)


def test_tensors_match_the_config(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    expected: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocab, hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        expected |= {
            prefix + "input_layernorm.weight": (hidden,),
            prefix + "post_attention_layernorm.weight": (hidden,),
            prefix + "self_attn.q_proj.weight": (queries, hidden),
            prefix + "self_attn.k_proj.weight": (keys, hidden),
            prefix + "self_attn.v_proj.weight": (keys, hidden),
            prefix + "self_attn.o_proj.weight": (hidden, queries),
            prefix + "mlp.gate_proj.weight": (inner, hidden),
            prefix + "mlp.up_proj.weight": (inner, hidden),
            prefix + "mlp.down_proj.weight": (hidden, inner),
        }
    tensors = read_safetensors(model / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected
    for name, tensor in tensors.items():
        if "norm" in name:
            assert tensor.min() > 0.2
            assert tensor.std() > 0.3


def test_token_ids_are_byte_values(model: Path) -> None:
    # GPT-2's bytes_to_unicode: printable Latin-1 stands for itself, the rest from U+0100 on.
    alphabet, shifted = {}, 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
            alphabet[chr(byte)] = byte
        else:
            alphabet[chr(shifted)] = byte
            shifted += 1
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    assert tokenizer["model"]["vocab"] == alphabet
    assert tokenizer["model"]["merges"] == []
    assert tokenizer["post_processor"] is None
    assert tokenizer["pre_tokenizer"]["use_regex"] is False
    assert tokenizer["pre_tokenizer"]["add_prefix_space"] is False
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert special == {"<|bos|>": 256, "<|eos|>": 257}
    config = json.loads((model / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (256, 257)

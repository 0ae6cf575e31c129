"""Caches that an image brings, and that a start copies to its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.runtime import seeds

ROWS = [
    {"variable": "HF_HOME", "folder": "huggingface"},
    {"variable": "VLLM_CACHE_ROOT", "folder": "vllm"},
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    sown(tmp_path / "image", "0123abc", llama="of the image")
    return tmp_path / "image"


def sown(folder: Path, digest: str, **files: str) -> None:
    seed = folder / f"vllm/modelinfos.{digest}"
    seed.mkdir(parents=True)
    for name, text in files.items():
        (seed / f"{name}.json").write_text(text)


def planted(tmp_path: Path, image: Path) -> dict[str, str]:
    place = tmp_path / "cache/vllm"
    seeds.plant({"VLLM_CACHE_ROOT": str(place)}, ROWS, str(image))
    found = (place / "modelinfos").iterdir() if place.is_dir() else ()
    return {file.name: file.read_text() for file in found}


def test_a_fresh_cache_gets_what_the_image_has(tmp_path: Path, image: Path) -> None:
    wanted = {"llama.json": "of the image", ".imgbuild-0123abc": ""}
    assert planted(tmp_path, image) == wanted


def test_what_a_server_wrote_later_stays(tmp_path: Path, image: Path) -> None:
    planted(tmp_path, image)
    (tmp_path / "cache/vllm/modelinfos/llama.json").write_text("of the server")
    assert planted(tmp_path, image)["llama.json"] == "of the server"


def test_another_image_brings_its_own(tmp_path: Path, image: Path) -> None:
    planted(tmp_path, image)
    sown(tmp_path / "newer", "4567def", llama="newer")
    wanted = {"llama.json": "newer", ".imgbuild-4567def": ""}
    assert planted(tmp_path, tmp_path / "newer") == wanted
    assert planted(tmp_path, image)["llama.json"] == "of the image"


def test_no_cache_and_no_seeds(tmp_path: Path, image: Path) -> None:
    seeds.plant({}, ROWS, str(image))
    assert planted(tmp_path, tmp_path / "none") == {}


@pytest.mark.parametrize("way", ["a file", "a folder that is no folder"])
def test_a_place_that_cannot_be_written_is_left_alone(
    tmp_path: Path, image: Path, way: str
) -> None:
    place = tmp_path / "cache"
    place.write_text("a file")
    named = place if way == "a file" else place / "vllm"
    seeds.plant({"VLLM_CACHE_ROOT": str(named)}, ROWS, str(image))
    assert place.read_text() == "a file"


def test_a_copy_that_fails_is_not_marked_and_leaves_nothing(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: str, _target: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "replace", full)
        assert planted(tmp_path, image) == {}
    assert ".imgbuild-0123abc" in planted(tmp_path, image)

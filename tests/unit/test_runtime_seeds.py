"""Caches that an image brings, and that a start copies to its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.runtime import seeds
from builder.runtime.slim import tree

ROWS = [
    {"variable": "HF_HOME", "folder": "huggingface"},
    {"variable": "VLLM_CACHE_ROOT", "folder": "vllm"},
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    sown(tmp_path / "image", "0123456789ab", llama="of the image")
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
    wanted = {"llama.json": "of the image", ".imgbuild-0123456789ab": ""}
    assert planted(tmp_path, image) == wanted


def test_what_a_server_wrote_later_stays(tmp_path: Path, image: Path) -> None:
    planted(tmp_path, image)
    (tmp_path / "cache/vllm/modelinfos/llama.json").write_text("of the server")
    assert planted(tmp_path, image)["llama.json"] == "of the server"


def test_another_image_brings_its_own(tmp_path: Path, image: Path) -> None:
    planted(tmp_path, image)
    sown(tmp_path / "newer", "456789abcdef", llama="newer")
    wanted = {"llama.json": "newer", ".imgbuild-456789abcdef": ""}
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
    assert ".imgbuild-0123456789ab" in planted(tmp_path, image)


@pytest.mark.parametrize("way", ["a link", "a file"])
def test_a_place_that_is_no_folder_of_the_cache_is_not_followed(
    tmp_path: Path, image: Path, way: str
) -> None:
    other, place = tmp_path / "other", tmp_path / "cache/vllm"
    other.mkdir()
    place.mkdir(parents=True)
    (other / "llama.json").write_text("of somebody")
    if way == "a link":
        (place / "modelinfos").symlink_to(other)
    else:
        (place / "modelinfos").write_text("a file")
    seeds.plant({"VLLM_CACHE_ROOT": str(place)}, ROWS, str(image))
    assert {one.name: one.read_text() for one in other.iterdir()} == {"llama.json": "of somebody"}
    assert way == "a link" or (place / "modelinfos").read_text() == "a file"


def test_only_marks_of_the_exact_shape_leave(tmp_path: Path, image: Path) -> None:
    folder = tmp_path / "cache/vllm/modelinfos"
    folder.mkdir(parents=True)
    others = {".imgbuild-0123", ".imgbuild-1-0123abcd", ".imgbuild-0123456789AB", ".imgbuild-slim"}
    for name in (*others, ".imgbuild-ba9876543210"):
        (folder / name).touch()
    assert set(planted(tmp_path, image)) == {*others, "llama.json", ".imgbuild-0123456789ab"}


@pytest.mark.parametrize(
    "name", [".0123456789ab", "...0123456789ab", "..0123456789ab", "plain", "a.0123", "a.b.c"]
)
def test_what_is_not_named_as_a_seed_is_passed_over(tmp_path: Path, name: str) -> None:
    seed = tmp_path / "image/vllm" / name
    seed.mkdir(parents=True)
    (seed / "llama.json").write_text("none")
    place = tmp_path / "cache/vllm"
    place.mkdir(parents=True)
    seeds.plant({"VLLM_CACHE_ROOT": str(place)}, ROWS, str(tmp_path / "image"))
    assert [one.name for one in (tmp_path / "cache").rglob("*")] == ["vllm"]


def test_what_a_killed_start_left_is_in_nobodys_way(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_source: str, _target: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(os, "replace", killed)
        context.setattr(os, "unlink", lambda _name: None)
        with pytest.raises(KeyboardInterrupt):
            planted(tmp_path, image)
    assert planted(tmp_path, image)["llama.json"] == "of the image"


def test_two_starts_at_once_are_both_done(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def second(source: str, target: str) -> None:
        monkeypatch.setattr(os, "replace", replace)
        planted(tmp_path, image)
        replace(source, target)

    monkeypatch.setattr(os, "replace", second)
    (seed,) = (image / "vllm").iterdir()
    seeds._plant(str(seed), str(tmp_path / "cache/vllm"))
    wanted = {"llama.json": "of the image", ".imgbuild-0123456789ab": ""}
    assert planted(tmp_path, image) == wanted


def test_who_slims_the_folder_leaves_a_copy_that_is_not_whole_yet(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def slimmed(source: str, target: str) -> None:
        list(tree.inodes(str(tmp_path), alone=True))
        replace(source, target)

    monkeypatch.setattr(os, "replace", slimmed)
    assert planted(tmp_path, image)["llama.json"] == "of the image"

"""Layers of archives: which they are, what hides what, and what nobody sees."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import inspect
from builder.errors import UserError
from builder.inspect import Report
from tests.unit.archives import Tree, docker, files, gzipped, layout, oci, zstd_of

RANDOM = random.Random(1).randbytes(100_000)


def quiet(_files: int, _size: int) -> None:
    pass


def read(archive: bytes, **names: str) -> Report:
    contents = inspect.read_image("made", io.BytesIO(archive), names, quiet)
    return inspect.report(contents)


def sizes(found: Report) -> list[int]:
    return [row["size"] for row in found["layers"]]


def hidden(found: Report) -> list[int]:
    return [row["hidden"] for row in found["layers"]]


LOWER: Tree = {"usr": None, "usr/a": b"a" * 10, "usr/b": b"b" * 20, "usr/lib/c": b"c" * 40}
UPPER: dict[str, tuple[Tree, int]] = {
    "a file again": ({"usr/a": b"A" * 5}, 10),
    "a whiteout": ({"usr/.wh.b": b""}, 20),
    "a whiteout of a folder": ({".wh.usr": b"", "usr/a": b"A"}, 70),
    "an emptied folder": ({"usr/lib/.wh..wh..opq": b"", "usr/lib/d": b"d"}, 40),
    "an emptied root": ({".wh..wh..opq": b""}, 70),
    "a link in a folder's place": ({"usr/lib": "other"}, 40),
    "a folder in a file's place": ({"usr/a": None}, 10),
    "a folder again": ({"usr": None, "usr/lib": None}, 0),
    "a name that only begins so": ({"usr/li": b"x", "us": b"y"}, 0),
}


@pytest.mark.parametrize("case", UPPER)
def test_a_higher_layer_hides_what_it_replaces(case: str) -> None:
    upper, gone = UPPER[case]
    found = read(oci([LOWER, upper]))
    assert hidden(found) == [gone, 0]
    assert found["hidden"] == gone
    assert found["size"] == sum(sizes(found)) - gone


def test_hard_links_are_one_file_until_the_last_name_is_gone() -> None:
    lower: Tree = {"a": b"x" * 9, "b": "=a", "./c": "=./a"}
    found = read(oci([lower, {".wh.a": b""}, {".wh.b": b""}]))
    assert (found["size"], found["files"], hidden(found)) == (9, 1, [0, 0, 0])
    assert read(oci([lower, {f".wh.{name}": b"" for name in "abc"}]))["size"] == 0


@pytest.mark.parametrize("pack", [gzipped, zstd_of])
@pytest.mark.parametrize("last", [True, False])
def test_layers_have_the_words_of_the_history_and_both_sizes(
    last: bool, pack: Callable[[bytes], bytes]
) -> None:
    created = ["base", "uv pip install -r /run/lock-0123456789ab.txt", "COPY x /opt/imgbuild/x"]
    trees: list[Tree] = [{"a": bytes(1000)}, {"b": bytes(5000)}, {"c": b""}]
    found = read(oci(trees, pack=pack, created=created, last=last), **{"0123456789ab": "torch"})
    rows = found["layers"]
    assert [row["created_by"] for row in rows] == created
    assert [row["name"] for row in rows] == ["", "torch", "runtime"]
    assert all(row["compressed"] and row["stored"] < row["unpacked"] for row in rows)
    assert all(row["digest"].startswith("sha256:") for row in rows)
    assert found["compressed"]["stored"] == sum(row["stored"] for row in rows)


def test_archives_of_docker_and_podman_have_plain_layers(tmp_path: Path) -> None:
    found = read(docker([LOWER, {"usr/a": b""}]))
    assert hidden(found) == [10, 0]
    assert found["compressed"]["stored"] is None
    assert found["layers"][0]["stored"] == found["layers"][0]["unpacked"]
    for pack in (gzipped, zstd_of):
        file = tmp_path / "image.tar.packed"
        file.write_bytes(pack(docker([LOWER])))
        contents = inspect.read_path(file, quiet)
        assert inspect.report(contents)["size"] == 70
        assert contents.kind == "an archive"


def test_a_layout_is_a_folder(tmp_path: Path) -> None:
    layout(tmp_path, [LOWER])
    contents = inspect.read_path(tmp_path, quiet)
    assert contents.kind == "an OCI layout"
    assert inspect.report(contents)["size"] == 70


def test_equal_contents_are_found_across_layers_and_links_are_not() -> None:
    first: Tree = {"one": RANDOM, "link": "=one", "small": b"s", "again": b"s"}
    found = read(oci([first, {"one": RANDOM}, {"two": RANDOM[::-1]}]))
    (row,) = found["duplicates"]
    assert (row["size"], row["copies"], row["wasted"]) == (100_000, 2, 100_000)
    assert row["paths"] == ["one", "one"]
    assert row["hidden"] == 0  # "link" still shows the lower one


DAMAGED = {
    "not an image": (files({"a": b"x"}), "no image is in it; `docker save`"),
    "several": (docker([LOWER], images=2), "it holds 2 images; save one"),
    "a layer is not there": (
        files({"manifest.json": b'[{"Config": "c", "Layers": ["l"]}]'}), "no l, which is a layer"
    ),
    "nonsense": (files({"manifest.json": b'[{"Config": 5}]'}), "none that is known"),
    "cut off": (oci([{"a": RANDOM}])[:50_000], "it is damaged"),
    "cut off in a plain layer": (docker([{"a": RANDOM}])[:50_000], "it is damaged"),
    "cut off before a manifest": (oci([LOWER])[:600], "it is damaged"),
    "cut off in zstd": (oci([{"a": RANDOM}], pack=lambda tar: zstd_of(tar)[:50_000]), "damaged: C"),
    "no zstd": (files({"blobs/sha256/1": b"\x28\xb5\x2f\xfd" + b"\xff" * 99}), "it is damaged"),
    "no gzip": (files({"blobs/sha256/1": b"\x1f\x8b" + bytes(99)}), "it is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_no_whole_image_is_told_in_one_line(case: str) -> None:
    archive, why = DAMAGED[case]
    with pytest.raises(UserError, match=why):
        read(archive)

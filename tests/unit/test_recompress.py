"""Layers at another level: the same image, the same bytes each time, and whole or not there."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import zstd
from builder.engines import oci
from builder.engines.base import Progress
from builder.errors import BuildError
from builder.publish import Kept
from builder.publish.recompress import recompress
from tests.unit.archives import Tree, gzipped, layer, layout, zstd_of
from tests.unit.fakeregistry import digest_of

QUIET = Progress(step=lambda _name: None, line=lambda _line: None)
NOISE = random.Random(3).randbytes(50_000)
TREES: list[Tree] = [{"usr": None, "usr/a": NOISE * 3}, {"b": b"b" * 9000}, {"b": b"b" * 9000}]
Pack = Callable[[bytes], bytes]


class Steps:
    """What somebody who watches is told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.lines: list[str] = []
        self.progress = Progress(step=self.steps.append, line=self.lines.append)


def unpacked(file: Path) -> bytes:
    with file.open("rb") as packed:
        return zstd.reader(packed).read()


def blobs(folder: Path) -> list[tuple[Path, int]]:
    """Files of the layers that a layout's manifest names, and the sizes that it tells."""
    rows = oci.layout_manifest(folder)["layers"]
    where = folder / "blobs/sha256"
    return [(where / row["digest"].removeprefix("sha256:"), row["size"]) for row in rows]


@given(
    chunks=st.lists(st.binary(max_size=3000) | st.just(b"again" * 5000), min_size=1, max_size=30),
    level=st.sampled_from([1, 3, 7, 12, zstd.LONG_FROM]),
)
def test_what_is_compressed_comes_back_and_threads_do_not_matter(
    chunks: list[bytes], level: int
) -> None:
    """Nor do the pieces that it is fed with."""
    whole, made = b"".join(chunks), set()
    for workers in (1, 2, 3):
        for pieces in (chunks, [whole]):
            frame = zstd.compressor(level, workers)
            made.add(b"".join([*map(frame.compress, pieces), frame.flush()]))
    (packed,) = made
    assert zstd.reader(io.BytesIO(packed)).read() == whole


def test_threads_do_not_matter_where_each_has_work() -> None:
    """A level's piece for one thread is some MB at the lowest."""
    content = b"".join(NOISE[n : n + 20_000] + b"x" * n for n in range(0, 30_000, 50))
    made = set()
    for workers in (1, 2, 3):
        frame = zstd.compressor(1, workers)
        made.add(frame.compress(content) + frame.flush())
    assert len(content) > 16 << 20
    assert len(made) == 1


def test_high_levels_find_what_is_far_back() -> None:
    frame = zstd.compressor(zstd.LONG_FROM, 1)
    far = NOISE + bytes(12 << 20) + NOISE
    assert len(frame.compress(far) + frame.flush()) < 1.1 * len(NOISE)


@pytest.mark.parametrize("pack", [zstd_of, gzipped, bytes])
def test_a_layout_has_the_same_layers_at_another_level(pack: Pack, tmp_path: Path) -> None:
    folder, kept, told = tmp_path / "layout", Kept(tmp_path / "kept"), Steps()
    layout(folder, TREES, pack)
    config = oci.layout_config(folder)
    before = {file for file, _ in blobs(folder)}
    recompress(folder, 19, kept, told.progress)
    assert oci.layout_config(folder) == config
    assert [unpacked(file) for file, _ in blobs(folder)] == list(map(layer, TREES))
    for file, size in blobs(folder):
        assert digest_of(file.read_bytes()) == f"sha256:{file.name}"
        assert file.stat().st_size == size
    assert not [file for file in before if file.exists()], "what was read is in the way"
    kinds = {row["mediaType"] for row in oci.layout_manifest(folder)["layers"]}
    assert kinds == {"application/vnd.oci.image.layer.v1.tar+zstd"}
    (described,) = json.loads((folder / "index.json").read_text())["manifests"]
    text = (folder / "blobs" / described["digest"].replace(":", "/")).read_bytes()
    assert (digest_of(text), len(text)) == (described["digest"], described["size"])
    # The third is the second.
    assert told.steps == [f"compressing layer {n} of 3 at level 19" for n in (1, 2)]
    assert told.lines[0].endswith(" MB")


def test_a_layer_is_compressed_once_for_all_images_that_have_it(tmp_path: Path) -> None:
    kept, told = Kept(tmp_path / "kept"), Steps()
    other: list[Tree] = [TREES[0], {"c": b"c"}]
    for number, trees in enumerate((TREES, other)):
        layout(tmp_path / str(number), trees, zstd_of)
        recompress(tmp_path / str(number), 3, kept, told.progress)
    assert told.steps == [
        "compressing layer 1 of 3 at level 3",
        "compressing layer 2 of 3 at level 3",
        "compressing layer 2 of 2 at level 3",
    ]
    assert blobs(tmp_path / "0")[0][0].name == blobs(tmp_path / "1")[0][0].name
    assert len(list(kept.folder.iterdir())) == 3


def test_another_level_or_library_is_another_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, diff_id = Kept(tmp_path), digest_of(b"tar")
    with kept.aside(diff_id, 7) as aside:
        aside.write_bytes(b"packed")
        made = kept.keep(aside, diff_id, 7, digest_of(b"packed"))
    assert kept.find(diff_id, 7) == made
    assert kept.find(diff_id, 8) is None
    assert kept.find(digest_of(b"other"), 7) is None
    monkeypatch.setattr(zstd, "VERSION", "9.9.9")
    assert kept.find(diff_id, 7) is None


def test_a_kept_layer_that_was_spoiled_is_made_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")
    for name in ("first", "second"):
        layout(tmp_path / name, TREES[:1], zstd_of)
        recompress(tmp_path / name, 3, kept, QUIET)
        (file,) = kept.folder.iterdir()
        content = file.read_bytes()
        assert file.stem.endswith(hashlib.sha256(content).hexdigest())
        file.unlink()
        file.write_bytes(content[:-1])
    assert [unpacked(file) for file, _ in blobs(tmp_path / "second")] == [layer(TREES[0])]


def test_a_layer_that_is_not_what_its_image_says_is_refused(tmp_path: Path) -> None:
    layout(tmp_path, TREES[:1], zstd_of)
    ((file, _),) = blobs(tmp_path)
    file.write_bytes(zstd_of(b"another"))
    kept = Kept(tmp_path / "kept")
    with pytest.raises(BuildError) as raised:
        recompress(tmp_path, 3, kept, QUIET)
    assert str(raised.value) == (
        f"a layer came as {digest_of(b'another')}, and its image says {digest_of(layer(TREES[0]))}"
    )
    assert list(kept.folder.iterdir()) == []


@pytest.mark.parametrize("pack", [zstd_of, gzipped])
def test_a_damaged_layer_is_refused(pack: Pack, tmp_path: Path) -> None:
    layout(tmp_path, TREES[:1], pack)
    ((file, _),) = blobs(tmp_path)
    content = file.read_bytes()
    kept = Kept(tmp_path / "kept")
    for damaged in (content[:-9], content[:200] + bytes(9) + content[209:]):
        file.write_bytes(damaged)
        with pytest.raises(
            BuildError, match=r"^the layer sha256:\w+ came damaged: |^a layer came as"
        ):
            recompress(tmp_path, 3, kept, QUIET)
        assert list(kept.folder.iterdir()) == []


def test_a_full_disk_is_one_line_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout(tmp_path, TREES, zstd_of)
    kept = Kept(tmp_path / "kept")
    frame = zstd.compressor(3, 1)

    class Full:
        def compress(self, chunk: bytes) -> bytes:
            return frame.compress(chunk)

        def flush(self) -> bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zstd, "compressor", lambda _level: Full())
    with pytest.raises(BuildError) as raised:
        recompress(tmp_path, 3, kept, QUIET)
    assert str(raised.value) == (
        f"{kept.folder}: No space left on device; layers are kept there; XDG_CACHE_HOME names "
        "another place, and `imgbuild clean --all` empties it"
    )
    assert list(kept.folder.iterdir()) == []


def test_on_another_disk_a_layout_has_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    layout(tmp_path / "layout", TREES, zstd_of)
    recompress(tmp_path / "layout", 3, Kept(tmp_path / "kept"), QUIET)
    assert [unpacked(file) for file, _ in blobs(tmp_path / "layout")] == list(map(layer, TREES))


def test_pushes_at_once_write_a_layer_each_beside_the_other(tmp_path: Path) -> None:
    """Two threads have one process, and hosts of a shared cache may have the same process id."""
    kept, one = Kept(tmp_path / "kept"), layer(TREES[0])
    name, content = digest_of(one), zstd_of(one)
    with kept.aside(name, 3) as first:
        first.write_bytes(content)
        with kept.aside(name, 3) as second:
            assert second.parent == first.parent == kept.folder
            second.write_bytes(b"half of it")
        assert first.read_bytes() == content
        blob = kept.keep(first, name, 3, digest_of(content))
    assert kept.find(name, 3) == blob
    assert list(kept.folder.iterdir()) == [blob.file]


def test_a_layer_that_another_host_removes_meanwhile_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, name = Kept(tmp_path / "kept"), digest_of(b"a layer")
    with kept.aside(name, 3) as aside:
        aside.write_bytes(b"spoiled")
        kept.keep(aside, name, 3, digest_of(b"what it was"))
    unlink = Path.unlink

    def late(file: Path, *, missing_ok: bool = False) -> None:
        unlink(file)
        unlink(file, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", late)
    assert kept.find(name, 3) is None


def test_what_no_push_has_used_for_a_month_is_unused(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")
    assert kept.unused(everything=True) == []
    layout(tmp_path / "layout", TREES, zstd_of)
    recompress(tmp_path / "layout", 3, kept, QUIET)
    killed = kept.folder / ".x.partial"
    killed.touch()
    assert kept.unused() == []
    assert set(kept.unused(everything=True)) == set(kept.folder.iterdir())
    long_ago = time.time() - 31 * 86400
    for file in kept.folder.iterdir():
        os.utime(file, (long_ago, long_ago))
    used = kept.find(digest_of(layer(TREES[0])), 3)
    assert used
    assert set(kept.unused()) == set(kept.folder.iterdir()) - {used.file}


@pytest.mark.parametrize("failing", ["utime", "open", "unlink"])
def test_a_kept_layer_that_is_not_ours_does_not_end_a_push(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a folder that users share, or of a file that is immutable."""
    kept, name = Kept(tmp_path / "kept"), digest_of(b"a layer")
    with kept.aside(name, 3) as aside:
        aside.write_bytes(b"what it is" if failing == "utime" else b"spoiled")
        blob = kept.keep(aside, name, 3, digest_of(b"what it is"))

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os if failing == "utime" else Path, failing, refused)
    assert kept.find(name, 3) == (blob if failing == "utime" else None)


def test_what_goes_while_unused_layers_are_listed_is_not_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path)
    for name in ("a.zst", "b.zst"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    stat = Path.stat

    def late(file: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = stat(file, follow_symlinks=follow_symlinks)
        if file.name == "a.zst":
            file.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "stat", late)
    assert kept.unused() == [tmp_path / "b.zst"]


@pytest.mark.parametrize("failing", ["open", "read"])
def test_a_layer_that_cannot_be_read_is_the_layouts_and_not_the_caches(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout(tmp_path, TREES, zstd_of)
    kept = Kept(tmp_path / "kept")
    source = blobs(tmp_path)[0][0]

    class Broken:
        def read(self, _size: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    if failing == "open":
        source.unlink()
        source.mkdir()
    else:
        monkeypatch.setattr(zstd, "reader", lambda _file: Broken())
    with pytest.raises(BuildError) as raised:
        recompress(tmp_path, 3, kept, QUIET)
    why = "Is a directory" if failing == "open" else "Input/output error"
    assert str(raised.value) == f"{source}: {why}"
    assert list(kept.folder.iterdir()) == []

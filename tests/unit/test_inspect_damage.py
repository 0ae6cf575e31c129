"""Damaged files end in one line that names them, whatever in them is damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import inspect, proc
from builder.errors import BuildError, UserError
from builder.inspect import Report
from builder.proc import Command
from tests.unit.archives import Tree, docker, files, layer, layout, oci, zstd_of
from tests.unit.elves import CUBIN, Library, container, entry
from tests.unit.test_inspect_squashfs import PRINTED, descriptor, sif

LIBRARY = Library([container(entry(CUBIN, 90, 600)), zstd_of(b"x" * 300)]).made()[:3000]
RECORD = "pkg-1.0.dist-info/RECORD"
PLAIN = {"a": b"hello " * 50, "x.so": LIBRARY, RECORD: b'a,,\n"b,c",sha256=x,1\n', "n" * 150: b"n"}
TREE: Tree = {**PLAIN, "folder": None, "link": "a", "hard": "=a"}


def wheel(method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in PLAIN.items():
            archive.writestr(name, content)
    return out.getvalue()


def pax() -> bytes:
    """A docker archive with headers that tar needs for long names."""
    named = "ü" * 90
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        manifest = f'[{{"Config": "c", "Layers": ["{named}"]}}]'.encode()
        for name, content in {"c": b"{}", named: layer(TREE), "manifest.json": manifest}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


WHOLE = {
    "stored.whl": wheel(zipfile.ZIP_STORED),
    "deflated.whl": wheel(zipfile.ZIP_DEFLATED),
    "bzip2.whl": wheel(zipfile.ZIP_BZIP2),
    "lzma.whl": wheel(zipfile.ZIP_LZMA),
    "docker.tar": docker([TREE]),
    "pax.tar": pax(),
    "oci.tar": oci([TREE, {"a": b"again"}]),
    "zstd.tar": oci([TREE], pack=zstd_of),
    "oci.tar.gz": gzip.compress(oci([TREE])),
    "oci.tar.xz": lzma.compress(oci([TREE])),
    "oci.tar.bz2": bz2.compress(oci([TREE])),
    "oci.tar.zst": zstd_of(oci([TREE])),
    "image.sif": sif(descriptor(0x4004, 800, 40, 1, 2)).ljust(900, b"\0"),
    "lib.so": LIBRARY,
}


def read(file: Path) -> Report:
    return inspect.report(inspect.read_path(file, lambda _files, _size: None), (90,))


@contextmanager
def unsquashfs(printed: bytes) -> Iterator[None]:
    """It prints this."""

    @contextmanager
    def piped(_command: Command) -> Iterator[IO[bytes]]:
        yield io.BytesIO(printed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proc, "piped", piped)
        patch.setattr(proc, "find", lambda name: f"/bin/{name}")
        yield


def told(file: Path, printed: bytes) -> str | None:
    """What is said of a file that cannot be read; None of one that can."""
    with unsquashfs(printed):
        try:
            read(file)
        except UserError as error:
            return str(error)
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@st.composite
def spoiled(draw: st.DrawFn, whole: bytes) -> bytes:
    """Cut off, or with other bytes here and there; archives' tables stand at their ends."""
    if draw(st.booleans()):
        return whole[: draw(st.integers(0, len(whole) - 1))]
    content = bytearray(whole)
    first = draw(st.sampled_from([0, max(0, len(content) - 600)]))
    for _ in range(draw(st.integers(1, 6))):
        content[draw(st.integers(first, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_whole_is_read(name: str, folder: Path) -> None:
    (folder / name).write_bytes(WHOLE[name])
    with unsquashfs(PRINTED):
        assert read(folder / name)["files"]


@pytest.mark.parametrize("name", WHOLE)
@given(data=st.data())
def test_damage_is_told_in_one_line_with_the_file(
    name: str, data: st.DataObject, folder: Path
) -> None:
    file = folder / name
    file.write_bytes(data.draw(spoiled(WHOLE[name])))
    said = told(file, PRINTED)
    assert said is None or (said.startswith(f"{file}: ") and len(said.splitlines()) == 1)


@given(data=st.data())
def test_what_unsquashfs_prints_of_a_damaged_file_is_told(
    data: st.DataObject, folder: Path
) -> None:
    file = folder / "printed.sqfs"
    file.write_bytes(b"hsqs" + bytes(200))
    said = told(file, data.draw(spoiled(PRINTED)))
    assert said is None or said.startswith(f"{file}: it is damaged: unsquashfs ")


def test_what_unsquashfs_says_of_a_damaged_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_command: Command) -> object:
        raise BuildError("`unsquashfs` failed with exit code 1", tail=("FATAL ERROR: why", ""))

    file = tmp_path / "x.sqfs"
    file.write_bytes(b"hsqs" + bytes(200))
    monkeypatch.setattr(proc, "find", lambda name: f"/bin/{name}")
    monkeypatch.setattr(proc, "piped", failing)
    with pytest.raises(UserError, match=r"x.sqfs: it is damaged: unsquashfs: FATAL ERROR: why$"):
        read(file)


def image(tar: bytes) -> bytes:
    return files({"manifest.json": b'[{"Config": "c", "Layers": ["l"]}]', "l": tar})


def chained(kind: bytes) -> bytes:
    """A tar's headers each of which says something of the next."""
    member = tarfile.TarInfo("x")
    member.type = kind
    return member.tobuf(tarfile.USTAR_FORMAT) * 3000


LOOP = b'{"manifests": [{"digest": "sha256:1"}]}'
MADE = {
    "long field": (image(files({RECORD: b'"' + b"x" * 200_000})), f"{RECORD}: it is damaged: fi"),
    "old newline": (image(files({RECORD: b"a\rb,,"})), f"{RECORD}: it is damaged: new-line"),
    "no JSON": (files({"manifest.json": b"[{"}), "manifest.json: it is damaged: Expecting"),
    "deep JSON": (files({"index.json": b"[" * 100_000}), "index.json: it is damaged: maximum rec"),
    "index in itself": (files({"index.json": LOOP, "blobs/sha256/1": LOOP}), "none that is known"),
    "long names of long names": (image(chained(b"L")), "l: it is damaged: maximum recursion"),
    "pax of pax": (chained(b"x"), "it is damaged: maximum recursion"),
    "root outside": (sif(descriptor(0x4004, 9000, 9, 1, 2)), "damaged: its root file system lies"),
    "table far off": (b"\0" * 32 + b"SIF_MAGIC".ljust(64, b"\0") + b"\x7f" * 16, "without a root"),
    "half a squashfs": (b"hsqs" + b"\0" * 37 + b"\x02" + bytes(60), "of 512 bytes ends after 102"),
}  # fmt: skip


@pytest.mark.parametrize("case", MADE)
def test_what_was_made_to_be_no_archive_is_told(case: str, tmp_path: Path) -> None:
    content, why = MADE[case]
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert why in str(raised.value)


def test_of_a_layout_the_damaged_layer_is_named(tmp_path: Path) -> None:
    layout(tmp_path, [TREE], pack=lambda tar: gzip.compress(tar)[:-30])
    with pytest.raises(UserError, match=r": blobs/sha256/\w+: it is damaged: Compressed"):
        read(tmp_path)


def lying(found: bytes, nth: int) -> bytes:
    """An archive of which one blob's bytes are others: a layer's, the config's, the manifest's."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(found)) as old,
        tarfile.open(fileobj=out, mode="w") as new,
    ):
        for index, member in enumerate(old):
            content = old.extractfile(member)
            assert content
            data = content.read()
            if index == nth:
                data = layer({"b": b"x"}) if not data.startswith(b"{") else data + b" "
                member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("nth", [0, 1, 2], ids=["layer", "config", "manifest"])
def test_a_blob_that_is_not_what_its_name_says_is_damaged(
    nth: int, last: bool, tmp_path: Path
) -> None:
    file = tmp_path / "image.tar"
    file.write_bytes(lying(oci([TREE], last=last), nth if last else nth + 2))
    with pytest.raises(
        UserError, match=r"image.tar: blobs/sha256/\w+: it is damaged: its bytes are sha256:\w{64}$"
    ):
        read(file)


def test_what_follows_a_layer_in_its_blob_is_of_its_digest(tmp_path: Path) -> None:
    """Readers stop where a tar or a frame ends; nobody stores more, and a digest is of all."""
    layout(tmp_path, [TREE])
    (packed,) = (one for one in tmp_path.glob("blobs/sha256/*") if one.read_bytes()[:1] == b"\x1f")
    packed.write_bytes(packed.read_bytes() + bytes(70_000))
    with pytest.raises(UserError, match=r"/\w+: it is damaged: its bytes are sha256:"):
        read(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        '{"rootfs": {"diff_ids": [1]}}', '{"rootfs": {"diff_ids": "abc"}}', '{"rootfs": [1]}',
        '{"rootfs": {"diff_ids": {"a": 1}}}', '{"history": 1}',
        '{"history": [{"created_by": [1]}]}',
    ],
)  # fmt: skip
def test_a_config_of_other_types_is_none_that_is_known(config: str, tmp_path: Path) -> None:
    manifest = b'[{"Config": "c", "Layers": ["l"]}]'
    file = tmp_path / "image.tar"
    file.write_bytes(files({"manifest.json": manifest, "c": config.encode(), "l": layer(TREE)}))
    with pytest.raises(UserError, match=r"image.tar: its manifest is none that is known$"):
        read(file)

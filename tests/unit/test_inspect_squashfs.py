"""A SIF's table, and what unsquashfs prints."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from builder import inspect, proc
from builder.errors import BuildError, UserError
from builder.inspect import squashfs
from builder.proc import Command

PRINTED = (
    b"/ D 1795761793 755 0 0\n"
    b"etc D 1795761690 755 0 0\n"
    b"etc/a\\ b R 1795761690 644 0 0 6 0\n"
    b"hard L etc/a\\ b\n"
    b"link S 1795761690 777 0 0 etc\n"
    b"new\nline R 1795761793 644 0 0 0 6\n"
    b'q\\"uote R 1795761793 644 0 0 3 6\n'
    b"#\n# START OF DATA - DO NOT MODIFY\n#\n"
    b"hello\nabc"
)


def descriptor(kind: int, offset: int, size: int, system: int, role: int) -> bytes:
    head = struct.pack("<i?IIIqq", kind, True, 1, 0, 0, offset, size)
    return (head.ljust(201, b"\0") + struct.pack("<ii", system, role)).ljust(585, b"\0")


def sif(*descriptors: bytes) -> bytes:
    head = bytearray(128)
    head[32:41] = b"SIF_MAGIC"
    table = b"".join(descriptors)
    struct.pack_into("<qq", head, 96, 128, len(table))
    return bytes(head) + table


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """unsquashfs prints what the text above says."""
    asked: list[Command] = []

    @contextmanager
    def piped(command: Command) -> Iterator[IO[bytes]]:
        asked.append(command)
        yield io.BytesIO(PRINTED)

    monkeypatch.setattr(proc, "piped", piped)
    monkeypatch.setattr(proc, "find", lambda name: f"/bin/{name}")
    return asked


def test_a_sif_is_read_from_where_its_table_says(tmp_path: Path, printed: list[Command]) -> None:
    file = tmp_path / "image.sif"
    table = sif(descriptor(0x4001, 9, 9, 0, 0), descriptor(0x4004, 40960, 777, 1, 2))
    file.write_bytes(table.ljust(40960, b"\0") + bytes(777))
    found = inspect.report(inspect.read_path(file, lambda _files, _size: None))
    # unsquashfs deletes what it cannot finish, which as root would be /dev/stdout.
    assert printed[0].args[-5:] == ("-o", "40960", "-pf", "/proc/self/fd/1", str(file))
    assert (found["size"], found["files"]) == (9, 3)
    assert found["layers"][0]["stored"] == found["compressed"]["stored"] == 777


def contents(printed: bytes) -> dict[str, bytes | str]:
    return {
        item.path: item.content.read() if item.content else item.type
        for item in squashfs.items(io.BytesIO(printed))
    }


def test_names_and_contents_are_those_of_the_files() -> None:
    assert contents(PRINTED) == {
        "etc": "folder", "link": "link", "hard": "hard link", "etc/a b": b"hello\n",
        "new\nline": b"", 'q"uote': b"abc",
    }  # fmt: skip


def test_what_nobody_reads_is_skipped() -> None:
    assert [item.path for item in squashfs.items(io.BytesIO(PRINTED))][-1] == "hard"


@pytest.mark.parametrize("size", range(0, len(PRINTED), 7))
def test_a_program_that_ends_early_is_no_whole_image(size: int) -> None:
    with pytest.raises(BuildError, match="unsquashfs ended before"):
        contents(PRINTED[:size])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (sif(), "without a root file system"),
        (sif(descriptor(0x4004, 1, 1, 3, 1)), "without a root file system"),
        (sif(descriptor(0x4004, 1, 1, 4, 2)), "encrypted or another"),
        (sif()[:100], "ends within its header"),
    ],
)
def test_other_sifs_are_refused(content: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "image.sif"
    file.write_bytes(content)
    with pytest.raises(UserError, match=why):
        squashfs.partition(file)


def test_without_unsquashfs_its_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proc, "find", lambda _: None)
    file = tmp_path / "root.sqfs"
    file.write_bytes(b"hsqs" + bytes(200))
    with pytest.raises(UserError, match="unsquashfs is not installed") as raised:
        inspect.read_path(file, lambda _files, _size: None)
    assert "squashfs-tools" in raised.value.hint

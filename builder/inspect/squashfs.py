"""A squashfs, and a SIF around it, read without root and without room on a disk.

Sources: sif's specification (github.com/apptainer/sif, pkg/sif/sif.go), and the text that
`unsquashfs -pf` prints: a line a file, then all contents in that order (squashfs-tools 4.5).
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from builder import proc
from builder.errors import BuildError, UserError
from builder.inspect.damage import damaged
from builder.inspect.stored import FOLDER, HARD, LINK, Item, Items
from builder.inspect.trees import normal
from builder.proc import Command

SIF_MAGIC, MAGIC = b"SIF_MAGIC", b"hsqs"
SIF_MAGIC_AT = 32
_TABLE_AT = 96  # u64 offset and u64 size of the descriptors
_DESCRIPTOR = struct.Struct("<i?IIIqq")  # type, used, id, group, link, offset, size
_DESCRIPTOR_SIZE, _EXTRA_AT = 585, 201
_PARTITION, _SQUASHFS, _PRIMARY = 0x4004, 1, 2
_SIZE_AT = 40  # u64 of a squashfs
_LINE = re.compile(rb"((?:\\.|[^\\ ])+) ([A-Za-z]) (.*)\n", re.DOTALL)
_REGULAR = re.compile(rb"-?\d+ \d+ -?\d+ -?\d+ (\d+) \d+( \d+)?")  # time mode uid gid size at
_END = b"# START OF DATA - DO NOT MODIFY\n"
# Not /dev/stdout: where unsquashfs 4.5 finds a folder damaged it deletes what it was to write, and
# root may delete that name for all of the host. Nobody may delete this one.
_STDOUT = "/proc/self/fd/1"
_CHUNK = 1 << 20  # bytes


def partition(file: Path) -> tuple[int, int]:
    """Offset and size in bytes of a SIF's root file system; (0, its size) of a bare squashfs.

    Raises UserError where there is none that can be read, or that is whole.
    """
    whole = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(_TABLE_AT + 16)
        if head[:4] == MAGIC:
            offset, length = 0, whole
        else:
            offset, length = _root(file, opened, head, whole)
        opened.seek(offset + _SIZE_AT)
        used = int.from_bytes(opened.read(8), "little")
    if used > length:
        raise damaged(str(file), f"its squashfs of {used} bytes ends after {length}")
    return offset, length


def _root(file: Path, opened: IO[bytes], head: bytes, whole: int) -> tuple[int, int]:
    """Where a SIF has it."""
    if len(head) < _TABLE_AT + 16:
        raise damaged(str(file), "a SIF that ends within its header")
    at, size = struct.unpack_from("<qq", head, _TABLE_AT)
    opened.seek(min(max(at, 0), whole))
    table = opened.read(min(max(size, 0), _CHUNK))
    for begin in range(0, len(table) - _DESCRIPTOR_SIZE + 1, _DESCRIPTOR_SIZE):
        kind, used, _, _, _, offset, length = _DESCRIPTOR.unpack_from(table, begin)
        system, role = struct.unpack_from("<ii", table, begin + _EXTRA_AT)
        if used and kind == _PARTITION and role == _PRIMARY:
            if system != _SQUASHFS:
                raise UserError(f"{file}: its root is no plain squashfs, but encrypted or another")
            if offset < 0 or length < 0 or offset + length > whole:
                raise damaged(str(file), "its root file system lies outside of it")
            return offset, length
    raise UserError(f"{file}: a SIF without a root file system")


def of_file(file: Path, offset: int) -> Items:
    """Files of the squashfs that begins `offset` bytes into a file.

    Raises UserError without squashfs-tools 4.5, BuildError with its words where it fails.
    """
    program = proc.find("unsquashfs")
    if program is None:
        raise UserError(
            f"{file}: unsquashfs is not installed, which reads it",
            hint="install squashfs-tools 4.5 or newer",
        )
    args = (program, "-n", "-q", "-o", str(offset), "-pf", _STDOUT, str(file))
    with proc.piped(Command(args=args)) as stream:
        yield from items(stream)


def items(stream: IO[bytes]) -> Items:
    """What `unsquashfs -pf` prints, as files. Raises BuildError for what is something else."""
    files: list[tuple[str, int]] = []
    linked: list[tuple[str, str]] = []
    for name, kind, rest in _listing(stream):
        path = normal(_unescaped(name))
        if kind == b"R":
            regular = _REGULAR.fullmatch(rest)
            if not regular:
                raise BuildError(f"unsquashfs lists {path!r} without a size")
            files.append((path, int(regular[1])))
        elif kind == b"L":
            linked.append((path, normal(_unescaped(rest))))
        elif path and kind in b"DSBCFI":
            yield Item(path=path, type=FOLDER if kind == b"D" else LINK)
    for path, size in files:
        part = _Part(stream, size)
        yield Item(path=path, size=size, content=io.BufferedReader(part, _CHUNK))
        part.skip()
    for path, target in linked:
        yield Item(path=path, type=HARD, target=target)


Listed = tuple[bytes, bytes, bytes]  # name, kind, the rest of the line


def _listing(stream: IO[bytes]) -> Iterator[Listed]:
    line = b""
    while True:
        more = stream.readline()
        if not more:
            raise BuildError("unsquashfs ended before its list of files did")
        if more == _END:
            stream.readline()  # "#", and contents begin
            return
        line += more
        # A name may hold a newline.
        if match := _LINE.fullmatch(line):
            yield match[1], match[2], match[3]
            line = b""
        elif line == b"#\n":
            line = b""


def _unescaped(name: bytes) -> str:
    return re.sub(rb"\\(.)", rb"\1", name, flags=re.DOTALL).decode("utf-8", "surrogateescape")


class _Part(io.RawIOBase):
    """The next bytes of a stream."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._left = stream, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(min(len(buffer), self._left))
        if self._left and not data:
            raise BuildError("unsquashfs ended before its files did")
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def skip(self) -> None:
        """What nobody has read."""
        while self._left and (data := self._stream.read(min(self._left, _CHUNK))):
            self._left -= len(data)

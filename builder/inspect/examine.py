"""Items of a source become what is known of them, each read once and forgotten."""

from __future__ import annotations

import hashlib
import mmap
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from builder.errors import ImgbuildError
from builder.inspect import kinds
from builder.inspect.squeeze import Squeeze
from builder.inspect.stored import FILE, FOLDER, HARD, Item, Items, OnFile, Stored, Tree
from builder.runtime.slim import elf

COMPARED = 1 << 16  # bytes of the smallest file whose copies are looked for
_CHUNK = 1 << 20  # bytes
_IN_MEMORY = 8 << 20  # bytes of the largest library that needs no temporary file
_SPARE = 64 << 20  # bytes that stay free where temporary files are
_LONGEST = 64 << 20  # bytes of a text that is kept; torch's RECORD has 2 MB
# What says which package a file is of, and which distribution this is.
TEXTS = re.compile(
    r"(.*/)?[^/]+\.dist-info/RECORD|var/lib/dpkg/(status|info/[^/]+\.list)|(etc|usr/lib)/os-release"
)
_WHITEOUT, _EMPTIED = ".wh.", ".wh..wh..opq"


class Examiner:
    """Reads items, and counts them for whoever watches."""

    def __init__(self, told: OnFile = lambda _files, _size: None) -> None:
        self.squeeze = Squeeze()
        self._told = told
        self._files = self._size = 0

    def tree(self, items: Items) -> Tree:
        """All of a layer. Raises ImgbuildError where a library fits no temporary folder."""
        tree = Tree()
        named: dict[str, Stored] = {}
        for item in items:
            folder, _, name = item.path.rpartition("/")
            if name == _EMPTIED:
                tree.emptied.add(folder)
            elif name.startswith(_WHITEOUT):
                tree.gone.add(f"{folder}/{name.removeprefix(_WHITEOUT)}".lstrip("/"))
            elif item.type == FILE:
                # A tar may hold a name twice; the last is what a reader gets.
                stored = named[item.path] = self.file(item)
                tree.files.append(stored)
            elif item.type == HARD and item.target in named:
                named[item.target].names.append(item.path)
                named[item.path] = named[item.target]
            elif item.type == FOLDER:
                tree.folders.add(item.path)
            else:
                tree.links.add(item.path)
        return tree

    def file(self, item: Item) -> Stored:
        """One file's bytes, read to their end."""
        stored = self._read(item)
        self._files += 1
        self._size += stored.size
        self._told(self._files, self._size)
        return stored

    def _read(self, item: Item) -> Stored:
        with _opened(item) as source:
            head = source.read(min(item.size, _CHUNK))
            if kinds.mapped(head):
                with _held(item, head, source) as data:
                    return self._mapped(item, data)
            return self._plain(item, head, source)

    def _plain(self, item: Item, head: bytes, source: IO[bytes]) -> Stored:
        kind = kinds.by_name(item.path)
        digest = hashlib.sha256()
        kept = bytearray()
        keeps = item.size <= _LONGEST and TEXTS.fullmatch(item.path)
        size, part = 0, head
        while part:
            size += len(part)
            self.squeeze.offer(kind, part)
            if item.size >= COMPARED:
                digest.update(part)
            if keeps:
                kept += part
            part = source.read(_CHUNK)
        return Stored(
            names=[item.path],
            size=size,
            kinds={kind: size},
            digest=digest.digest() if size >= COMPARED else b"",
            text=bytes(kept),
        )

    def _mapped(self, item: Item, data: bytes) -> Stored:
        size = len(data)
        stored = Stored(names=[item.path], size=size, kinds={})
        try:
            spans, stored.containers, stored.frames = kinds.look(data)
        except elf.Refused as refused:
            spans, stored.refused = [(kinds.CODE, 0, size)], str(refused)
            stored.unread = kinds.has_gpu_code(data)
        digest = hashlib.sha256()
        with memoryview(data) as view:
            for kind, begin, end in spans:
                stored.kinds[kind] = stored.kinds.get(kind, 0) + end - begin
                for at in range(begin, end, _CHUNK):
                    with view[at : min(end, at + _CHUNK)] as part:
                        self.squeeze.offer(kind, part)
                        digest.update(part)
        stored.digest = digest.digest() if size >= COMPARED else b""
        return stored


@contextmanager
def _opened(item: Item) -> Iterator[IO[bytes]]:
    if item.content:
        yield item.content
    elif item.disk:
        with item.disk.open("rb") as file:
            yield file


@contextmanager
def _held(item: Item, head: bytes, source: IO[bytes]) -> Iterator[bytes]:
    """All of a file's bytes, of a large one as an mmap."""
    if item.size <= _IN_MEMORY:
        yield head + source.read(item.size - len(head))
    elif item.disk:
        with _mmapped(source) as data:
            yield data
    else:
        _need_room(item)
        with tempfile.TemporaryFile(prefix="imgbuild-inspect-") as file:
            file.write(head)
            shutil.copyfileobj(source, file, _CHUNK)
            file.flush()
            with _mmapped(file) as data:
                yield data


@contextmanager
def _mmapped(file: IO[bytes]) -> Iterator[bytes]:
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        yield data  # type: ignore[misc] # sliced and searched as bytes are
    finally:
        with suppress(BufferError):  # an error's traceback may hold slices of it
            data.close()


def _need_room(item: Item) -> None:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < item.size + _SPARE:
        raise ImgbuildError(
            f"{folder} has {free / 1e6:.0f} MB free, and to look into {item.path} takes "
            f"{(item.size + _SPARE) / 1e6:.0f}",
            hint="set TMPDIR to a larger folder",
        )

"""What readers raise for damaged files, told in one line that names the file."""

from __future__ import annotations

import errno
import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from builder import zstd
from builder.errors import UserError

_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    zstd.ZstdError,
    EOFError,
    RecursionError,  # tarfile's, of headers that are each of the next
)
# zipfile's and its decompressors' own: encrypted and unknown members, names that are no text,
# places outside of the file, dictionaries larger than any memory.
_BROKEN_IN_ZIP = (
    *_BROKEN,
    RuntimeError,
    ValueError,
    LookupError,
    OverflowError,
    MemoryError,
    struct.error,
)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Raises UserError for a damaged file that is read meanwhile; `what` is its name."""
    try:
        yield
    except _BROKEN as error:
        raise damaged(what, error) from None


def damaged(what: str, why: object) -> UserError:
    """A file that cannot be read to its end."""
    said = " ".join(str(why).split()) or type(why).__name__
    return UserError(f"{what}: it is damaged: {said}")


@contextmanager
def _of_zip() -> Iterator[None]:
    try:
        yield
    except _BROKEN_IN_ZIP as error:
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from None
    except (
        OSError
    ) as error:  # bz2 has no number for what it is, seeking before the start has EINVAL
        if error.errno not in {None, errno.EINVAL}:
            raise
        raise zipfile.BadZipFile(str(error)) from None


class Zip:
    """An archive of which BadZipFile is all that its damage raises; OSError is the disk's."""

    def __init__(self, file: IO[bytes]) -> None:
        with _of_zip():
            self._archive = zipfile.ZipFile(file)

    def members(self) -> Iterator[tuple[str, int, IO[bytes]]]:
        """Path, bytes and content of each file, which is read before the next comes."""
        for member in self._archive.infolist():
            if member.filename.endswith("/"):
                continue
            with _of_zip():
                content = self._archive.open(member)
            with content:
                yield member.filename, member.file_size, cast(IO[bytes], _Content(content))


class _Content:
    def __init__(self, content: IO[bytes]) -> None:
        self._content = content

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        with _of_zip():
            return self._content.read(size)

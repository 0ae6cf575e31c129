"""Layers that were compressed for a push, kept on the disk: the next push need not do it again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from builder import zstd
from builder.engines import host

_UNUSED_SECONDS = 30 * 86400


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A compressed layer as a file."""

    file: Path
    digest: str
    size: int


class Kept:
    """A folder of them. A file's name says what it was made of, and how, and its own digest."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or host.cache_dir() / "layers"

    def find(self, diff_id: str, level: int) -> Blob | None:
        """The layer that is `diff_id` unpacked, at this level; a file that was spoiled goes.

        One that cannot be read is none: the layer is compressed anew.
        """
        for file in sorted(self.folder.glob(f"{_stem(diff_id, level)}-*.zst")):
            with suppress(OSError):  # another host may remove it meanwhile, or it is another user's
                with file.open("rb") as source:
                    found = hashlib.file_digest(source, "sha256").hexdigest()
                if file.stem.endswith(found):
                    with suppress(PermissionError):
                        os.utime(file)  # it was of use today
                    return Blob(file=file, digest=f"sha256:{found}", size=file.stat().st_size)
                file.unlink()
        return None

    @contextmanager
    def aside(self, diff_id: str, level: int) -> Iterator[Path]:
        """Where to write one; the file is gone afterwards unless it is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = host.aside(self.folder / _stem(diff_id, level))
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)

    def keep(self, aside: Path, diff_id: str, level: int, digest: str) -> Blob:
        """A file that was written aside, and is whole."""
        hexadecimal = digest.removeprefix("sha256:")
        file = aside.replace(self.folder / f"{_stem(diff_id, level)}-{hexadecimal}.zst")
        return Blob(file=file, digest=digest, size=file.stat().st_size)

    def unused(self, *, everything: bool = False) -> list[Path]:
        """Files that no push has used for 30 days, and what a killed one left; or all."""
        if not self.folder.is_dir():
            return []
        oldest = time.time() - _UNUSED_SECONDS
        found = []
        for file in sorted(self.folder.iterdir()):
            with suppress(OSError):  # it went meanwhile
                if file.is_file() and (everything or file.stat().st_mtime < oldest):
                    found.append(file)
        return found


def _stem(diff_id: str, level: int) -> str:
    return f"{diff_id.removeprefix('sha256:')}-{level}-{zstd.VERSION}"

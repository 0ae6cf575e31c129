"""Names and bytes of a folder, a wheel, a tar or a squashfs, one after the other."""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from builder.inspect.damage import Zip
from builder.inspect.stored import FOLDER, HARD, LINK, Item, Items
from builder.runtime.slim import mounts


def of_folder(root: Path) -> Items:
    """Files below a folder, or one file; raises OSError for what cannot be read.

    Symbolic links are not followed, and other file systems are not entered.
    """
    info = root.stat()
    if not stat.S_ISDIR(info.st_mode):
        yield Item(path=root.name, size=info.st_size, disk=root)
        return
    seen: dict[tuple[int, int], str] = {}
    root = root.resolve()
    pending = [root]
    mounted = mounts.points()
    while pending:
        with os.scandir(pending.pop()) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            own = entry.stat(follow_symlinks=False)
            path = os.path.relpath(entry.path, root)
            key = (own.st_dev, own.st_ino)
            if mounts.apart(entry, own, info.st_dev, mounted):
                continue
            if stat.S_ISDIR(own.st_mode):
                pending.append(Path(entry.path))
                yield Item(path=path, type=FOLDER)
            elif not stat.S_ISREG(own.st_mode):
                yield Item(path=path, type=LINK)
            elif key in seen:
                yield Item(path=path, type=HARD, target=seen[key])
            else:
                if own.st_nlink > 1:
                    seen[key] = path
                yield Item(path=path, size=own.st_size, disk=Path(entry.path))


def of_wheel(file: Path) -> Items:
    """Members of a wheel or another zip; raises BadZipFile."""
    with file.open("rb") as opened:
        for path, size, content in Zip(opened).members():
            yield Item(path=path, size=size, content=content)


def of_tar(stream: IO[bytes]) -> Items:
    """Members of an uncompressed tar that is read once; raises tarfile.TarError."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in members(archive):
            path = normal(member.name)
            if member.isreg():
                content = archive.extractfile(member)
                yield Item(path=path, size=member.size, content=content)
            elif member.islnk():
                yield Item(path=path, type=HARD, target=normal(member.linkname))
            elif path:
                yield Item(path=path, type=FOLDER if member.isdir() else LINK)


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Of a tar that is read once; they do not stay in memory, as they else would."""
    while (member := archive.next()) is not None:
        cast(Any, archive).members.clear()
        yield member


def normal(name: str) -> str:
    """A member's name as a path below the root."""
    return posixpath.normpath("/" + name).strip("/")

"""An image as an archive: docker's, podman's or an OCI layout, read from end to end.

Which blob is which layer is often said at the end. So each layer is looked into as it comes, and
they are put in order afterwards.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from builder import zstd
from builder.engines import host
from builder.errors import UserError
from builder.inspect.damage import damaged, explained
from builder.inspect.examine import Examiner
from builder.inspect.stored import Layer, Tree
from builder.inspect.trees import members, normal, of_tar

GZIP, TAR = b"\x1f\x8b", b"ustar"
TAR_AT = 257
_JSON_LONGEST = 16 << 20  # bytes
_CHUNK = 1 << 20  # bytes
_NAMED = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_LOCK = re.compile(r"/run/lock-([0-9a-f]{12})")
_RUNTIME = re.compile(r"/opt/imgbuild/")

Members = Iterator[tuple[str, int, IO[bytes]]]  # path in the archive, bytes, content


@dataclass(frozen=True, kw_only=True)
class _Blob:
    tree: Tree
    size: int
    compressed: bool
    unpacked: int


class _Archive:
    """What has been read."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.texts: dict[str, Any] = {}
        self.broken: dict[str, str] = {}  # path -> why it is no JSON, or not what its name says
        self.blobs: dict[str, _Blob] = {}

    def layers(self, names: Mapping[str, str]) -> list[Layer]:
        """In order, the lowest first."""
        legacy = self._text("manifest.json")
        config, paths = self._oci() if legacy is None else self._legacy(legacy)
        config = config if isinstance(config, dict) else {}
        history = [one for one in config.get("history") or () if not one.get("empty_layer")]
        diffs = _texts((config.get("rootfs") or {}).get("diff_ids") or [])
        out = []
        for index, path in enumerate(paths):
            blob = self.blobs.get(path)
            if blob is None:
                raise UserError(f"{self.what}: the archive has no {path}, which is a layer")
            if path in self.broken:
                raise damaged(f"{self.what}: {path}", self.broken[path])
            made = history[index].get("created_by") or "" if index < len(history) else ""
            _texts([made])
            digest = diffs[index] if index < len(diffs) else ""
            if path.startswith("blobs/sha256/"):
                digest = f"sha256:{path.rpartition('/')[2]}"
            out.append(
                Layer(
                    tree=blob.tree,
                    digest=digest,
                    created_by=made,
                    name=_name(made, names),
                    stored=blob.size,
                    compressed=blob.compressed,
                    unpacked=blob.unpacked,
                )
            )
        return out

    def _text(self, path: str) -> Any:
        """What a JSON file says, None where there is none; raises UserError for a damaged one."""
        if path in self.broken:
            raise damaged(f"{self.what}: {path}", self.broken[path])
        return self.texts.get(path)

    def _legacy(self, manifest: Any) -> tuple[Any, list[str]]:
        rows = {row["Config"]: row for row in manifest}
        if len(rows) != 1:
            raise UserError(
                f"{self.what}: it holds {len(rows)} images", hint="save one of them by its name"
            )
        (row,) = rows.values()
        return self._text(normal(row["Config"])), [normal(path) for path in row["Layers"]]

    def _oci(self) -> tuple[Any, list[str]]:
        index = self._text("index.json")
        if index is None:
            raise UserError(
                f"{self.what}: no image is in it",
                hint="`docker save` and `imgbuild pull` write archives of images",
            )
        found = list(self._manifests(index))
        whole = [one for one in found if set(_paths(one[1])) <= self.blobs.keys()]
        if not whole:
            raise UserError(f"{self.what}: no image in it has all its layers")
        if len({json.dumps(one[1], sort_keys=True) for one in whole}) > 1:
            own = [one for one in whole if one[0] == host.machine()]
            if len(own) != 1:
                raise UserError(
                    f"{self.what}: it holds {len(whole)} images",
                    hint="save one of them by its name",
                )
            whole = own
        manifest = whole[0][1]
        return self._text(_path(manifest["config"]["digest"])), _paths(manifest)

    def _manifests(self, index: Any) -> Iterator[tuple[str, Any]]:
        for row in index.get("manifests") or ():
            found = self._text(_path(row["digest"])) or {}
            if "manifests" in found:
                yield from self._manifests(found)
            elif "vnd.docker.reference.type" not in (row.get("annotations") or {}) and found:
                yield (row.get("platform") or {}).get("architecture", ""), found


def _texts(found: Any) -> list[str]:
    """Strings of a list as JSON has it; raises TypeError for anything else."""
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise TypeError
    return found


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _paths(manifest: Any) -> list[str]:
    return [_path(row["digest"]) for row in manifest.get("layers") or ()]


def _name(created_by: str, names: Mapping[str, str]) -> str:
    if found := _LOCK.search(created_by):
        return names.get(found[1], "")
    if _RUNTIME.search(created_by):
        return "runtime"
    return "os" if "useradd" in created_by and "imgbuild" in created_by else ""


def read(found: Members, examiner: Examiner, names: Mapping[str, str], what: str) -> list[Layer]:
    """Layers of the one image in an archive, the lowest first.

    `names` has imgbuild's layers by the digest of their locks. Raises UserError for an archive of
    none or several, tarfile.TarError and OSError for one that is damaged.
    """
    archive = _Archive(what)
    for path, size, content in found:
        named = _NAMED.fullmatch(path)
        hashed = _Hashed(content) if named else None
        source = _buffered(hashed or content)
        _one(archive, path, size, source, examiner)
        if named and hashed and (path in archive.blobs or path in archive.texts):
            while source.read(_CHUNK):  # what a reader left
                pass
            if hashed.digest != named[1]:
                archive.broken[path] = f"its bytes are sha256:{hashed.digest}"
    try:
        return archive.layers(names)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        raise UserError(f"{what}: its manifest is none that is known") from None


def _one(
    archive: _Archive, path: str, size: int, source: io.BufferedReader, examiner: Examiner
) -> None:
    """Read a member, if it is a text or a layer."""
    head = source.peek(512)[:512]
    if head[:1] in {b"{", b"["} and size <= _JSON_LONGEST:
        try:
            archive.texts[path] = json.loads(source.read())
        except (ValueError, RecursionError) as error:  # of no account unless it is asked for
            archive.broken[path] = str(error)
        return
    packed = head[:4] == zstd.MAGIC or head[:2] == GZIP
    if packed or head[TAR_AT : TAR_AT + 5] == TAR or (head and not any(head)):
        with explained(f"{archive.what}: {path}"):
            archive.blobs[path] = _layer(_unpacked(source, head), examiner, size, compressed=packed)


def _unpacked(source: io.BufferedReader, head: bytes) -> IO[bytes]:
    """The tar in a layer, whichever way it is compressed."""
    if head[:4] == zstd.MAGIC:
        return zstd.reader(source)
    return cast(IO[bytes], gzip.GzipFile(fileobj=source)) if head[:2] == GZIP else source


def _buffered(content: Any) -> io.BufferedReader:
    return content if isinstance(content, io.BufferedReader) else io.BufferedReader(content)


class _Hashed(io.RawIOBase):
    """A stream that hashes what is read of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """As a file's."""
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._hash.update(data)
        return len(data)

    @property
    def digest(self) -> str:
        """In hexadecimal, of what has been read."""
        return self._hash.hexdigest()


class _Counted:
    """A stream that knows how much of it was read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        data = self._stream.read(size)
        self.size += len(data)
        return data


def _layer(stream: IO[bytes], examiner: Examiner, size: int, *, compressed: bool) -> _Blob:
    counted = _Counted(stream)
    tree = examiner.tree(of_tar(cast(IO[bytes], counted)))
    while counted.read(_CHUNK):  # what fills a tar up
        pass
    return _Blob(tree=tree, size=size, compressed=compressed, unpacked=counted.size)


def of_stream(stream: IO[bytes]) -> Members:
    """Members of an archive that is read once, also of one compressed as Python's tarfile knows."""
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in members(archive):
            if member.isreg() and (content := archive.extractfile(member)):
                yield normal(member.name), member.size, content


def of_layout(folder: Path) -> Members:
    """Files of an OCI layout."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with file.open("rb") as content:
                yield file.relative_to(folder).as_posix(), file.stat().st_size, content

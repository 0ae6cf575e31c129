"""OCI layout -> the same image with layers at another level of zstd."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from builder import zstd
from builder.engines import oci
from builder.engines.base import OnLine, Progress
from builder.errors import BuildError
from builder.publish.kept import Blob, Kept

_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20  # bytes
_DAMAGED = (gzip.BadGzipFile, zlib.error, EOFError, zstd.ZstdError)


def recompress(folder: Path, level: int, kept: Kept, progress: Progress) -> None:
    """Compress each layer of the one image in `folder` anew, and have its manifest name those.

    What has been compressed at this level before is taken from `kept`, and what is new goes
    there. Each layer is proven to be what the configuration says. Raises BuildError.
    """
    blobs = folder / "blobs/sha256"
    layers: list[dict[str, Any]] = list(oci.layout_manifest(folder)["layers"])
    diff_ids: list[str] = json.loads(oci.layout_config(folder))["rootfs"]["diff_ids"]
    if len(layers) != len(diff_ids):
        raise BuildError(f"the image has {len(layers)} layers, and names {len(diff_ids)}")
    sources = [blobs / layer["digest"].removeprefix("sha256:") for layer in layers]
    made: dict[str, Blob] = {}
    for index, (source, diff_id) in enumerate(zip(sources, diff_ids, strict=True), 1):
        if diff_id not in made:
            blob = kept.find(diff_id, level)
            if blob is None:
                progress.step(f"compressing layer {index} of {len(layers)} at level {level}")
                blob = _compressed(source, diff_id, level, kept, progress.line)
            made[diff_id] = blob
        # What was read makes room for what comes.
        source.unlink(missing_ok=True)
    for blob in made.values():
        _link(blob.file, blobs / blob.digest.removeprefix("sha256:"))
    oci.replace_layers(folder, [(made[one].digest, made[one].size) for one in diff_ids])


def _compressed(source: Path, diff_id: str, level: int, kept: Kept, on_line: OnLine) -> Blob:
    """One layer, compressed and kept; nothing of it stays where that fails."""
    try:
        with kept.aside(diff_id, level) as aside:
            found, digest = _write(source, aside, level, on_line)
            if found != diff_id:
                raise BuildError(f"a layer came as {found}, and its image says {diff_id}")
            return kept.keep(aside, diff_id, level, digest)
    except _DAMAGED as error:
        raise BuildError(f"the layer {diff_id} came damaged: {error}") from None
    except OSError as error:
        raise BuildError(
            f"{kept.folder}: {error.strerror or error}",
            hint="layers are kept there; XDG_CACHE_HOME names another place, and `imgbuild clean "
            "--all` empties it",
        ) from None


def _write(source: Path, target: Path, level: int, on_line: OnLine) -> tuple[str, str]:
    """Write `target`; returns the digests of what was unpacked and of what was written."""
    unpacked, packed = hashlib.sha256(), hashlib.sha256()
    frame = zstd.compressor(level)
    with _reading(source):
        total, file = source.stat().st_size, source.open("rb")
    with file, target.open("wb") as out:

        def put(data: bytes) -> None:
            packed.update(data)
            out.write(data)

        for chunk in _chunks(source, file):
            unpacked.update(chunk)
            put(frame.compress(chunk))
            on_line(f"{file.tell() / 1e6:.0f} of {total / 1e6:.0f} MB")
        put(frame.flush())
    return f"sha256:{unpacked.hexdigest()}", f"sha256:{packed.hexdigest()}"


def _chunks(source: Path, file: IO[bytes]) -> Iterator[bytes]:
    with _reading(source):
        stream = _unpacked(file)
    while True:
        with _reading(source):
            chunk = stream.read(_CHUNK)
        if not chunk:
            return
        yield chunk


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Raises BuildError where a layer's file cannot be read; damage is told by who knows it."""
    try:
        yield
    except _DAMAGED:
        raise
    except OSError as error:
        raise BuildError(f"{source}: {error.strerror or error}") from None


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    """The tar in a layer, whichever way it is compressed."""
    head = file.read(len(zstd.MAGIC))
    file.seek(0)
    if head == zstd.MAGIC:
        return zstd.reader(file)
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if head.startswith(_GZIP) else file


def _link(kept: Path, name: Path) -> None:
    """Have the layout hold a kept file, which may lie on another disk."""
    with suppress(OSError):
        name.hardlink_to(kept)  # it stays where `imgbuild clean` comes meanwhile
        return
    name.symlink_to(kept.absolute())

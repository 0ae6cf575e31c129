"""Image of an engine -> registry, under all its tags."""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from builder.engines.base import Compression, Image, LayoutWriter, Progress, Publisher, Pusher
from builder.errors import BuildError, UserError
from builder.naming import Naming
from builder.publish.kept import Kept
from builder.publish.recompress import recompress
from builder.publish.upload import Layout, upload
from builder.registry.client import Manifest, Registry
from builder.registry.connection import unknown_ca

# Annotations of a manifest whose layers imgbuild has compressed: at which level, and what the
# engine calls the image (`Publisher.identity`), which may be a digest of the layers that it made.
LEVEL = "io.imgbuild.compression-level"
IDENTITY = "io.imgbuild.identity"

_UNKNOWN_CA = re.compile(r"x509|certificate signed by unknown authority")
_UNAUTHORISED = re.compile(
    r"unauthorized|authentication required|access denied|no basic auth|access forbidden",
    re.IGNORECASE,
)
_FULL = re.compile(r"no space left on device", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A name that a registry has now."""

    reference: str  # "host/path/name:tag@sha256:..."
    changed: bool


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A cell's image on a registry."""

    cell_id: str
    engine: str
    digest: str
    compression: str
    compression_level: int | None  # None: the engine's own
    size: int  # bytes that a client without any of its layers loads
    tags: tuple[Tag, ...]
    seconds: float


def push(
    engine: Publisher,
    image: Image,
    naming: Naming,
    registry: Registry,
    progress: Progress,
    *,
    wanted: Compression | None = None,
    level: int | None = None,
) -> Pushed:
    """Push one image under its content's name, then give it the others.

    Its layers are compressed as `wanted`, or in the best way that the engine can; with a `level` of
    zstd by imgbuild itself. An image that the registry has so already is not sent again; where
    no level is asked for, any will do. Raises BuildError, in one line where the reason is known.
    """
    start, address = time.monotonic(), registry.address
    compression = chosen(engine, wanted, level)
    name, repository = address.reference(naming.repository), address.repository(naming.repository)
    progress.step(f"asking {address.host}")
    content = naming.content_reference.rpartition(":")[2]
    there = registry.find(repository, content)
    sent = there is None or not _is(there, engine, image, compression, level)
    if there is None or sent:
        target = f"{name}:{content}"
        there = _send(
            engine, image, target, registry, progress, compression=compression, level=level
        )
    tags = {content: sent}
    for tag in _tags(engine, image, naming):
        if tag not in tags:
            tags[tag] = registry.digest(repository, tag) != there.digest
            if tags[tag]:
                progress.step(f"naming {name}:{tag}")
                registry.put(repository, tag, there)
    return Pushed(
        cell_id=naming.cell_id,
        engine=engine.name,
        digest=there.digest,
        compression=compression,
        compression_level=_level(there),
        size=sum(blob.size for blob in there.blobs),
        tags=tuple(
            Tag(reference=f"{name}:{tag}@{there.digest}", changed=changed)
            for tag, changed in tags.items()
        ),
        seconds=round(time.monotonic() - start, 2),
    )


def chosen(engine: Publisher, wanted: Compression | None, level: int | None = None) -> Compression:
    """How layers go; raises UserError where the engine cannot do what is wanted."""
    can, option = engine.compressions(), f"--compression {wanted}"
    if level is not None:
        option = f"--compression-level {level}"
        if wanted == Compression.GZIP:
            raise UserError(f"{option}: levels are zstd's, and --compression gzip was asked for")
        if not isinstance(engine, LayoutWriter):
            raise UserError(f"{option}: {engine.name} hands out no layers to compress")
        wanted = Compression.ZSTD
    if wanted is not None and wanted not in can:
        raise UserError(
            f"{option}: {engine.name}'s image store here sends {can[0]} only",
            hint="push with --engine buildah, or turn Docker's containerd image store on",
        )
    return wanted or can[0]


def _is(
    there: Manifest,
    engine: Publisher,
    image: Image,
    compression: Compression,
    level: int | None,
) -> bool:
    """Whether what a registry has is this image, compressed like that."""
    if there.compression != compression or level not in (None, _level(there)):
        return False
    known = (there.digest, there.config.digest, there.annotations.get(IDENTITY))
    return engine.identity(image, compression) in known


def _level(there: Manifest) -> int | None:
    """That at which imgbuild has compressed an image's layers, if it has."""
    told = there.annotations.get(LEVEL, "")
    return int(told) if told.isdecimal() else None


def _send(
    engine: Publisher,
    image: Image,
    target: str,
    registry: Registry,
    progress: Progress,
    *,
    compression: Compression,
    level: int | None,
) -> Manifest:
    """Send an image, and see that the registry has what was sent."""
    host = registry.address.host
    stem, _, tag = target.rpartition(":")
    repository = stem.removeprefix(f"{host}/")
    try:
        if isinstance(engine, Pusher) and level is None:
            progress.step(f"pushing {target}")
            digest = engine.push(image, target, compression, progress.line)
        else:
            with tempfile.TemporaryDirectory(prefix="imgbuild-push-") as scratch:
                folder = Path(scratch) / "layout"
                layout = _exported(
                    engine, image, folder, progress, compression=compression, level=level
                )
                progress.step(f"pushing {target}")
                digest = upload(layout, registry, repository, tag, progress.line)
    except BuildError as error:
        raise _told(error, engine.name, host) from None
    if (found := registry.digest(repository, tag)) != digest:
        raise BuildError(f"{engine.name} pushed {target} as {digest}, but the registry has {found}")
    manifest = registry.manifest(repository, digest)
    if manifest.compression != compression:
        raise BuildError(f"{engine.name} pushed {target}, but its layers are not all {compression}")
    return manifest


def _exported(
    engine: Publisher,
    image: Image,
    folder: Path,
    progress: Progress,
    *,
    compression: Compression,
    level: int | None,
) -> Layout:
    """An image as it is to be sent, in the new folder `folder`."""
    assert isinstance(engine, LayoutWriter)  # noqa: S101 - else it is a Pusher, and has no level
    progress.step(f"exporting from {engine.name}")
    try:
        config = engine.layout(image, folder, compression, progress.line)
    except BuildError as error:
        if not _FULL.search("\n".join(error.tail)):
            raise
        raise BuildError(
            f"{engine.name}: no space left on device",
            hint=f"layers go through {folder.parents[1]}; TMPDIR names another place",
        ) from None
    annotations = {}
    if level is not None:
        recompress(folder, level, Kept(), progress)
        annotations = {LEVEL: str(level), IDENTITY: engine.identity(image, compression)}
    return Layout(folder=folder, config=config, compression=compression, annotations=annotations)


def _tags(engine: Publisher, image: Image, naming: Naming) -> list[str]:
    """The cell's own tags, and those that the user gave this image in the cell's repository."""
    own = [reference.rpartition(":")[2] for reference in naming.references]
    borne = [name.rpartition(":")[::2] for name in engine.names(image)]
    return own + sorted(tag for stem, tag in borne if stem == naming.repository)


def _told(error: BuildError, engine: str, host: str) -> BuildError:
    """An engine's complaint in one line, where it is one that we know."""
    said = "\n".join(error.tail)
    if _UNKNOWN_CA.search(said):
        file = f"/etc/{'docker' if engine == 'docker' else 'containers'}/certs.d/{host}/ca.crt"
        return unknown_ca(host, hint=f"{engine} looks for its CA in {file}")
    if _UNAUTHORISED.search(said):
        program = "docker" if engine == "docker" else "podman"
        return BuildError(
            f"{host}: unauthorised: {engine} has no login for it, or one that it refuses",
            hint=f"`{program} login {host}` keeps one",
        )
    return error

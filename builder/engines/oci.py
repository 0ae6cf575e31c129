"""A root file system as an OCI archive: one layer, bit for bit the same for the same input."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from builder.engines.host import machine


def write_archive(rootfs: Path, target: Path, *, name: str, epoch: int) -> None:
    """Wrap the tar `rootfs` into the OCI archive `target`, under `named(name, its digest)`.

    The layer stays uncompressed: it never travels, and docker, podman, buildah, skopeo and
    apptainer all take it. `epoch` is in seconds.
    """
    layer = _digest(rootfs)
    created = datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = _json(
        {
            "architecture": machine(),  # mmdebstrap's is the host's
            "os": "linux",
            "created": created,
            # One entry a layer, or Buildah refuses ("history lists 1 non-empty layers").
            "history": [{"created": created, "created_by": "mmdebstrap"}],
            "config": {"Cmd": ["/bin/bash"], "Env": [_PATH]},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": layer,
                    "size": rootfs.stat().st_size,
                }
            ],
        }
    )
    name = named(name, digest_of(manifest))
    with tarfile.open(target, "w") as archive:
        begin(archive, manifest, name=name, epoch=epoch)
        add(archive, config, epoch)
        add(archive, manifest, epoch)
        with rootfs.open("rb") as source:
            add_stream(archive, layer, rootfs.stat().st_size, source, epoch)


def begin(archive: tarfile.TarFile, manifest: bytes, *, name: str, epoch: int) -> None:
    """Write all of an archive but its blobs: those are the manifest and what it names."""
    parsed = json.loads(manifest)
    described = _descriptor(parsed["mediaType"], manifest)
    # Docker's containerd store names an image by the first annotation, others by the second.
    described["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    # Docker's classic store does not read an OCI layout; it reads this.
    config, *layers = (_path(blob["digest"]) for blob in (parsed["config"], *parsed["layers"]))
    legacy = [{"Config": config, "RepoTags": [name], "Layers": layers}]
    _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}), epoch)
    _add(archive, "index.json", _json({"schemaVersion": 2, "manifests": [described]}), epoch)
    _add(archive, "manifest.json", _json(legacy), epoch)
    # Apptainer unpacks the archive member by member: folders must come before files.
    for folder in ("blobs", "blobs/sha256"):
        member = _member(folder, 0, epoch)
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(member)


def add(archive: tarfile.TarFile, blob: bytes, epoch: int) -> None:
    """Write one blob."""
    _add(archive, _path(digest_of(blob)), blob, epoch)


def add_stream(
    archive: tarfile.TarFile, digest: str, size: int, source: SupportsRead, epoch: int
) -> None:
    """Write one blob of `size` bytes that is read meanwhile."""
    archive.addfile(_member(_path(digest), size, epoch), source)


class SupportsRead(Protocol):
    """All that tarfile asks of a file."""

    def read(self, size: int = ..., /) -> bytes:
        """Exactly `size` bytes."""


def digest_of(blob: bytes) -> str:
    """A blob's digest, as registries spell it."""
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def named(name: str, digest: str) -> str:
    """An image reference that no other content can bear."""
    return f"{name}-{digest.removeprefix('sha256:')[:12]}"


_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _digest(file: Path) -> str:
    with file.open("rb") as source:
        return "sha256:" + hashlib.file_digest(source, "sha256").hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(blob), "size": len(blob)}


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _member(name: str, size: int, epoch: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, epoch, 0o644
    return member


def _add(archive: tarfile.TarFile, name: str, content: bytes, epoch: int) -> None:
    archive.addfile(_member(name, len(content), epoch), io.BytesIO(content))


def layout_config(folder: Path) -> bytes:
    """The configuration of the one image of an OCI layout."""
    return _blob(folder, layout_manifest(folder)["config"]["digest"])


def layout_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of the one image of an OCI layout."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    manifest: Mapping[str, Any] = json.loads(_blob(folder, index["manifests"][0]["digest"]))
    return manifest


def replace_layers(folder: Path, layers: Sequence[tuple[str, int]]) -> None:
    """Have the one image of an OCI layout name other blobs, by digest and size: zstd ones."""
    file = folder / "index.json"
    index = json.loads(file.read_text(encoding="utf-8"))
    kind = "application/vnd.oci.image.layer.v1.tar+zstd"
    rows = [{"mediaType": kind, "digest": digest, "size": size} for digest, size in layers]
    text = _json({**layout_manifest(folder), "layers": rows})
    (folder / _path(digest_of(text))).write_bytes(text)
    index["manifests"][0] |= {"digest": digest_of(text), "size": len(text)}
    file.write_bytes(_json(index))


def _blob(folder: Path, digest: str) -> bytes:
    return (folder / _path(digest)).read_bytes()


def manifest_digest(archive: Path) -> str:
    """Digest of the manifest of an archive that `write_archive` wrote."""
    with tarfile.open(archive) as source:
        index: Mapping[str, Any] = json.load(source.extractfile("index.json") or io.BytesIO(b"{}"))
    return str(index["manifests"][0]["digest"])

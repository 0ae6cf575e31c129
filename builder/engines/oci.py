"""A root file system as an OCI archive: one layer, bit for bit the same for the same input."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


def write_archive(rootfs: Path, target: Path, *, name: str, epoch: int) -> None:
    """Wrap the tar `rootfs` into the OCI archive `target`, under `named(name, its digest)`.

    The layer stays uncompressed: it never travels, and docker, podman, buildah, skopeo and
    apptainer all take it. `epoch` is in seconds.
    """
    layer = _digest(rootfs)
    created = datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = _json(
        {
            "architecture": "amd64",
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
    described = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    name = named(name, str(described["digest"]))
    # Docker's containerd store names an image by the first annotation, others by the second.
    described["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = _json({"schemaVersion": 2, "manifests": [described]})
    # Docker's classic store does not read an OCI layout; it reads this.
    legacy = [{"Config": _blob(config), "RepoTags": [name], "Layers": [_blob_path(layer)]}]
    with tarfile.open(target, "w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}), epoch)
        _add(archive, "index.json", index, epoch)
        _add(archive, "manifest.json", _json(legacy), epoch)
        # Apptainer unpacks the archive member by member: folders must come before files.
        for folder in ("blobs", "blobs/sha256"):
            member = _member(folder, 0, epoch)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for blob in (config, manifest):
            _add(archive, _blob(blob), blob, epoch)
        member = _member(_blob_path(layer), rootfs.stat().st_size, epoch)
        with rootfs.open("rb") as source:
            archive.addfile(member, source)


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
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    return {"mediaType": media_type, "digest": digest, "size": len(blob)}


def _blob(blob: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}"


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _member(name: str, size: int, epoch: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, epoch, 0o644
    return member


def _add(archive: tarfile.TarFile, name: str, content: bytes, epoch: int) -> None:
    archive.addfile(_member(name, len(content), epoch), io.BytesIO(content))


def manifest_digest(archive: Path) -> str:
    """Digest of the manifest of an archive that `write_archive` wrote."""
    with tarfile.open(archive) as source:
        index: Mapping[str, Any] = json.load(source.extractfile("index.json") or io.BytesIO(b"{}"))
    return str(index["manifests"][0]["digest"])

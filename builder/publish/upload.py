"""OCI layout -> registry, with the configuration that the image itself has."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.engines.base import Compression, OnLine
from builder.engines.oci import digest_of, layout_manifest
from builder.registry.blob import Descriptor
from builder.registry.client import Manifest, Registry

# Manifest, configuration, layer. With gzip Docker's own, which the oldest clients know, and which
# Podman needs for a health check.
_TYPES = {
    Compression.ZSTD: (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ),
    Compression.GZIP: (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An image as a folder of blobs, and the configuration that it has in its engine."""

    folder: Path
    config: bytes
    compression: Compression
    annotations: Mapping[str, str] = field(default_factory=dict)  # of an OCI manifest


def upload(layout: Layout, registry: Registry, repository: str, tag: str, on_line: OnLine) -> str:
    """Send what the registry has not yet; returns the digest of the manifest."""
    blobs = layout.folder / "blobs/sha256"
    ours = Descriptor(digest=digest_of(layout.config), size=len(layout.config))
    layers = _layers(layout.folder)
    for layer in {layer.digest: layer for layer in layers}.values():
        with (blobs / layer.digest.removeprefix("sha256:")).open("rb") as source:
            sent = registry.send(repository, layer, source)
        told = "sent" if sent else "there already"
        on_line(f"{layer.digest} {layer.size / 1e6:.1f} MB {told}")
    registry.send(repository, ours, io.BytesIO(layout.config))
    of_manifest, of_config, of_layer = _TYPES[layout.compression]
    document = {
        "schemaVersion": 2,
        "mediaType": of_manifest,
        "config": _described(of_config, ours),
        "layers": [_described(of_layer, layer) for layer in layers],
    }
    if layout.annotations:
        document["annotations"] = dict(layout.annotations)
    text = json.dumps(document, separators=(",", ":")).encode()
    manifest = Manifest(
        digest=digest_of(text),
        media_type=of_manifest,
        text=text,
        config=ours,
        layers=layers,
        annotations=layout.annotations,
    )
    registry.put(repository, tag, manifest)
    return manifest.digest


def _layers(folder: Path) -> tuple[Descriptor, ...]:
    return tuple(Descriptor.model_validate(layer) for layer in layout_manifest(folder)["layers"])


def _described(media_type: str, blob: Descriptor) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}

"""A registry's HTTP API, as far as imgbuild needs it; nothing but the standard library.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md. Nothing
of what comes is used before its digest has been checked.
"""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from builder.engines.base import Compression, Remote
from builder.engines.oci import digest_of
from builder.errors import BuildError
from builder.registry.address import Address
from builder.registry.blob import Blob, Descriptor, is_digest
from builder.registry.connection import AbsentError, Connection, UnreachableError
from builder.registry.credentials import Login

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_ACCEPT = {"Accept": ", ".join((*_MANIFESTS, *_INDEXES))}
_LARGEST = 4 << 20  # bytes of a manifest; registries keep no larger ones


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an image consists of, and the bytes that say so."""

    digest: str
    media_type: str
    text: bytes
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Each blob once."""
        return tuple({blob.digest: blob for blob in (self.config, *self.layers)}.values())

    @property
    def compression(self) -> Compression | None:
        """That of all its layers; None: they differ, or it is none that we know."""
        kinds = {layer.media_type.rpartition("+")[2].rpartition(".")[2] for layer in self.layers}
        return next((known for known in Compression if kinds == {known}), None)


class Registry:
    """One registry. Every method raises BuildError, in one line and with what to do."""

    def __init__(
        self,
        address: Address,
        *,
        ca: Path | None = None,
        login: Login | None = None,
        actions: str = "pull",
    ) -> None:
        self.address = address
        self.login = login
        self.remote = Remote(ca=ca, plain=address.plain)
        self._connection = Connection(address, ca, login, actions)

    def digest(self, repository: str, reference: str) -> str | None:
        """The digest that a tag has now, or None where there is no such tag."""
        found = self._manifest(repository, reference, "HEAD")
        if found is None:
            return None
        with found:
            if digest := found.headers.get("Docker-Content-Digest"):
                if not is_digest(digest):
                    raise BuildError(f"{self._at(repository)}: {digest!r} is no SHA-256 digest")
                return str(digest)
        text, _ = self._text(repository, reference)  # a proxy may have taken the header away
        return digest_of(text)

    def manifest(self, repository: str, digest: str) -> Manifest:
        """The manifest with this digest; of an index, the one for x86-64."""
        text, media_type = self._text(repository, digest)
        if digest_of(text) != digest:
            raise BuildError(
                f"{self._at(repository)}: the manifest is not {digest}, but {digest_of(text)}",
                hint="nothing was written",
            )
        try:
            parsed = json.loads(text)
            # As the bytes say, which are checked, where they say.
            media_type = parsed.get("mediaType", media_type)
            if media_type in _INDEXES:
                return self.manifest(repository, _for_us(parsed))
            document = _Document.model_validate(parsed)
        except (ValueError, LookupError, AttributeError, TypeError, ValidationError):
            raise BuildError(f"{self._at(repository)}@{digest} is no image") from None
        return Manifest(
            digest=digest,
            media_type=media_type,
            text=text,
            config=document.config,
            layers=document.layers,
            annotations=document.annotations or {},
        )

    def find(self, repository: str, tag: str) -> Manifest | None:
        """The manifest that bears a tag, if one does."""
        digest = self.digest(repository, tag)
        return self.manifest(repository, digest) if digest else None

    def put(self, repository: str, tag: str, manifest: Manifest) -> None:
        """Give a manifest, whose blobs are there, one more tag."""
        headers = {"Content-Type": manifest.media_type}
        path = f"manifests/{tag}"
        self._connection.open(repository, path, "PUT", headers=headers, data=manifest.text).close()

    def send(self, repository: str, blob: Descriptor, source: BinaryIO) -> bool:
        """Give it a blob; returns whether it was none that is there already."""
        try:
            self._connection.open(repository, f"blobs/{blob.digest}", "HEAD", headers={}).close()
        except AbsentError:
            pass
        else:
            return False
        for last in (False, False, True):
            try:
                self._upload(repository, blob, source)
            except UnreachableError:
                if last:
                    raise
            else:
                break
        return True

    def _upload(self, repository: str, blob: Descriptor, source: BinaryIO) -> None:
        """All at once, to where the registry says."""
        with self._connection.open(
            repository, "blobs/uploads/", "POST", headers={}, data=b""
        ) as begun:
            place = urllib.parse.urljoin(begun.url, begun.headers.get("Location", ""))
        place += ("&" if "?" in place else "?") + urllib.parse.urlencode({"digest": blob.digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        self._connection.open(repository, place, "PUT", headers=headers, data=source).close()

    def blob(self, repository: str, blob: Descriptor, on_bytes: Callable[[int], None]) -> Blob:
        """A blob to read; `on_bytes` hears how many came."""

        def begin(offset: int) -> http.client.HTTPResponse:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            return self._connection.open(repository, f"blobs/{blob.digest}", "GET", headers=headers)

        return Blob(blob, begin, on_bytes, self._at(repository))

    def _text(self, repository: str, reference: str) -> tuple[bytes, str]:
        """A manifest's bytes and media type."""
        found = self._manifest(repository, reference, "GET")
        if found is None:
            raise BuildError(f"{self._at(repository)} has no {reference}")
        with found:
            text = found.read(_LARGEST + 1)
            media_type = found.headers.get_content_type()
        if len(text) > _LARGEST:
            raise BuildError(f"{self._at(repository)}: a manifest of more than 4 MiB")
        return text, media_type

    def _manifest(
        self, repository: str, reference: str, method: str
    ) -> http.client.HTTPResponse | None:
        try:
            return self._connection.open(
                repository, f"manifests/{reference}", method, headers=_ACCEPT
            )
        except AbsentError:
            return None

    def _at(self, repository: str) -> str:
        return self.address.at(repository)


def _for_us(index: Mapping[str, Any]) -> str:
    """The digest that an index has for x86-64 Linux; raises LookupError where it has none."""
    ours = {"architecture": "amd64", "os": "linux"}
    for entry in index["manifests"]:
        if ours.items() <= (entry.get("platform") or {}).items():
            return Descriptor.model_validate(entry).digest
    raise LookupError

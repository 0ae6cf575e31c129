"""Blobs: how they are named, and one that is being downloaded."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from builder.errors import BuildError
from builder.registry.connection import UnreachableError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
Digest = Annotated[str, StringConstraints(pattern=rf"^{_DIGEST.pattern}$")]
_TRIES = 5  # without a byte, a blob is given up


def is_digest(text: str) -> bool:
    """Whether it is a digest that is taken here."""
    return _DIGEST.fullmatch(text) is not None


class Descriptor(BaseModel):
    """What a manifest says of a blob."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    media_type: Annotated[str, Field(alias="mediaType")] = ""
    digest: Digest
    size: Annotated[int, Field(ge=0)]


class Blob:
    """A blob that is being downloaded, read like a file; a broken connection is taken up again.

    The last byte comes only when the digest of all is right.
    """

    def __init__(
        self,
        blob: Descriptor,
        begin: Callable[[int], http.client.HTTPResponse],
        on_bytes: Callable[[int], None],
        place: str,
    ) -> None:
        self._blob = blob
        self._begin = begin
        self._on_bytes = on_bytes
        self._place = place
        self._sha256 = hashlib.sha256()
        self._done = 0
        self._failures = 0
        self._response: http.client.HTTPResponse | None = None

    def read(self, size: int = -1, /) -> bytes:
        """Exactly `size` bytes; raises BuildError where they do not come or are not the blob's."""
        parts = []
        size = self._blob.size - self._done if size < 0 else size
        while size > 0:
            parts.append(self._some(size))
            size -= len(parts[-1])
        if self._done == self._blob.size and self._digest() != self._blob.digest:
            raise BuildError(
                f"{self._place}: the blob {self._blob.digest} came as {self._digest()}",
                hint="nothing was written",
            )
        return b"".join(parts)

    def close(self) -> None:
        """Let the connection go."""
        if self._response:
            self._response.close()
            self._response = None

    def _some(self, size: int) -> bytes:
        try:
            if self._response is None:
                self._response = self._begin(self._done)
                if self._done and self._response.status != http.client.PARTIAL_CONTENT:
                    raise BuildError(f"{self._place}: the connection broke, and cannot be resumed")
            chunk = self._response.read(size)
        except (OSError, http.client.HTTPException, UnreachableError) as error:
            chunk, told = b"", str(error)
        else:
            told = "it ended too early"
        if chunk:
            self._failures = 0
        else:
            self.close()
            self._failures += 1
            if self._failures >= _TRIES:
                done = f"{self._done} of {self._blob.size} bytes of {self._blob.digest}"
                raise BuildError(f"{self._place}: the connection broke after {done}: {told}")
            time.sleep(2 ** (self._failures - 1))
        self._sha256.update(chunk)
        self._done += len(chunk)
        self._on_bytes(len(chunk))
        return chunk

    def _digest(self) -> str:
        return "sha256:" + self._sha256.hexdigest()

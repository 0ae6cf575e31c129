"""A registry's HTTP API, as far as pulling and naming go; nothing but the standard library.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md. Pushing blobs is the
engines' own affair. Nothing of what comes is used before its digest has been checked.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from builder.engines.base import Remote
from builder.engines.oci import digest_of
from builder.errors import BuildError
from builder.registry import trust
from builder.registry.address import Address
from builder.registry.credentials import Login

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
Digest = Annotated[str, StringConstraints(pattern=rf"^{_DIGEST.pattern}$")]
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_ACCEPT = {"Accept": ", ".join((*_MANIFESTS, *_INDEXES))}
_SECONDS = 30.0  # without a byte
_LARGEST = 4 << 20  # bytes of a manifest; registries keep no larger ones
_TRIES = 5  # without a byte, a blob is given up
_PASSING = {429, 500, 502, 503, 504}  # HTTP status codes that may be others in a moment
# X509_V_ERR_*: the chain ends in an authority that is not known here.
_UNKNOWN_CA = {2, 18, 19, 20, 21}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


def is_digest(text: str) -> bool:
    """Whether it is a digest that is taken here."""
    return _DIGEST.fullmatch(text) is not None


class Descriptor(_Part):
    """What a manifest says of a blob."""

    digest: Digest
    size: Annotated[int, Field(ge=0)]


class _Document(_Part):
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an image consists of, and the bytes that say so."""

    digest: str
    media_type: str
    text: bytes
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Each blob once."""
        return tuple({blob.digest: blob for blob in (self.config, *self.layers)}.values())


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
        self._actions = actions  # what a token is asked for
        self._authorization = ""
        handlers: list[urllib.request.BaseHandler] = []
        if not address.plain:
            handlers.append(urllib.request.HTTPSHandler(context=trust.context(address.host, ca)))
        if address.is_loopback:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

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
        )

    def find(self, repository: str, tag: str) -> Manifest | None:
        """The manifest that bears a tag, if one does."""
        digest = self.digest(repository, tag)
        return self.manifest(repository, digest) if digest else None

    def put(self, repository: str, tag: str, manifest: Manifest) -> None:
        """Give a manifest, whose blobs are there, one more tag."""
        headers = {"Content-Type": manifest.media_type}
        path = f"manifests/{tag}"
        self._open(repository, path, "PUT", headers=headers, data=manifest.text).close()

    def blob(self, repository: str, blob: Descriptor, on_bytes: Callable[[int], None]) -> Blob:
        """A blob to read; `on_bytes` hears how many came."""

        def begin(offset: int) -> http.client.HTTPResponse:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            return self._open(repository, f"blobs/{blob.digest}", "GET", headers=headers)

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
            return self._open(repository, f"manifests/{reference}", method, headers=_ACCEPT)
        except _AbsentError:
            return None

    def _at(self, repository: str) -> str:
        return f"{self.address.host}/{repository}"

    def _open(
        self,
        repository: str,
        path: str,
        method: str,
        *,
        headers: Mapping[str, str],
        data: bytes | None = None,
    ) -> http.client.HTTPResponse:
        """Ask, once more with a login where the registry wants one."""
        url = f"{self.address.url}{repository}/{path}"
        for last in (False, True):
            request = urllib.request.Request(  # noqa: S310 - http or https, by Address
                url, method=method, headers=dict(headers), data=data
            )
            if self._authorization:
                # Not sent on to where a registry keeps its blobs: that is somebody else.
                request.add_unredirected_header("Authorization", self._authorization)
            try:
                return self._send(request)
            except urllib.error.HTTPError as error:
                with error:
                    challenge = error.headers.get("WWW-Authenticate", "")
                    if error.code != http.client.UNAUTHORIZED or last:
                        raise self._refusal(error, repository) from None
                self._authorization = self._authorize(challenge, repository)
        raise AssertionError  # the second round returns or raises

    def _send(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Raises HTTPError for an answer that refuses, BuildError where there is none."""
        try:
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=_SECONDS)
        except urllib.error.HTTPError:
            raise
        except UnicodeError:  # of Python's codec for hosts' names; it has a "reason" of its own
            raise self._unreachable("no host's name") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(getattr(error, "reason", error)) from None
        return answer

    def _authorize(self, challenge: str, repository: str) -> str:
        """What to say to a registry that asks who we are."""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic":
            return self.login.basic if self.login else ""
        values = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = values.get("realm", "")
        if scheme.lower() != "bearer" or not realm:
            return ""
        if not realm.startswith(("https://", "http://") if self.address.plain else "https://"):
            raise BuildError(f"{self.address.host} asks for a login without TLS")
        asked = {"scope": f"repository:{repository}:{self._actions}"}
        if service := values.get("service"):
            asked["service"] = service
        headers, data = {}, None
        if self.login and self.login.identity_token:
            asked |= {"grant_type": "refresh_token", "client_id": "imgbuild"}
            asked["refresh_token"] = self.login.identity_token
            data = urllib.parse.urlencode(asked).encode()
        else:
            realm += ("&" if "?" in realm else "?") + urllib.parse.urlencode(asked)
            headers = {"Authorization": self.login.basic} if self.login else {}
        request = urllib.request.Request(realm, data=data)  # noqa: S310 - its scheme is checked
        for name, value in headers.items():
            request.add_unredirected_header(name, value)
        try:
            with self._send(request) as answer:
                said: dict[str, Any] = json.load(answer)
            token = said.get("token") or said["access_token"]
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, repository) from None
        except (ValueError, LookupError, AttributeError):
            raise BuildError(f"{self.address.host}: its token service gives no token") from None
        return f"Bearer {token}"

    def _refusal(self, error: urllib.error.HTTPError, repository: str) -> BuildError:
        """What an answer that refuses means."""
        host = self.address.host
        if error.code == http.client.NOT_FOUND:
            return _AbsentError(f"{self._at(repository)}: not there")
        if error.code in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            user = self.login.user if self.login else ""
            who = f"the login of {user!r}" if user else "the login" if self.login else "no login"
            said = "refuses" if self.login else "wants one, and there is"
            return BuildError(
                f"{self._at(repository)}: unauthorised: the registry {said} {who}",
                hint=login_hint(host),
            )
        hint = ""
        if error.code == http.client.BAD_REQUEST and self.address.plain:
            hint = "it may speak HTTPS only: leave http:// out"
        kind = UnreachableError if error.code in _PASSING else BuildError
        return kind(f"{host} answers {error.code} {error.reason}", hint=hint)

    def _unreachable(self, reason: object) -> BuildError:
        host = self.address.host
        if isinstance(reason, ssl.SSLCertVerificationError):
            if reason.verify_code in _UNKNOWN_CA:
                return unknown_ca(host)
            return BuildError(f"{host}: bad certificate: {reason.verify_message}")
        if isinstance(reason, ssl.SSLError) and "WRONG_VERSION" in str(reason):
            mirror = f"`insecure = true` in registries.conf, in the [[registry.mirror]] {host}"
            how = f"--registry http://{host}" if self.address.given else mirror
            hint = f"where that is meant: {how}"
            return BuildError(f"{host} speaks HTTP without TLS", hint=hint)
        told = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
        return UnreachableError(f"no registry answers at {host}: {told}")


class _AbsentError(BuildError):
    """404: what was asked for is not there."""


class UnreachableError(BuildError):
    """No answer, or none of use; it may be another one in a moment."""


def login_hint(host: str) -> str:
    """How to log in, with whatever tool is there."""
    return (
        f"log in with `docker login {host}`, `podman login {host}` "
        f"or `apptainer registry login --username NAME docker://{host}`"
    )


def unknown_ca(host: str, hint: str = "") -> BuildError:
    """A certificate that nobody vouches for here."""
    return BuildError(
        f"{host}: its certificate is of an authority that is unknown here",
        hint=hint or "name the file of its CA in SSL_CERT_FILE",
    )


def _for_us(index: Mapping[str, Any]) -> str:
    """The digest that an index has for x86-64 Linux; raises LookupError where it has none."""
    ours = {"architecture": "amd64", "os": "linux"}
    for entry in index["manifests"]:
        if ours.items() <= (entry.get("platform") or {}).items():
            return Descriptor.model_validate(entry).digest
    raise LookupError


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

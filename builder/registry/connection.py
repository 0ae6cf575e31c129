"""One registry over HTTP: who we are to it, and what its refusals mean."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from builder.errors import BuildError
from builder.registry import trust
from builder.registry.address import Address
from builder.registry.credentials import Login

_SECONDS = 30.0  # without a byte
_STORING = 600.0  # until a registry has put away what it was given
_PASSING = {429, 500, 502, 503, 504}  # HTTP status codes that may be others in a moment
# X509_V_ERR_*: the chain ends in an authority that is not known here.
_UNKNOWN_CA = {2, 18, 19, 20, 21}


class Connection:
    """Asks with a login where one is wanted. Raises BuildError, in one line and with what to do."""

    def __init__(
        self, address: Address, ca: Path | None, login: Login | None, actions: str
    ) -> None:
        self._address = address
        self._login = login
        self._actions = actions  # what a token is asked for
        self._authorization = ""
        handlers: list[urllib.request.BaseHandler] = []
        if not address.plain:
            handlers.append(urllib.request.HTTPSHandler(context=trust.context(address.host, ca)))
        if address.is_loopback:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def open(
        self,
        repository: str,
        path: str,
        method: str,
        *,
        headers: Mapping[str, str],
        data: bytes | BinaryIO | None = None,
    ) -> http.client.HTTPResponse:
        """Ask, once more with a login where the registry wants one; raises AbsentError for 404.

        `path` is below the repository, or where a registry's own answer said.
        """
        url = urllib.parse.urljoin(f"{self._address.url}{repository}/", path)
        own = urllib.parse.urlsplit(url).netloc == urllib.parse.urlsplit(self._address.url).netloc
        for last in (False, True):
            if data is not None and not isinstance(data, bytes):
                data.seek(0)
            request = urllib.request.Request(  # noqa: S310 - http or https, by Address
                url, method=method, headers=dict(headers), data=data
            )
            if self._authorization and own:
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
            seconds = _STORING if request.get_method() == "PUT" else _SECONDS
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=seconds)
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
            return self._login.basic if self._login else ""
        values = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = values.get("realm", "")
        if scheme.lower() != "bearer" or not realm:
            return ""
        if not realm.startswith(("https://", "http://") if self._address.plain else "https://"):
            raise BuildError(f"{self._address.host} asks for a login without TLS")
        asked = {"scope": f"repository:{repository}:{self._actions}"}
        if service := values.get("service"):
            asked["service"] = service
        headers, data = {}, None
        if self._login and self._login.identity_token:
            asked |= {"grant_type": "refresh_token", "client_id": "imgbuild"}
            asked["refresh_token"] = self._login.identity_token
            data = urllib.parse.urlencode(asked).encode()
        else:
            realm += ("&" if "?" in realm else "?") + urllib.parse.urlencode(asked)
            headers = {"Authorization": self._login.basic} if self._login else {}
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
            raise BuildError(f"{self._address.host}: its token service gives no token") from None
        return f"Bearer {token}"

    def _refusal(self, error: urllib.error.HTTPError, repository: str) -> BuildError:
        """What an answer that refuses means."""
        host = self._address.host
        if error.code == http.client.NOT_FOUND:
            return AbsentError(f"{self._address.at(repository)}: not there")
        if error.code in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            user = self._login.user if self._login else ""
            who = f"the login of {user!r}" if user else "the login" if self._login else "no login"
            said = "refuses" if self._login else "wants one, and there is"
            return BuildError(
                f"{self._address.at(repository)}: unauthorised: the registry {said} {who}",
                hint=login_hint(host),
            )
        hint = ""
        if error.code == http.client.BAD_REQUEST and self._address.plain:
            hint = "it may speak HTTPS only: leave http:// out"
        kind = UnreachableError if error.code in _PASSING else BuildError
        return kind(f"{host} answers {error.code} {error.reason}", hint=hint)

    def _unreachable(self, reason: object) -> BuildError:
        host = self._address.host
        if isinstance(reason, ssl.SSLCertVerificationError):
            if reason.verify_code in _UNKNOWN_CA:
                return unknown_ca(host)
            return BuildError(f"{host}: bad certificate: {reason.verify_message}")
        if isinstance(reason, ssl.SSLError) and "WRONG_VERSION" in str(reason):
            mirror = f"`insecure = true` in registries.conf, in the [[registry.mirror]] {host}"
            how = f"--registry http://{host}" if self._address.given else mirror
            hint = f"where that is meant: {how}"
            return BuildError(f"{host} speaks HTTP without TLS", hint=hint)
        told = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
        return UnreachableError(f"no registry answers at {host}: {told}")


class AbsentError(BuildError):
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

"""Where on which registry: what --registry says, or a reference."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from builder.engines.registry import host_of
from builder.errors import UserError

# https://pkg.go.dev/github.com/distribution/reference
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\]"
_ADDRESS = re.compile(rf"(?:(https?)://)?((?:{_HOST})(?::([0-9]{{1,9}}))?)((?:/{_PART})*)/?")
_LONGEST = 253  # characters of a host's name; https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4


@dataclass(frozen=True, kw_only=True)
class Address:
    """A registry, and the path on it that repositories are below."""

    host: str  # with the port, as the user wrote it
    path: str  # "" or "lab/images"
    plain: bool  # HTTP without TLS
    given: bool = False  # by --registry; else a site's file or matrix.yaml named it

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read "[http://]host[:port][/path]"; raises UserError."""
        if "@" in text:  # not shown: there may be a password in it
            raise UserError(
                "--registry: a login does not belong there", hint="`docker login` keeps it"
            )
        found = _ADDRESS.fullmatch(text)
        host = found[2] if found else ""
        named = "." in host or ":" in host or host == "localhost"
        if not found or not named or not _is_host(host):
            raise UserError(
                f"--registry: {text!r} names no registry",
                hint="give HOST[:PORT][/PATH], as registry.example.org/lab",
            )
        if found[3] and not 0 < int(found[3]) < 1 << 16:
            raise UserError(f"--registry: no port {found[3]}", hint="a port is 1 to 65535")
        path, plain = found[4].strip("/"), found[1] == "http"
        return cls(host=host, path=path, plain=plain, given=True)

    def repository(self, name: str) -> str:
        """The repository of that name, without the host."""
        return f"{self.path}/{name}" if self.path else name

    def reference(self, name: str) -> str:
        """The repository of that name as engines take it, without tag and digest."""
        return self.at(self.repository(name))

    def at(self, repository: str) -> str:
        """A repository on this host, whatever path is given."""
        return f"{self.host}/{repository}"

    @property
    def url(self) -> str:
        """The root of the registry's API."""
        scheme = "http" if self.plain else "https"
        return f"{scheme}://{host_of(self.host + '/')}/v2/"

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, which no proxy reaches."""
        name = re.sub(r":\d+$", "", self.host).strip("[]")
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"


def _is_host(host: str) -> bool:
    """Whether what looks like a host, with or without a port, can be one."""
    if not host.startswith("["):
        return len(host.partition(":")[0]) <= _LONGEST
    try:
        ipaddress.IPv6Address(host[1:].partition("]")[0])
    except ValueError:
        return False
    return True

"""A Gateway by which the server is reached from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder.deploy import checked
from builder.errors import UserError

_MOST_HOSTNAMES = 16  # of an HTTPRoute


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A Gateway that is there, and the hosts that lead to this server."""

    name: str
    namespace: str | None
    hostnames: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, hostnames: Sequence[str]) -> Gateway:
        """`[NAMESPACE/]NAME`, and hosts whose first part may be `*`."""
        checked.unique(hostnames, "--hostname")
        if len(hostnames) > _MOST_HOSTNAMES:
            raise UserError(f"--hostname: an HTTPRoute has no more than {_MOST_HOSTNAMES}")
        where, slash, named = text.partition("/")
        return cls(
            name=checked.object_name(named if slash else where, "--gateway"),
            namespace=checked.namespace(where, "--gateway") if slash else None,
            hostnames=tuple(checked.hostname(text, "--hostname") for text in hostnames),
        )

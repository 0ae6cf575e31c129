"""Registries, asked without an engine."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

from builder.errors import BuildError

_SECONDS = 5.0


HUB = "docker.io"


def split(reference: str) -> tuple[str, str]:
    """The registry of an image reference, and what is on it; none named is Docker Hub."""
    first, slash, rest = reference.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return (first, rest) if named else (HUB, reference)


def host_of(reference: str) -> str:
    """The host that serves an image reference; Docker Hub's API has a name of its own."""
    host, _ = split(reference)
    return "registry-1.docker.io" if host == HUB else host


def reach(reference: str) -> None:
    """Raise BuildError unless the registry of `reference` answers; any answer of it will do."""
    url = f"https://{host_of(reference)}/v2/"
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS):
            return
    except urllib.error.HTTPError:
        return  # "401 Unauthorized" is how most greet
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise BuildError(f"no registry answers at {host_of(reference)}: {reason}") from None

"""Image of an engine -> registry, under all its tags."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from builder.engines.base import Image, Progress, Publisher
from builder.errors import BuildError
from builder.naming import Naming
from builder.registry.client import Manifest, Registry
from builder.registry.connection import unknown_ca

_UNKNOWN_CA = re.compile(r"x509|certificate signed by unknown authority")
_UNAUTHORISED = re.compile(
    r"unauthorized|authentication required|access denied|no basic auth|access forbidden",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A name that a registry has now."""

    reference: str  # "host/path/name:tag@sha256:..."
    changed: bool


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A cell's image on a registry."""

    cell_id: str
    engine: str
    digest: str
    tags: tuple[Tag, ...]
    seconds: float


def push(
    engine: Publisher,
    image: Image,
    naming: Naming,
    registry: Registry,
    progress: Progress,
) -> Pushed:
    """Push one image under its content's name, then give it the others.

    An image that the registry has already is not sent again. Raises BuildError, in one line where
    the reason is known.
    """
    start, address = time.monotonic(), registry.address
    name, repository = address.reference(naming.repository), address.repository(naming.repository)
    progress.step(f"asking {address.host}")
    content = naming.content_reference.rpartition(":")[2]
    there = registry.find(repository, content)
    sent = there is None or engine.identity(image) not in (there.digest, there.config.digest)
    if there is None or sent:
        progress.step(f"pushing {name}:{content}")
        there = _send(engine, image, f"{name}:{content}", registry, progress)
    tags = {content: sent}
    for tag in _tags(engine, image, naming):
        if tag not in tags:
            tags[tag] = registry.digest(repository, tag) != there.digest
            if tags[tag]:
                progress.step(f"naming {name}:{tag}")
                registry.put(repository, tag, there)
    return Pushed(
        cell_id=naming.cell_id,
        engine=engine.name,
        digest=there.digest,
        tags=tuple(
            Tag(reference=f"{name}:{tag}@{there.digest}", changed=changed)
            for tag, changed in tags.items()
        ),
        seconds=round(time.monotonic() - start, 2),
    )


def _send(
    engine: Publisher, image: Image, target: str, registry: Registry, progress: Progress
) -> Manifest:
    """Let the engine push, and see that the registry has what the engine says it sent."""
    host = registry.address.host
    try:
        digest = engine.push(image, target, registry.remote, progress.line)
    except BuildError as error:
        raise _told(error, engine.name, host) from None
    stem, _, tag = target.rpartition(":")
    repository = stem.removeprefix(f"{host}/")
    if (found := registry.digest(repository, tag)) != digest:
        raise BuildError(f"{engine.name} pushed {target} as {digest}, but the registry has {found}")
    return registry.manifest(repository, digest)


def _tags(engine: Publisher, image: Image, naming: Naming) -> list[str]:
    """The cell's own tags, and those that the user gave this image in the cell's repository."""
    own = [reference.rpartition(":")[2] for reference in naming.references]
    borne = [name.rpartition(":")[::2] for name in engine.names(image)]
    return own + sorted(tag for stem, tag in borne if stem == naming.repository)


def _told(error: BuildError, engine: str, host: str) -> BuildError:
    """An engine's complaint in one line, where it is one that we know."""
    said = "\n".join(error.tail)
    if _UNKNOWN_CA.search(said):
        file = f"/etc/{'docker' if engine == 'docker' else 'containers'}/certs.d/{host}/ca.crt"
        return unknown_ca(host, hint=f"{engine} looks for its CA in {file}")
    if _UNAUTHORISED.search(said):
        program = "docker" if engine == "docker" else "podman"
        return BuildError(
            f"{host}: unauthorised: {engine} has no login for it, or one that it refuses",
            hint=f"`{program} login {host}` keeps one",
        )
    return error

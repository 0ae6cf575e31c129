"""containers-registries.conf(5): where this site keeps copies of other registries' images.

Buildah and Podman read that file themselves; Docker knows mirrors of Docker Hub, Apptainer none.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Mirror:
    """A copy of an image: its reference there, and whether that registry has no TLS to trust."""

    reference: str
    insecure: bool


@dataclass(frozen=True)
class Registry:
    """One `[[registry]]`: what it is for, and where else that is."""

    prefix: str
    mirrors: tuple[Mirror, ...]  # `reference` is what stands in the prefix's place

    def copies(self, reference: str) -> tuple[Mirror, ...]:
        """The copies of `reference`, or () where this registry is not for it."""
        rest = reference.removeprefix(self.prefix)
        if rest == reference or (rest and rest[0] not in "/:@"):
            return ()
        return tuple(Mirror(mirror.reference + rest, mirror.insecure) for mirror in self.mirrors)


def read(env: Mapping[str, str], root: Path, home: Path) -> tuple[Registry, ...]:
    """What the host's files say, the longest prefix first; files that are no TOML say nothing."""
    found = [registry for file in _files(env, root, home) for registry in _registries(file)]
    return tuple(sorted(found, key=lambda registry: len(registry.prefix), reverse=True))


def _files(env: Mapping[str, str], root: Path, home: Path) -> Iterator[Path]:
    if given := env.get("CONTAINERS_REGISTRIES_CONF"):
        yield Path(given)
        return
    own = home / ".config/containers"
    folder = own if (own / "registries.conf").is_file() else root / "etc/containers"
    yield folder / "registries.conf"
    yield from sorted((folder / "registries.conf.d").glob("*.conf"))


def _registries(file: Path) -> Iterator[Registry]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8")).get("registry", [])
    except (OSError, ValueError):
        return
    for table in tables if isinstance(tables, list) else []:
        location = str(table.get("location", ""))
        prefix = str(table.get("prefix", location))
        places = [place for place in table.get("mirror", []) if place.get("location")]
        if location and location != prefix:  # the registry itself has moved
            places.append(table)
        if prefix and places:
            yield Registry(prefix, tuple(map(_mirror, places)))


def _mirror(table: Mapping[str, Any]) -> Mirror:
    return Mirror(str(table["location"]), table.get("insecure") is True)

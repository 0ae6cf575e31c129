"""All that was read, summed by layer, package, kind and library; as plain data for JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from builder.facts import GpuCodeException
from builder.inspect import coverage, overlay, squeeze
from builder.inspect.coverage import Library, is_gpu
from builder.inspect.packages import Owners, Package
from builder.inspect.sources import Contents
from builder.inspect.stored import Layer, Stored

Report = dict[str, Any]


def report(
    contents: Contents, sms: Sequence[int] = (), exceptions: Sequence[GpuCodeException] = ()
) -> Report:
    """What is where, in bytes, the largest first; and what the GPUs `sms` (90 for 9.0) find.

    Packages, kinds and libraries are of the files that a container sees; layers are as they are
    stored, and say how much of them nobody sees. `exceptions` excuse libraries without code.
    """
    seen = overlay.visible(contents.layers)
    owners = Owners(seen, contents.name)
    # A file with several names counts once, by the first that is seen.
    files = list({id(stored): (path, stored) for path, stored in reversed(seen.items())}.values())
    shown = {id(stored) for _, stored in files}
    kinds: Counter[str] = Counter()
    packages: defaultdict[Package, list[Stored]] = defaultdict(list)
    libraries = []
    for path, stored in files:
        kinds.update(stored.kinds)
        package = owners.of(path)
        packages[package].append(stored)
        if stored.containers or stored.frames:
            libraries.append(coverage.library(stored, path, package.name, sms))
    size = sum(stored.size for _, stored in files)
    return {
        "name": contents.name,
        "kind": contents.kind,
        "size": size,
        "files": len(files),
        "compressed": _compressed(contents, kinds),
        "hidden": sum(_hidden(layer, shown) for layer in contents.layers),
        "layers": [_layer(layer, shown) for layer in contents.layers],
        "kinds": [
            {"kind": kind, "size": size, "compressed": contents.squeeze.estimate({kind: size})}
            for kind, size in _largest(kinds)
        ],
        "packages": _packages(packages, contents),
        "duplicates": _duplicates(contents.layers, shown),
        "refused": [
            {"path": path, "why": stored.refused}
            for path, stored in sorted(files, key=lambda one: one[0])
            if stored.refused
        ],
        "gpu": {
            "size": sum(size for kind, size in kinds.items() if is_gpu(kind)),
            "sms": list(sms),
            "libraries": [_library(one) for one in _by_code(libraries)],
            "failing": {str(sm): _failing(libraries, sm, exceptions) for sm in sms},
            "lacking": {str(sm): _lacking(libraries, sm, exceptions) for sm in sms},
            "unread": {str(sm): _unread(files, sm, exceptions) for sm in sms},
            "excused": [
                {"path": one.path, "sm": sm, "why": row.why, "source": row.source}
                for sm in sms
                for one in _without(libraries, sm)
                if (row := coverage.excuse(one.path, sm, exceptions))
            ],
        },
    }


def failing(found: Report) -> dict[int, list[str]]:
    """SM -> paths of libraries with GPU code, and none of it for that SM; no row for other SMs."""
    return _asked(found, "failing")


def lacking(found: Report) -> dict[int, list[str]]:
    """SM -> paths of libraries that have code for it, but not in each container and frame."""
    return _asked(found, "lacking")


def unread(found: Report) -> list[str]:
    """Paths of files that cannot be read and hold GPU code, for whichever SM was asked."""
    return sorted({path for paths in found["gpu"]["unread"].values() for path in paths})


def _asked(found: Report, key: str) -> dict[int, list[str]]:
    rows: dict[str, list[str]] = found["gpu"][key]
    return {int(sm): paths for sm, paths in rows.items() if paths}


def _without(libraries: Iterable[Library], sm: int) -> list[Library]:
    return sorted((one for one in libraries if sm in one.fails), key=lambda one: one.path)


def _failing(
    libraries: Iterable[Library], sm: int, exceptions: Sequence[GpuCodeException]
) -> list[str]:
    without = [one.path for one in _without(libraries, sm)]
    return [path for path in without if not coverage.excuse(path, sm, exceptions)]


def _lacking(
    libraries: Iterable[Library], sm: int, exceptions: Sequence[GpuCodeException]
) -> list[str]:
    """Those whose code for other GPUs alone is largest come first."""
    some = [one for one in libraries if sm in one.lacks]
    return [
        one.path
        for one in sorted(some, key=lambda one: (-one.uncovered[sm].size, one.path))
        if not coverage.excuse(one.path, sm, exceptions)
    ]


def _unread(
    files: Iterable[tuple[str, Stored]], sm: int, exceptions: Sequence[GpuCodeException]
) -> list[str]:
    paths = sorted(path for path, stored in files if stored.unread)
    return [path for path in paths if not coverage.excuse(path, sm, exceptions)]


def _largest(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _by_code(libraries: Iterable[Library]) -> list[Library]:
    return sorted(libraries, key=lambda one: (-sum(one.code.values()), one.path))


def _library(one: Library) -> Report:
    row = dataclasses.asdict(one)
    row["uncovered"] = {str(sm): gap for sm, gap in row["uncovered"].items()}
    return row


def _compressed(contents: Contents, kinds: Counter[str]) -> Report:
    """What travels: as stored where layers are compressed, else an estimate that says so."""
    estimate = contents.squeeze.estimate(kinds)
    stored = [layer.stored for layer in contents.layers if layer.compressed]
    real = len(stored) == len(contents.layers) and all(size is not None for size in stored)
    return {
        "stored": sum(size or 0 for size in stored) if real else None,
        "estimate": estimate,
        "how": squeeze.HOW,
    }


def _hidden(layer: Layer, shown: set[int]) -> int:
    return sum(stored.size for stored in layer.tree.files if id(stored) not in shown)


def _layer(layer: Layer, shown: set[int]) -> Report:
    return {
        "digest": layer.digest,
        "name": layer.name,
        "created_by": layer.created_by,
        "stored": layer.stored,
        "compressed": layer.compressed,
        "unpacked": layer.unpacked,
        "size": sum(stored.size for stored in layer.tree.files),
        "files": len(layer.tree.files),
        "hidden": _hidden(layer, shown),
        "whiteouts": len(layer.tree.gone) + len(layer.tree.emptied),
    }


def _packages(packages: dict[Package, list[Stored]], contents: Contents) -> list[Report]:
    rows = []
    for package, files in packages.items():
        kinds: Counter[str] = Counter()
        for stored in files:
            kinds.update(stored.kinds)
        rows.append(
            {
                "name": package.name,
                "version": package.version,
                "source": package.source,
                "size": kinds.total(),
                "compressed": contents.squeeze.estimate(kinds),
                "files": len(files),
                "gpu": sum(size for kind, size in kinds.items() if is_gpu(kind)),
                "kinds": dict(_largest(kinds)),
            }
        )
    return sorted(rows, key=lambda row: (-row["size"], row["source"], row["name"]))


def _duplicates(layers: Iterable[Layer], shown: set[int]) -> list[Report]:
    """Equal contents that are stored more than once; hard links are stored once."""
    same: defaultdict[bytes, list[Stored]] = defaultdict(list)
    for layer in layers:
        for stored in layer.tree.files:
            if stored.digest:
                same[stored.digest].append(stored)
    rows = [
        {
            "size": copies[0].size,
            "copies": len(copies),
            "wasted": copies[0].size * (len(copies) - 1),
            "paths": [stored.names[0] for stored in copies],
            "hidden": sum(id(stored) not in shown for stored in copies),
        }
        for copies in same.values()
        if len(copies) > 1
    ]
    return sorted(rows, key=lambda row: (-row["wasted"], row["paths"]))

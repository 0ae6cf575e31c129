"""What of the layers a container sees: whiteouts, and files that a higher layer has again.

Source: OCI image specification, "Image Layer Filesystem Changeset".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

from builder.inspect.stored import Layer, Stored


def visible(layers: Iterable[Layer]) -> dict[str, Stored]:
    """Path -> the file that is there, with all layers on one another."""
    seen: dict[str, Stored] = {}
    for layer in layers:
        tree = layer.tree
        own = {name: stored for stored in tree.files for name in stored.names}
        if seen:
            # What stands where a folder stood hides all of it, a folder hides what was no folder.
            ends = tree.gone | tree.links | own.keys()
            seen = {
                path: stored
                for path, stored in seen.items()
                if path not in ends
                and path not in tree.folders
                and not _below(path, ends, tree.emptied)
            }
        seen.update(own)
    return seen


def _below(path: str, *folders: Set[str]) -> bool:
    return any(parent in each for parent in _parents(path) for each in folders)


def _parents(path: str) -> Iterator[str]:
    """The folders that a path is in, the root as ""."""
    while path:
        path = path.rpartition("/")[0]
        yield path

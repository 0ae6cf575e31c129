"""What is known of a file once its bytes have gone by: nothing of them is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from builder.runtime.slim.fatbin import Container

FILE, FOLDER, LINK, HARD = "file", "folder", "link", "hard link"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One name in a tree, as its source tells it. `content` is read before the next item comes."""

    path: str  # below the root, without "/" at either end
    type: str = FILE  # FILE, FOLDER, HARD, or LINK for everything else that has no bytes
    size: int = 0  # bytes
    target: str = ""  # of a hard link: the path of the file that it names
    content: IO[bytes] | None = None
    disk: Path | None = None  # where it lies, if it can be opened there

    def __post_init__(self) -> None:
        assert self.type != FILE or self.content or self.disk, self.path  # noqa: S101


Items = Iterator[Item]
OnFile = Callable[[int, int], None]  # hears how many files have been read, and their bytes


class Share(NamedTuple):
    """What is alike in a file: how many, and the bytes of all of them."""

    number: int
    size: int


@dataclass(slots=True)
class Stored:
    """A regular file as one layer stores it; several names are hard links."""

    names: list[str]
    size: int  # bytes
    kinds: dict[str, int]  # kind -> bytes; together they are `size`
    digest: bytes = b""  # SHA-256 of the content, of files that are large enough to be compared
    text: bytes = b""  # the content, of the few files that say what belongs to which package
    # Of GPU code: what containers hold, and those that hold just that.
    containers: Mapping[Container, Share] = field(default_factory=dict)
    frames: Mapping[int, Share] = field(default_factory=dict)  # in none: SM -> zstd frames
    refused: str = ""  # why its headers could not be read
    unread: bool = False  # whether GPU code stands in what was refused


@dataclass(slots=True)
class Tree:
    """All names of one layer."""

    files: list[Stored] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)  # paths of lower layers that it deletes
    emptied: set[str] = field(default_factory=set)  # folders of which nothing lower stays


@dataclass(slots=True)
class Layer:
    """A tree and how it came into the image."""

    tree: Tree
    digest: str = ""  # of what is stored, as "sha256:..."; "" where nothing names it
    created_by: str = ""
    name: str = ""  # imgbuild's own, as "torch"
    stored: int | None = None  # bytes in the archive; None: it is no archive
    compressed: bool = False  # whether `stored` is compressed
    unpacked: int | None = None  # bytes of the tar

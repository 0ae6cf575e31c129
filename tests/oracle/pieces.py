"""What the slimmer would write, put together apart from its own writing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.runtime.slim.layout import Piece


def joined(data: bytes, pieces: Iterable[Piece]) -> bytes:
    """Pieces of a file of `data`: so many zeros, new bytes, or a span of the old ones."""
    out = bytearray()
    for piece in pieces:
        if isinstance(piece, int):
            out += bytes(piece)
        else:
            out += piece if isinstance(piece, bytes) else data[piece[0] : piece[1]]
    return bytes(out)

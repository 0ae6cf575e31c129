"""What a new file is made of, and where what stood in the old one stands in it."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence, Tuple, Union

    # Bytes; a span of the old file; a number of zeros.
    Piece = Union[bytes, Tuple[int, int], int]  # noqa: UP007 - Python 3.9


class Hole(NamedTuple):
    """Whole pages of zeros, as offsets in the old file, that leave the file."""

    at: int
    end: int
    headers: int  # program headers that it costs: 0 between segments


def size_of(piece: Piece) -> int:
    """Bytes that it takes."""
    if isinstance(piece, int):
        return piece
    return piece[1] - piece[0] if isinstance(piece, tuple) else len(piece)


class Offsets:
    """Old offsets to new ones."""

    def __init__(self, holes: Sequence[Hole]) -> None:
        self._ends = [one.end for one in holes]
        self._holes = holes
        self._gone = [0]
        for one in holes:
            self._gone.append(self._gone[-1] + one.end - one.at)

    def __call__(self, offset: int) -> int:
        index = bisect_right(self._ends, offset)
        if index < len(self._holes) and self._holes[index].at < offset:
            offset = self._holes[index].at
        return offset - self._gone[index]

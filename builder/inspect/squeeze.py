"""How small things would be: zlib on a part of them, since all of an image would take minutes."""

from __future__ import annotations

import zlib

LEVEL = 6  # docker's and gzip's own default
EACH = 16  # one block of so many is compressed
BLOCK = 1 << 16  # bytes
HOW = f"estimated: zlib {LEVEL} on every {EACH}th block of {BLOCK >> 10} KiB of each kind"


class _Kind:
    def __init__(self) -> None:
        self.coder = zlib.compressobj(LEVEL)
        self.seen = self.fed = self.out = 0


class Squeeze:
    """Estimates by kind; what is offered in the same order gives the same."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._ratios: dict[str, float] = {}

    def offer(self, kind: str, data: memoryview | bytes) -> None:
        """Bytes of that kind; most of them are only counted."""
        one = self._kinds.setdefault(kind, _Kind())
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK]
            if one.fed * EACH <= one.seen:
                one.out += len(one.coder.compress(block))
                one.fed += len(block)
            one.seen += len(block)

    def ratio(self, kind: str) -> float:
        """What remains of a byte; to be asked when all has been offered."""
        if kind not in self._ratios:
            one = self._kinds.get(kind)
            out = one.out + len(one.coder.flush()) if one else 0
            self._ratios[kind] = min(out / one.fed, 1.0) if one and one.fed else 1.0
        return self._ratios[kind]

    def estimate(self, kinds: dict[str, int]) -> int:
        """Bytes that so many of each kind would be."""
        return round(sum(size * self.ratio(kind) for kind, size in kinds.items()))

"""Whole numbers and lists of them, as the kernel and nvidia-smi write them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List, Set

_MOST = 1 << 16  # CPUs; the kernel's own limit is 8192


def number(text: str) -> int | None:
    """A whole number that is not negative, None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def numbers(text: str) -> List[int]:
    """ "0-3,8" -> [0, 1, 2, 3, 8], as the kernel writes lists of CPUs; [] for what is none."""
    found: Set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        start, end = number(first.strip()), number((last or first).strip())
        if start is None or end is None or not start <= end < _MOST:
            return []
        found.update(range(start, end + 1))
    return sorted(found)


def capability(text: str | None) -> str | None:
    """A compute capability as "9.0", None for any other text."""
    parts = (text or "").split(".")
    return text if len(parts) == 2 and None not in map(number, parts) else None


def spelled(values: Iterable[int]) -> str:
    """[0, 1, 2, 8] -> "0-2,8"."""
    spans: List[List[int]] = []
    for value in sorted(set(values)):
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in spans)

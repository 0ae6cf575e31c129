"""Padded lengths: a compiler sees a few shapes, not one for every length of prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

SMALLEST = 128  # tokens
LARGEST_CHUNK = 512  # tokens a prompt is read in at once, which bounds the attention scores


def bucket(length: int) -> int:
    """The power of two, not below SMALLEST, that holds `length` tokens."""
    return max(SMALLEST, 1 << (length - 1).bit_length())


def chunks(prompt: Sequence[int]) -> Iterator[tuple[int, list[int], int]]:
    """A prompt as (start, padded tokens, how many of them are real).

    In a cache of bucket(len(prompt)) or more, no chunk reaches beyond the end.
    """
    for start in range(0, len(prompt), LARGEST_CHUNK):
        real = list(prompt[start : start + LARGEST_CHUNK])
        yield start, real + [0] * (bucket(len(real)) - len(real)), len(real)

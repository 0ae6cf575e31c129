"""Instructions that form an address out of bits that they hold: MOV with 64, LEA with 32.

Source: Intel's manual, volume 2: no instruction but MOV (REX.W + B8+rd io) has 64 bits of an
immediate; LEA (REX.W + 8D /r) is what forms an address from 32 and the instruction's own. Any bytes
that look like one count as one, as nothing says where instructions begin.
"""

from __future__ import annotations

import re

from . import elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, Iterator, Sequence, Set, Tuple

_MOVE = rb"[\x48\x49][\xb8-\xbf]"  # REX.W and the register; then come the 64 bits
_LEA = rb"\x8d(?<=[\x48\x4c]\x8d)[\x05\x0d\x15\x1d\x25\x2d\x35\x3d]"
_BITS = 24  # of a value, below the byte by which most of what is no address is passed over


def moves(data: bytes, code: elf.Section, spans: Sequence[range]) -> Iterator[Tuple[int, int]]:
    """Where 64 bits stand in the file that a MOV holds, and their value, if one of these.

    `spans` are of signed values.
    """
    words: Dict[int, Set[int]] = {}  # what the upper byte of the lower 32 bits may be, by the rest
    for top in _tops(spans):
        words.setdefault(top >> 8, set()).add(top & 0xFF)
    for word, tops in words.items():
        # The upper half, which is mostly zeros, is what a scan goes by: it is rarer than REX.
        half = re.escape((word & 0xFFFFFFFF).to_bytes(4, "little"))
        pattern = re.compile(half + b"(?<=" + _MOVE + b".{3}" + _any(tops) + half + b")", re.DOTALL)
        found = pattern.search(data, code.offset, code.end)
        while found:
            at = found.end() - 8
            value = int.from_bytes(data[at : at + 8], "little", signed=True)
            if at - 2 >= code.offset and any(value in span for span in spans):
                yield at, value
            # Two of them may share bytes.
            found = pattern.search(data, found.start() + 1, code.end)


def leas(data: bytes, code: elf.Section, spans: Sequence[range]) -> Iterator[int]:
    """The addresses within one of `spans` that a LEA forms."""
    ends = range(code.addr, code.addr + code.size + 1)  # of the instruction
    away = [range(one.start - ends[-1], one.stop - ends[0]) for one in spans if one]
    tops = {top & 0xFF for top in _tops(away) if -0x80 <= top < 0x80}
    if not tops:
        return
    pattern = re.compile(_LEA + b"(?=.{3}" + _any(tops) + b")", re.DOTALL)
    for found in pattern.finditer(data, code.offset + 1, code.end):
        end = found.end() + 4
        value = int.from_bytes(data[found.end() : end], "little", signed=True)
        address = end - code.offset + code.addr + value
        if any(address in span for span in spans):
            yield address


def _tops(spans: Iterable[range]) -> Iterator[int]:
    """What values may be without their lower bits."""
    for span in spans:
        if span:
            yield from range(span[0] >> _BITS, (span[-1] >> _BITS) + 1)


def _any(values: Iterable[int]) -> bytes:
    """A pattern for one of these bytes."""
    return b"[" + b"".join(b"\\x%02x" % value for value in sorted(values)) + b"]"

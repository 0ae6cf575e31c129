"""Containers of GPU code: where they stand in a file, and what each holds.

The format is not published. What is read here was measured on wheels of CUDA 11.8 to 13 and agrees
with what NVIDIA's cuobjdump 13.5 lists. Little endian. A container: u32 magic, u16 version 1, u16
header size 16, u64 size of what follows; then entries, back to back. An entry: u16 kind, u16, u32
header size, u64 payload size, u32 compressed size, u32, u16 minor and major version, u32 SM, two
u32, u64 flags at +40; its payload follows its header.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from . import elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Tuple

PTX, CUBIN, LTO = 1, 2, 8
KINDS = {PTX: "ptx", CUBIN: "cubin", LTO: "lto"}
HEADER = 16
_ENTRY = 64  # the shortest header of an entry
_HEAD = struct.Struct("<HHIQ")
_FLAGS = struct.Struct("<Q")
MAGIC = struct.pack("<IHH", 0xBA55ED50, 1, HEADER)
# cuobjdump names as sm_90a what has bit 20. Bit 21 stands where libraries were built for sm_100f
# and sm_120f (CUTLASS kernels of vllm, cudnn's), and those serve sm_103 and sm_121.
_SPECIFIC, _FAMILY = 1 << 20, 1 << 21
# 64-bit, host, compression and debug below; link-time code, and the ABI of sm_100 and newer.
_KNOWN = 0xFFFF | 1 << 16 | 1 << 24 | _SPECIFIC | _FAMILY
_SMS = range(20, 1000)
# Entries that are walked in what turns out to be no container, for each byte of a file: what only
# looks like one comes once in 2^64 by chance, and many of them within each other would take hours.
_ASTRAY = 1 / 16


class Entry(NamedTuple):
    """One compilation of a module."""

    at: int  # bytes from the file's start
    header: int  # bytes
    payload: int  # bytes, as stored
    kind: int
    sm: int  # 90 for 9.0, 103 for 10.3
    variant: str  # "a": this chip only; "f": its family; "" for any
    blank: bool  # whether its payload was zeroed before, or is empty

    @property
    def end(self) -> int:
        """Where it ends in the file."""
        return self.at + self.header + self.payload

    @property
    def name(self) -> str:
        """As reports spell it."""
        return f"sm_{self.sm}{self.variant} {KINDS.get(self.kind, self.kind)}"


class Container(NamedTuple):
    """What a host program registers or loads as one: the driver takes one entry of it."""

    at: int  # bytes from the file's start
    size: int  # of header and entries
    entries: Tuple[Entry, ...]
    strange: str  # what in it is not known, "" if all is

    @property
    def end(self) -> int:
        """Where it ends in the file."""
        return self.at + self.size


def containers(data: bytes, stop: int) -> List[Container]:
    """All in a file's first `stop` bytes (also of an mmap), in order.

    Bytes that only look like one are passed over: its size must fit the file, and its entries must
    fill it exactly. What looks like one within another is that one's payload. Raises Refused for a
    file that is made of what only looks so.
    """
    return list(_containers(data, stop))


def _containers(data: bytes, stop: int) -> Iterator[Container]:
    at = data.find(MAGIC, 0, stop)
    astray, most = [0], 10_000 + stop * _ASTRAY
    while at >= 0:
        one = _container(data, at, stop, astray)
        if one:
            yield one
        elif astray[0] > most:
            raise elf.Refused("too much in it looks like GPU code and is none")
        at = data.find(MAGIC, one.end if one else at + 4, stop)


def _container(data: bytes, at: int, stop: int, astray: List[int]) -> Container | None:
    """What stands there; None, and the entries that it took to see that are counted, if none."""
    if at + HEADER > stop:
        return None
    size = struct.unpack_from("<Q", data, at + 8)[0]
    end = at + HEADER + size
    if end > stop:
        return None
    entries: List[Entry] = []
    strange, place = "", at + HEADER
    while place < end:
        if place + _ENTRY > end:
            astray[0] += len(entries)
            return None
        kind, _, header, payload = _HEAD.unpack_from(data, place)
        if header < _ENTRY or place + header + payload > end:
            astray[0] += len(entries)
            return None
        sm = int.from_bytes(data[place + 28 : place + 32], "little")
        flags = _FLAGS.unpack_from(data, place + 40)[0]
        variant = {0: "", _SPECIFIC: "a", _FAMILY: "f"}.get(flags & (_SPECIFIC | _FAMILY), "?")
        if kind not in KINDS:
            strange = f"an entry of kind {kind}"
        elif flags & ~_KNOWN or variant == "?":
            strange = f"an entry with flags {flags:#x}"
        elif sm not in _SMS:
            strange = f"an entry for sm_{sm}"
        start = place + header
        # Payloads are compressed, ELF or text; few begin with zeros that are not zeroed.
        blank = not any(data[start : start + min(payload, 16)])
        blank = blank and not any(data[start : start + payload].strip(b"\0"))
        entries.append(Entry(place, header, payload, kind, sm, variant, blank))
        place += header + payload
    return Container(at, end - at, tuple(entries), strange)

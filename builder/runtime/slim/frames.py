"""Machine code for GPUs that stands in a library as zstd frames, in no container.

cublasLt 13 has some four hundred in .ldata: each is an ELF file for one SM. A frame's head says no
more than its size, so that it is unpacked up to the ELF header, by the distribution's libzstd.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from . import elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, List, Sequence, Tuple

    from .fatbin import Container

_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
CUDA = 190  # e_machine (EM_CUDA)
# EI_OSABI: cubins up to CUDA 12 have the SM in the flags' lowest byte, newer ones in the second; as
# measured on files whose containers say what they are for.
_SHIFT = {0x33: 0, 0x41: 8}
_SMS = range(30, 200)
_BLOCK = 1 << 18  # bytes: more than a frame's head and its first block
_SIZES = (1 << 20, 1 << 26)  # bytes that are looked through for a frame's end
_MOST_ASTRAY = 10_000  # magic numbers of no cubin; cublasLt 13 has none


class Frame(NamedTuple):
    """One of them."""

    at: int  # bytes from the file's start
    end: int
    sm: int  # 90 for 9.0


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("at", ctypes.c_size_t),
    ]


def found(data: bytes, containers: Sequence[Container], stop: int) -> List[Frame] | None:
    """Those in a file's first `stop` bytes; None: there may be some, and no libzstd is here.

    Raises Refused for a file that is made of what only looks so, and where one has no end before a
    container or the file's: what stands behind its head may be its own.
    """
    places = list(_places(data, containers, stop))
    if not places:
        return []
    library = _library()
    if library is None:
        return None
    frames: List[Frame] = []
    astray = 0
    for at, before in places:
        if frames and at < frames[-1].end:
            continue
        one = _frame(library, data, at, before)
        if one:
            frames.append(one)
            continue
        astray += 1
        if astray > _MOST_ASTRAY:
            raise elf.Refused("too much in it looks like zstd frames of GPU code and is none")
    return frames


def _places(data: bytes, containers: Sequence[Container], stop: int) -> Iterator[Tuple[int, int]]:
    """Where frames may begin, and where they end at the latest."""
    start = 0
    for at, end in [*((one.at, one.end) for one in containers), (stop, stop)]:
        place = data.find(_MAGIC, start, at)
        while place >= 0:
            yield place, at
            place = data.find(_MAGIC, place + len(_MAGIC), at)
        start = end


def _library() -> Any:
    try:
        library = ctypes.CDLL("libzstd.so.1")
        library.ZSTD_createDStream.restype = ctypes.c_void_p
        for name in ("ZSTD_decompressStream", "ZSTD_findFrameCompressedSize"):
            getattr(library, name).restype = ctypes.c_size_t
        library.ZSTD_isError.argtypes = [ctypes.c_size_t]
        library.ZSTD_freeDStream.argtypes = [ctypes.c_void_p]
        library.ZSTD_decompressStream.argtypes = [ctypes.c_void_p] * 3
        library.ZSTD_findFrameCompressedSize.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    except (OSError, AttributeError):
        return None
    return library


def _frame(library: Any, data: bytes, at: int, stop: int) -> Frame | None:
    head = _head(library, bytes(data[at : min(at + _BLOCK, stop)]))
    whole = len(head) == elf.HEADER and elf.is_elf(head)
    if not whole or int.from_bytes(head[18:20], "little") != CUDA or head[7] not in _SHIFT:
        return None
    sm = int.from_bytes(head[48:52], "little") >> _SHIFT[head[7]] & 0xFF
    if sm not in _SMS:
        return None
    for most in _SIZES:
        packed = bytes(data[at : min(at + most, stop)])
        size = library.ZSTD_findFrameCompressedSize(packed, len(packed))
        if not library.ZSTD_isError(size):
            return Frame(at, at + size, sm)
    raise elf.Refused("a zstd frame of GPU code has no end")


def _head(library: Any, packed: bytes) -> bytes:
    """The first bytes of what is packed; fewer than an ELF header where it is no frame."""
    stream = library.ZSTD_createDStream()
    if not stream:
        raise MemoryError
    try:
        out = ctypes.create_string_buffer(elf.HEADER)
        held = ctypes.create_string_buffer(packed, len(packed))
        source = _Buffer(ctypes.addressof(held), len(packed), 0)
        target = _Buffer(ctypes.addressof(out), elf.HEADER, 0)
        while target.at < target.size:
            before = (source.at, target.at)
            left = library.ZSTD_decompressStream(stream, ctypes.byref(target), ctypes.byref(source))
            if library.ZSTD_isError(left) or before == (source.at, target.at):
                break
        return out.raw[: target.at]
    finally:
        library.ZSTD_freeDStream(stream)

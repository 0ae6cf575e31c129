"""zstd by its own library: how layers are compressed, and how anybody's are read."""

from __future__ import annotations

import os
import sys
from typing import IO, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"\x28\xb5\x2f\xfd"
VERSION = zstd.zstd_version  # another one may make other bytes
LEVELS = (1, 22)
ZstdError = zstd.ZstdError

# `zstd --long=27`: what is 128 MiB back is found again. Levels below have 4 MiB at most, and are
# taken for their speed. No wider one: libzstd reads no more unless it is told to
# (ZSTD_WINDOWLOG_LIMIT_DEFAULT in zstd.h, which `zstd -d` obeys). containerd, Docker, Podman,
# Buildah, Skopeo and Apptainer decode with klauspost/compress, which reads 512 MiB unless it is
# told otherwise (MaxWindowSize in its zstd/framedec.go).
LONG_FROM = 16
_WINDOW_LOG = 27
_WIDEST_LOG = 29  # of what is read: as wide as those clients read

# Each holds some hundred MB at the highest levels. A host of 192 CPUs has no memory for 192.
_MOST_WORKERS = 16


def compressor(level: int, workers: int | None = None) -> zstd.ZstdCompressor:
    """One frame at a level of 1 to 22, by as many threads as this process may use.

    Its bytes depend on neither the threads nor the pieces that it is fed with. That holds for one
    thread or more: with none libzstd cuts its input otherwise.
    """
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {
        parameter.compression_level: level,
        parameter.nb_workers: workers or min(len(os.sched_getaffinity(0)), _MOST_WORKERS),
    }
    if level >= LONG_FROM:
        options[parameter.window_log] = _WINDOW_LOG
        options[parameter.enable_long_distance_matching] = 1
    return zstd.ZstdCompressor(options=options)


def head(packed: bytes, size: int) -> bytes:
    """The first bytes of what a frame holds; fewer where it is none, or holds or has no more."""
    try:
        return zstd.ZstdDecompressor().decompress(packed, size)
    except ZstdError:
        return b""


def frame_size(packed: bytes) -> int | None:
    """Bytes of the frame that begins there; None where it is none, or does not end there."""
    try:
        return zstd.get_frame_size(packed)
    except ZstdError:
        return None


def reader(stream: IO[bytes]) -> IO[bytes]:
    """What was compressed, of any number of frames; reading raises ZstdError, EOFError."""
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WIDEST_LOG}
    return cast(IO[bytes], zstd.ZstdFile(stream, options=options))

"""Libraries that have GPU code, and none for a GPU: whatever they compute, they cannot there."""

from __future__ import annotations

import contextlib
import mmap
import os
from fnmatch import fnmatchcase

from . import elf, fatbin, frames, targets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, Sequence

HINT = "a row below gpu_code_exceptions: in matrix.yaml excuses it, with its reason"


def wrong(report: Dict[str, Any], excused: Sequence[str]) -> Iterator[str]:
    """A line for each library of a run's report that fails; `excused` are globs of paths' ends.

    What was emptied before fails as it did: its containers are there, and hold nothing.
    """
    for file in report["files"]:
        why = _why(file, report["sms"])
        if why and not any(_named(file["path"], glob) for glob in excused):
            yield f"{file['path']}{_package(file['path'])}: {why}; {HINT}"


def _why(file: Dict[str, Any], sms: Sequence[int]) -> str:
    if file["refused"]:
        told = f"GPU code stands in it, and it cannot be read: {file['refused']}"
        return told if _has_code(file["path"]) else ""
    for sm in sms:
        holding = file["uncovered"].get(str(sm), {})
        if _none(file, sum(holding.values()), sm):
            names = {name for names in holding for name in names.split(", ")}
            names |= set(filter(_packed, file["removed"]))
            return f"no code for sm_{sm}, only {', '.join(sorted(names))}"
    return ""


def _none(file: Dict[str, Any], without: int, sm: int) -> bool:
    """Whether neither its containers nor its frames of zstd have code for an SM."""
    packed = [_packed(name) for name in (*file["kept"], *file["removed"])]
    codes = [code for code in packed if code]
    some = file["containers"] or codes
    return bool(
        some
        and without == file["containers"]
        and not any(targets.may_run(code, sm) for code in codes)
    )


def _packed(name: str) -> int:
    """90 of "sm_90 zstd", as reports name such frames; 0 of other names."""
    sm, _, kind = name.partition(" ")
    return int(sm[3:]) if kind == "zstd" else 0


def _named(path: str, glob: str) -> bool:
    return fnmatchcase(path, glob) or fnmatchcase(path, f"*/{glob}")


def _has_code(path: str) -> bool:
    """Whether a file whose headers cannot be read holds what GPU code begins with."""
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # a wheel's, which lies nowhere
        return True
    try:
        return data.find(fatbin.MAGIC) >= 0 or frames.found(data, (), len(data)) != []  # type: ignore[arg-type]
    except elf.Refused:
        return True
    finally:
        with contextlib.suppress(BufferError):
            data.close()


def _package(path: str) -> str:
    """ " of NAME VERSION", by the RECORD that names a file; "" if none does."""
    folder = os.path.dirname(os.path.abspath(path))
    while folder != os.path.dirname(folder):
        own = f"{os.path.relpath(path, folder)},"
        with contextlib.suppress(OSError):
            for entry in sorted(os.listdir(folder)):
                if entry.endswith(".dist-info") and _records(f"{folder}/{entry}/RECORD", own):
                    name, _, version = entry[: -len(".dist-info")].partition("-")
                    return f" of {name} {version}"
        folder = os.path.dirname(folder)
    return ""


def _records(record: str, own: str) -> bool:
    try:
        with open(record, encoding="utf-8", errors="surrogateescape") as file:
            return any(line.startswith(own) for line in file)
    except OSError:
        return False

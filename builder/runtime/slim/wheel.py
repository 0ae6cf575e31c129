"""A wheel: its libraries slimmed, in a new file whose RECORD says so.

Source: packaging.python.org, "Binary distribution format" and "Recording installed projects".
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import os
import re
import shutil
import tempfile
import time
import zipfile
import zlib

from . import elf, one, records, totals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Tuple

    Report = Dict[str, Any]

_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, EOFError),
    *(KeyError, ValueError, NotImplementedError, RuntimeError),  # no RECORD, encrypted
    # A Python may be without lzma; its zipfile then is, too.
    *(csv.Error, getattr(getattr(zipfile, "lzma", None), "LZMAError", zlib.error)),
)
_RECORD = re.compile(r"[^/]+\.dist-info/RECORD")
_SIGNATURES = (".dist-info/RECORD.jws", ".dist-info/RECORD.p7s")


def slim(path: str, output: str | None, options: one.Options, *, dry: bool = False) -> Report:
    """Write to `output` (a file that is not there yet) what is in the wheel `path`, slimmed.

    Members keep their order, times and modes, and none leaves: whether another package needs it is
    seen where both are installed. `dry`: nothing is written, and one library at a time is in
    memory; `output` may be None. Raises OSError, also for what is no sound wheel.
    """
    start = time.monotonic()
    if output and os.path.lexists(output):
        raise FileExistsError(17, "is there already", output)
    try:
        if dry or output is None:
            reports = list(_examined(path, options))
        else:
            reports = _written(path, output, options)
    except _BROKEN as error:
        raise OSError(22, f"no wheel that we can read: {error}", path) from None
    return totals.summed(path, reports, options, seen=len(reports), start=start, dry=dry)


def _examined(path: str, options: one.Options) -> Iterator[Report]:
    with zipfile.ZipFile(path) as old:
        record = _record(old)
        for member in old.infolist():
            with old.open(member) as source:
                if _apart(member, record) or not one.is_ours(source.read(elf.HEADER)):
                    while source.read(1 << 20):  # to its end, where its checksum is compared
                        pass
                    continue
            report, _ = one.reported("", old.read(member), options)
            yield _named(report, path, member)
        records.edited(old.read(record).decode("utf-8"), {}, set())


def _written(path: str, output: str, options: one.Options) -> List[Report]:
    folder = os.path.dirname(os.path.abspath(output))
    with tempfile.TemporaryDirectory(prefix=".imgbuild-slim-", dir=folder) as aside:
        whole = os.path.join(aside, "new.whl")
        reports = list(_rewritten(path, whole, os.path.join(aside, "member"), options))
        with open(whole, "rb") as file:
            os.fsync(file.fileno())
        os.replace(whole, output)
    return reports


def _rewritten(path: str, whole: str, aside: str, options: one.Options) -> Iterator[Report]:
    hashes: Dict[str, Tuple[str, int]] = {}
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(whole, "w", allowZip64=True) as new:
        record = _record(old)
        for member in old.infolist():
            if _apart(member, record):
                continue
            with old.open(member) as source:
                head = source.read(elf.HEADER)
            if elf.is_elf(head):
                with old.open(member) as source, open(aside, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                report = one.slim(aside, options)
                if report:
                    yield _named(report, path, member)
                hashes[member.filename] = _added(new, member, aside)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(aside)
            else:
                with old.open(member) as source, _opened(new, member) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        with _opened(new, old.getinfo(record)) as target:
            signed = {name for name in old.namelist() if name.endswith(_SIGNATURES)}
            text = records.edited(old.read(record).decode("utf-8"), hashes, signed)
            target.write(text.encode("utf-8"))


def _record(old: zipfile.ZipFile) -> str:
    # Deeper ones are of what it vendors.
    lists = [name for name in old.namelist() if _RECORD.fullmatch(name)]
    if len(lists) != 1:
        raise ValueError("it has no RECORD")
    return lists[0]


def _apart(member: zipfile.ZipInfo, record: str) -> bool:
    """Whether a member is RECORD, which comes last, or signs it, and is left behind."""
    return member.filename == record or member.filename.endswith(_SIGNATURES)


def _named(report: Report, path: str, member: zipfile.ZipInfo) -> Report:
    name = f"{path}:{member.filename}"
    return {**report, "path": name, "names": [name], "links_outside": 0}


def _opened(new: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    own = zipfile.ZipInfo(member.filename, member.date_time)
    own.compress_type = member.compress_type
    own.external_attr, own.create_system = member.external_attr, member.create_system
    return new.open(own, "w", force_zip64=member.file_size >= 1 << 31)


def _added(new: zipfile.ZipFile, member: zipfile.ZipInfo, file: str) -> Tuple[str, int]:
    """Add the file; its hash as RECORD spells it, and its bytes."""
    digest, size = hashlib.sha256(), 0
    with open(file, "rb") as source, _opened(new, member) as target:
        while True:
            part = source.read(1 << 20)
            if not part:
                break
            digest.update(part)
            size += len(part)
            target.write(part)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode(), size

"""RECORDs of installed packages, which name each file with its hash: as true after as before.

Source: packaging.python.org, "Recording installed projects".
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import os

from . import copies, one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Set, Tuple

_BROKEN = (csv.Error, UnicodeDecodeError)


def rewrite(
    sites: Iterable[str],
    changed: Mapping[str, bytes | None],
    known: Iterable[str] = (),
    gone: Callable[[str], bool] = lambda _: False,
) -> Dict[str, str]:
    """Bring the RECORDs in these folders in line with files that changed, or left.

    `changed` has files' SHA-256, None: it is to be read. `known` files are looked at,
    too, where a RECORD tells another size, or is no younger than the file and tells another hash:
    an earlier run was stopped. `gone` tells whether a file that is not there may be missing.
    Returns why RECORDs could not be read. Raises OSError, once the others are right.
    """
    files = {os.path.abspath(name): digest for name, digest in changed.items()}
    others = {os.path.abspath(name) for name in known} - files.keys()
    bad: Dict[str, str] = {}
    wrong: List[OSError] = []
    for site in sites:
        for record in _below(site):
            try:
                _one(site, record, files, others, gone)
            except _BROKEN as error:
                bad[record] = str(error)
            except OSError as error:
                wrong.append(error)
    if wrong:
        raise wrong[0]
    return bad


def named(site: str) -> Iterator[str]:
    """The files that its packages' RECORDs name, as far as these can be read."""
    for record in _below(site):
        with contextlib.suppress(OSError, *_BROKEN):
            with open(record, encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
            for row in filter(None, rows):
                name = os.path.join(site, row[0])
                yield os.path.normpath(name) if ".." in name else name


def _below(site: str) -> Iterator[str]:
    for entry in sorted(os.listdir(site)):
        record = os.path.join(site, entry, "RECORD")
        if entry.endswith(".dist-info") and os.path.isfile(record):
            yield record


def hashed(name: str, known: bytes | None = None) -> Tuple[str, int]:
    """A file's hash as RECORD spells it, and its bytes; `known` is the hash where it is known."""
    digest = known or copies.digest(name)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), os.path.getsize(name)


def edited(text: str, hashes: Mapping[str, Tuple[str, int]], left: Set[str]) -> str:
    """A RECORD's text, by names as it spells them."""
    rows: List[List[str]] = []
    for row in csv.reader(io.StringIO(text)):
        if not row or row[0] in left:
            continue
        if row[0] in hashes:
            digest, size = hashes[row[0]]
            row[1:] = [f"sha256={digest}", str(size)]
        rows.append(row)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _one(
    site: str,
    record: str,
    files: Mapping[str, bytes | None],
    others: Set[str],
    gone: Callable[[str], bool],
) -> None:
    with open(record, encoding="utf-8", newline="") as file:
        text = file.read()
        written = os.fstat(file.fileno()).st_ctime_ns
    own: Dict[str, Tuple[str, int]] = {}
    left: Set[str] = set()
    for row in csv.reader(io.StringIO(text)):
        name = os.path.normpath(os.path.join(site, row[0])) if row else ""
        if name in files or (name in others and _differs(name, row, written)):
            own[row[0]] = hashed(name, files.get(name))
        elif name and gone(name) and not os.path.lexists(name):
            left.add(row[0])
    if own or left:
        one.replaced(record, edited(text, own, left).encode("utf-8"))


def _differs(name: str, row: List[str], written: int) -> bool:
    """Whether a file is not what its row tells; `written`: when RECORD was, in ns of the epoch.

    Bytes that became zeros leave a file its size. Hashes of all would take seconds a gigabyte, so
    that only a file is read whose status changed after RECORD's: whoever replaced it did that last.
    """
    if not row[2:]:
        return False
    info = os.stat(name)
    if row[2] != str(info.st_size):
        return True
    told = row[1].startswith("sha256=") and info.st_ctime_ns >= written
    return told and row[1] != f"sha256={hashed(name)[0]}"

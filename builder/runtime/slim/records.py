"""RECORDs of installed packages, which name each file with its hash: as true after as before.

Source: packaging.python.org, "Recording installed projects".
"""

from __future__ import annotations

import base64
import csv
import io
import os
import re

from . import copies, one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Mapping, Set, Tuple

_PACKAGES = re.compile(r"^(.*/(?:site|dist)-packages)/")


def rewrite(changed: Iterable[str], gone: Iterable[str]) -> None:
    """Bring the RECORDs of packages in line with files that changed, or left. Raises OSError."""
    files = [os.path.abspath(name) for name in changed]
    left = {os.path.abspath(name) for name in gone}
    sites = {one.group(1) for one in map(_PACKAGES.match, (*files, *left)) if one}
    if not sites:
        return
    hashes = {name: hashed(name) for name in files}
    for site in sorted(sites):
        for entry in sorted(os.listdir(site)):
            record = os.path.join(site, entry, "RECORD")
            if entry.endswith(".dist-info") and os.path.isfile(record):
                _one(site, record, hashes, left)


def hashed(name: str) -> Tuple[str, int]:
    """A file's hash as RECORD spells it, and its bytes."""
    digest = base64.urlsafe_b64encode(copies.digest(name)).rstrip(b"=").decode()
    return digest, os.path.getsize(name)


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


def _one(site: str, record: str, hashes: Mapping[str, Tuple[str, int]], left: Set[str]) -> None:
    with open(record, encoding="utf-8", newline="") as file:
        text = file.read()
    spelled: Dict[str, str] = {}
    for row in csv.reader(io.StringIO(text)):
        if row:
            spelled[os.path.normpath(os.path.join(site, row[0]))] = row[0]
    own = {spelled[name]: value for name, value in hashes.items() if name in spelled}
    gone = {spelled[name] for name in left if name in spelled}
    if own or gone:
        one.replaced(record, edited(text, own, gone).encode("utf-8"))

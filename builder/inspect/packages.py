"""Which package each file is of: Python's by RECORD, Debian's by dpkg's lists.

Sources: packaging.python.org, "Recording installed projects"; dpkg(1), /var/lib/dpkg/info.
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from builder.inspect.damage import damaged
from builder.inspect.stored import Stored

PYTHON, DEB, REST = "python", "deb", ""
_RECORD = re.compile(r"((?:.*/)?)([^/]+)-([^-/]+)\.dist-info/RECORD")
_LIST = re.compile(r"var/lib/dpkg/info/([^/:]+)(?::[^/]+)?\.list")
_STATUS = "var/lib/dpkg/status"
_RELEASES = ("etc/os-release", "usr/lib/os-release")
# Where a distribution puts what its packages and their scripts make.
_OF_THE_OS = ("bin/", "boot/", "etc/", "lib/", "lib32/", "lib64/", "sbin/", "usr/", "var/")
_NOT_OF_THE_OS = ("usr/local/", "usr/src/")
_MERGED = ("bin/", "sbin/", "lib/", "lib32/", "lib64/")  # links to usr/bin and so on
_COMPILED = re.compile(r"(.*/)?__pycache__/([^/]+?)\.[^/.]+(?:\.opt-\d)?\.pyc")


class Package(NamedTuple):
    """A package; of what no package owns, `source` is "" and the name "os" or "other"."""

    source: str
    name: str
    version: str = ""


OTHER, OS = Package(REST, "other"), Package(REST, "os")


class Owners:
    """Answers which package a path is of. `seen` are all files of `what`, by their path.

    Raises UserError for a RECORD that is none.
    """

    def __init__(self, seen: Mapping[str, Stored], what: str) -> None:
        self._owners: dict[str, Package] = {}
        self._is_os = any(path in seen for path in (*_RELEASES, _STATUS))
        status = seen.get(_STATUS)
        versions = dict(_versions(status.text)) if status else {}
        for path, stored in seen.items():
            if match := _LIST.fullmatch(path):
                package = Package(DEB, match[1], versions.get(match[1], ""))
                self._own(package, _listed(stored.text, seen))
        for path, stored in seen.items():
            if match := _RECORD.fullmatch(path):
                package = Package(PYTHON, match[2], match[3])
                try:
                    self._own(package, _recorded(stored.text, match[1]))
                except csv.Error as error:
                    raise damaged(f"{what}: {path}", error) from None

    def _own(self, package: Package, paths: Iterator[str]) -> None:
        for path in paths:
            self._owners[path] = package

    def of(self, path: str) -> Package:
        """The package that has listed a path, or its source where that is bytecode."""
        found = self._owners.get(path)
        if found is None and (match := _COMPILED.fullmatch(path)):
            found = self._owners.get(f"{match[1] or ''}{match[2]}.py")
        if found:
            return found
        installed = "/site-packages/" in path or path.startswith(_NOT_OF_THE_OS)
        return OS if self._is_os and path.startswith(_OF_THE_OS) and not installed else OTHER


def _recorded(text: bytes, folder: str) -> Iterator[str]:
    """Paths of a RECORD, which are told from the folder that its own is in."""
    for row in csv.reader(io.StringIO(text.decode("utf-8", "replace"))):
        if row:
            yield posixpath.normpath(posixpath.join("/", folder, row[0])).lstrip("/")


def _listed(text: bytes, seen: Mapping[str, Stored]) -> Iterator[str]:
    for line in text.decode("utf-8", "replace").splitlines():
        path = line.lstrip("/")
        if path in seen:
            yield path
        elif path.startswith(_MERGED) and (merged := f"usr/{path}") in seen:
            yield merged


def _versions(text: bytes) -> Iterator[tuple[str, str]]:
    name = ""
    for line in text.decode("utf-8", "replace").splitlines():
        key, _, value = line.partition(": ")
        if key == "Package":
            name = value
        elif key == "Version":
            yield name, value

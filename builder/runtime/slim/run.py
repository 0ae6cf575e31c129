"""What one run has done to a folder so far: any end of it leaves RECORDs that are true."""

from __future__ import annotations

import os
import time

from . import copies, drops, foreign, one, records, totals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence

    Report = Dict[str, Any]


class Run:
    """Takes files one by one; `link` and `mend` come last, `mend` also where one of them raised.

    `files`: whether those leave that a rule names, and equal ones become one.
    """

    def __init__(self, path: str, options: one.Options, *, dry: bool, files: bool) -> None:
        self._start = time.monotonic()
        self._path = path
        self._options = options
        self._dry = dry
        self._named = not os.path.isdir(path)
        self._files = files and not self._named  # who names one file wants it to stay
        self._places = drops.Places(path, options.sms)
        self.seen = 0  # files
        self.apart: List[str] = []  # what is of other file systems
        self.size = 0  # bytes of those that are libraries
        self._reports: List[Report] = []
        self._dropped: Dict[str, Dict[str, int]] = {}  # by rule and name, bytes
        self._stay: Dict[str, List[copies.File]] = {}  # by the folder of packages
        self._hand: List[str] = []  # names of the file that is at work
        self._inode = 0  # of it, before
        self._linked = 0  # bytes
        self._bad: Dict[str, str] = {}
        self._left: Dict[str, str] = {}

    def slim(self, names: Sequence[str], links: int) -> bool:
        """Slim a file by all its names in the folder; `links` has it in all. False: none is left.

        Raises OSError.
        """
        outside = links - len(names)
        names = self._without(names, links)
        if not names:
            return False
        first, others = names[0], names[1:]
        own = self._options._replace(linked=not (self._files and self._places.unlinked(first)))
        before = os.stat(first, follow_symlinks=False)
        self._inode, self._hand = before.st_ino, names
        report = one.slim(first, own, others, dry=self._dry)
        self._hand = []
        self.seen += 1
        if report:
            self.size += report["before"]
            report["names"] = names
            # Their content stays what it was: a package manager's cache, another environment.
            report["links_outside"] = outside if totals.changed(report) else 0
            self._reports.append(report)
            outside -= report["links_outside"]  # the new file has none
        elif self._named:
            self._left[first] = foreign.why(first)
        site = self._places.sites.of(first)
        if site:
            file = copies.File(names, report.get("after", before.st_size), outside)
            self._stay.setdefault(site, []).append(file)
        return True

    def _without(self, names: Sequence[str], links: int) -> List[str]:
        """Take those of a file's names away that a rule names; the others."""
        stay = list(names)
        rules = {name: self._places.drops(name) for name in names if self._files}
        going = {name: rule for name, rule in rules.items() if rule}
        for name, rule in going.items():
            stay.remove(name)
            # A file is given back with the last of its names.
            freed = 0 if stay or links > len(going) else os.path.getsize(name)
            if not self._dry:
                drops.leave(name, self._path)
            self._dropped.setdefault(rule.name, {})[name] = freed
        return stay

    def link(self) -> None:
        """Make files of one content one. Raises OSError."""
        if self._files:
            self._linked = sum(copies.link(some, dry=self._dry) for some in self._stay.values())

    def mend(self) -> None:
        """Bring RECORDs in line; also with what an earlier run did that was killed.

        Raises OSError.
        """
        if self._dry:
            return
        changed = [
            name for report in self._reports if totals.changed(report) for name in report["names"]
        ]
        known = [name for report in self._reports for name in report["names"]]
        # Its names may not have become the new one's, or it may be gone.
        hand = [
            name
            for name in self._hand
            if os.path.lexists(name) and os.lstat(name).st_ino != self._inode
        ]
        sites = self._places.sites.all
        self._bad = records.rewrite(sites, [*changed, *hand], known, self._gone)

    def _gone(self, name: str) -> bool:
        return self._files and self._places.drops(name) is not None

    def report(self) -> Report:
        """Files and totals."""
        whole = totals.summed(
            self._path, self._reports, self._options,
            seen=self.seen, start=self._start, dry=self._dry,
        )  # fmt: skip
        dropped = self._dropped.items()
        whole["dropped"] = {name: dict(sorted(names.items())) for name, names in dropped}
        whole["total"]["dropped"] = {name: sum(names.values()) for name, names in dropped}
        whole["total"]["linked"] = self._linked
        whole["records"] = self._bad
        whole["left"] = self._left
        whole["not_entered"] = self.apart
        return whole

"""What one run has done to a folder so far: any end of it leaves RECORDs that are true."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections import deque

from . import beside, copies, drops, foreign, one, records, totals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Deque, Dict, List, Sequence

    Report = Dict[str, Any]

LARGE = 1 << 22  # bytes of a file for which a process of its own is worth it


class _Work:
    """A file that is at hand."""

    def __init__(self, names: Sequence[str], outside: int) -> None:
        self.names = names
        self.outside = outside  # other names
        self.before = os.stat(names[0], follow_symlinks=False)
        self.call: beside.Call | None = None  # what it is at work in, if that is not here
        self.report: Report | None = None  # None: not yet, or it raised

    def ended(self) -> bool:
        """Whether what became of it can be had without waiting."""
        return self.call.ended() if self.call else self.report is not None


class Run:
    """Takes files one by one; `link` and `mend` come last, `mend` also where one of them raised.

    `files`: whether those leave that a rule names, and equal ones become one. Which file is done
    first changes nothing, and not the order in which they are told.
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
        self._hashes: Dict[str, bytes | None] = {}  # of files that changed, by name
        self._dropped: Dict[str, Dict[str, int]] = {}  # by rule and name, bytes
        self._stay: Dict[str, List[copies.File]] = {}  # by the folder of packages
        self._hand: Deque[_Work] = deque()  # in the order in which they are told
        self._later: Deque[_Work] = deque()  # of these, large ones that have not begun
        self._begun: List[beside.Call] = []  # of these, those that are not known to have ended
        self._at_once = beside.at_once()
        self._linked = 0  # bytes
        self._bad: Dict[str, str] = {}
        self._left: Dict[str, str] = {}

    def slim(self, names: Sequence[str], links: int) -> None:
        """Slim a file by all its names in the folder; `links` has it in all.

        Raises OSError, also of one that was given before.
        """
        outside = links - len(names)
        names = self._without(names, links)
        if not names:
            return
        work = _Work(names, outside)
        self._hand.append(work)
        if self._at_once and work.before.st_size >= LARGE:
            self._later.append(work)
        else:
            work.report = self._slimmed(work)
        self._go_on()

    def _go_on(self) -> None:
        """Begin what may begin, and tell what has ended, in order. Raises OSError."""
        self._begin()
        while self._hand and self._hand[0].ended():
            self._wait(self._hand[0])
            self._done(self._hand.popleft())

    def _begin(self) -> None:
        """Have large files slimmed elsewhere, as many as is worth it."""
        self._begun = [call for call in self._begun if not call.ended()]
        while self._later and len(self._begun) < self._at_once:
            work = self._later.popleft()
            try:
                work.call = beside.Call(functools.partial(self._slimmed, work))
                self._begun.append(work.call)
            except OSError:  # as many processes as it may have
                work.report = self._slimmed(work)

    def _slimmed(self, work: _Work) -> Report:
        first = work.names[0]
        own = self._options._replace(linked=not (self._files and self._places.unlinked(first)))
        report = one.slim(first, own, work.names[1:], dry=self._dry)
        if report and not self._dry and totals.changed(report) and self._places.sites.of(first):
            report["sha256"] = copies.digest(first)
        return report

    def _wait(self, work: _Work) -> None:
        call, work.call = work.call, None
        if call:
            self._begun = [one for one in self._begun if one is not call]
            try:
                work.report = call.result()
            except ChildProcessError as error:
                raise OSError(error.errno, error.strerror, work.names[0]) from None

    def _done(self, work: _Work) -> None:
        names, outside, report = work.names, work.outside, work.report or {}
        self.seen += 1
        digest = report.pop("sha256", None)
        if report:
            self.size += report["before"]
            report["names"] = names
            # Their content stays what it was: a package manager's cache, another environment.
            report["links_outside"] = outside if totals.changed(report) else 0
            self._reports.append(report)
            if totals.changed(report):
                self._hashes.update(dict.fromkeys(names, digest))
            outside -= report["links_outside"]  # the new file has none
        elif self._named:
            self._left[names[0]] = foreign.why(names[0])
        site = self._places.sites.of(names[0])
        if site and all(map(self._places.named, names)):
            file = copies.File(names, report.get("after", work.before.st_size), outside)
            self._stay.setdefault(site, []).append(file)

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
        """Wait for all, and make files of one content one. Raises OSError."""
        self._go_on()
        while self._hand:
            beside.wait(self._begun)
            self._go_on()
        if self._files:
            self._linked = sum(copies.link(some, dry=self._dry) for some in self._stay.values())

    def mend(self) -> None:
        """Bring RECORDs in line; also with what an earlier run did that was killed.

        Raises OSError.
        """
        unknown = self._end()
        if self._dry:
            return
        known = [name for report in self._reports for name in report["names"]]
        # Its names may not have become the new one's, or it may be gone.
        hand = {
            name: None
            for work in unknown
            for name in work.names
            if os.path.lexists(name) and os.lstat(name).st_ino != work.before.st_ino
        }
        sites = self._places.sites.all
        self._bad = records.rewrite(sites, {**self._hashes, **hand}, known, self._gone)

    def _end(self) -> List[_Work]:
        """Wait for all that has begun; that of which it is not known what became."""
        unknown: List[_Work] = []
        for work in self._hand:
            if work in self._later:
                continue
            with contextlib.suppress(Exception):  # another is on its way
                self._wait(work)
            if work.report is None:
                unknown.append(work)
            else:
                self._done(work)
        self._hand.clear()
        return unknown

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

"""A folder: every file once, whatever its names; totals."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time

from . import aside, copies, drops, foreign, one, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Tuple

    Report = Dict[str, Any]


def slim(
    path: str,
    options: one.Options,
    *,
    dry: bool = False,
    told: Callable[[int, int], None] | None = None,
    since: int = 0,
    files: bool = True,
) -> Report:
    """Slim a file, or all below a folder. Raises OSError with the file's name.

    `told` hears of each file: how many so far, and their bytes. Symbolic links are not followed,
    and other file systems are not entered. Files whose status has not changed `since`, in seconds
    of the epoch, are not opened. `files`: whether files that no such GPU's host needs leave, and
    equal ones become one; RECORDs of installed packages then say what is there.
    """
    with _locked(path, dry=dry) as alone:
        return _slimmed(path, options, dry=dry, told=told, since=since, files=files, alone=alone)


@contextlib.contextmanager
def _locked(path: str, *, dry: bool) -> Iterator[bool]:
    """Keep others from slimming the folder; whether that is sure. Raises OSError if one does."""
    if dry or not os.path.isdir(path):
        yield False
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield _lock(handle, path)
    finally:
        os.close(handle)


def _lock(handle: int, path: str) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another slim works on it", path) from None
    except OSError:  # a file system without: NFS locks no folder
        return False
    return True


def _slimmed(
    path: str,
    options: one.Options,
    *,
    dry: bool,
    told: Callable[[int, int], None] | None,
    since: int,
    files: bool,
    alone: bool,
) -> Report:
    start = time.monotonic()
    reports: List[Report] = []
    seen = size = 0
    files = files and os.path.isdir(path)  # who names one file wants it to stay
    places = drops.Places(path, options.sms)
    dropped: Dict[str, Dict[str, int]] = {}
    stay: Dict[str, List[copies.File]] = {}  # by the folder of packages
    hand: List[str] = []  # names of the file that is at work
    inode = linked = 0
    bad: Dict[str, str] = {}
    left: Dict[str, str] = {}
    try:
        for first, others, links in inodes(path, since, alone):
            names, count = [first, *others], 1 + len(others)
            if files:
                _leave(names, links, places, dropped, root="" if dry else path)
            if not names:
                continue
            first, others = names[0], names[1:]  # noqa: PLW2901 - those that stay
            own = options._replace(linked=not (files and places.unlinked(first)))
            info = os.stat(first, follow_symlinks=False)
            inode, hand = info.st_ino, names
            report = one.slim(first, own, others, dry=dry)
            hand = []
            if places.sites.of(first):
                # A new file has no names elsewhere.
                beyond = 0 if report and _changed(report) else links - count
                rest = copies.File(names, report.get("after", info.st_size), beyond)
                stay.setdefault(places.sites.of(first), []).append(rest)
            seen += 1
            if not report and not os.path.isdir(path):
                left[path] = foreign.why(first)
            if report:
                size += report["before"]
                report["names"] = names
                # Their content stays what it was: a package manager's cache, another environment.
                report["links_outside"] = links - count if _changed(report) else 0
                reports.append(report)
            if told:
                told(seen, size)
        if files:
            linked = sum(copies.link(some, dry=dry) for some in stay.values())
    finally:  # also of a run that ends here: what it did is done
        if not dry:
            # Its names may not have become the new one's, or it may be gone.
            hand = [
                name for name in hand if os.path.lexists(name) and os.lstat(name).st_ino != inode
            ]
            bad = _mended(reports, hand, places, files=files)
    whole = summed(path, reports, options, seen=seen, start=start, dry=dry)
    whole["dropped"] = {name: dict(sorted(names.items())) for name, names in dropped.items()}
    whole["total"]["dropped"] = {name: sum(names.values()) for name, names in dropped.items()}
    whole["total"]["linked"] = linked
    whole["records"] = bad
    whole["left"] = left
    return whole


def _leave(
    names: List[str],
    links: int,
    places: drops.Places,
    dropped: Dict[str, Dict[str, int]],
    *,
    root: str,
) -> None:
    """Take those of a file's names away that a rule names; only from the list without a `root`."""
    going = {name: rule for name in names for rule in [places.drops(name)] if rule}
    for name, rule in going.items():
        names.remove(name)
        # A file is given back with the last of its names.
        freed = 0 if names or links > len(going) else os.path.getsize(name)
        if root:
            drops.leave(name, root)
        dropped.setdefault(rule.name, {})[name] = freed


def _mended(
    reports: List[Report], hand: List[str], places: drops.Places, *, files: bool
) -> Dict[str, str]:
    """RECORDs as the files are; also of what an earlier run did that was killed."""
    changed = [name for report in reports if _changed(report) for name in report["names"]]
    known = [name for report in reports for name in report["names"]]

    def gone(name: str) -> bool:
        return files and places.drops(name) is not None

    return records.rewrite(places.sites.all, [*changed, *hand], known, gone)


def summed(
    path: str,
    reports: List[Report],
    options: one.Options,
    *,
    seen: int,
    start: float,
    dry: bool = False,
) -> Report:
    """Reports of files as one; `start` is when work began, on the monotonic clock."""
    return {
        "path": path,
        "sms": list(options.sms),
        "mode": options.mode,
        "dry_run": dry,
        "files": [report for report in reports if _worth(report)],
        "total": _total(reports, seen),
        "seconds": round(time.monotonic() - start, 3),
    }


def inodes(path: str, since: int = 0, alone: bool = False) -> Iterator[Tuple[str, List[str], int]]:
    """Each regular file as its first name, its other ones, and how many links it has in all.

    `alone`: nobody else slims there, so that what a killed one left aside is removed.
    """
    info = os.stat(path)
    if not stat.S_ISDIR(info.st_mode):
        if not stat.S_ISREG(info.st_mode):
            raise OSError(0, "neither a file nor a folder", path)
        yield os.path.realpath(path), [], info.st_nlink
        return
    linked: Dict[Tuple[int, int], List[str]] = {}
    counts: Dict[Tuple[int, int], int] = {}
    for name, found in _files(path, info.st_dev, alone=alone):
        if found.st_ctime < since:
            continue
        if found.st_nlink == 1:
            yield name, [], 1
        else:
            key = (found.st_dev, found.st_ino)
            linked.setdefault(key, []).append(name)
            counts[key] = found.st_nlink
    for key, names in linked.items():
        yield names[0], names[1:], counts[key]


def _files(folder: str, device: int, *, alone: bool) -> Iterator[Tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if entry.is_symlink():
            continue
        info = entry.stat(follow_symlinks=False)
        if info.st_dev != device:
            continue
        if stat.S_ISDIR(info.st_mode):
            yield from _files(entry.path, device, alone=alone)
        elif stat.S_ISREG(info.st_mode) and not aside.is_one(entry.name):
            yield entry.path, info
        elif stat.S_ISREG(info.st_mode) and alone:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def _changed(report: Report) -> bool:
    return not report["refused"] and bool(report["changed"])


def _worth(report: Report) -> bool:
    """Whether a report says more than that a file is an ELF file."""
    return bool(report["refused"] or report["containers"] or _changed(report))


def _total(reports: List[Report], seen: int) -> Report:
    total: Report = {
        "files": seen,
        "elf": len(reports),
        "changed": sum(map(_changed, reports)),
        "refused": sum(bool(report["refused"]) for report in reports),
    }
    read = [report for report in reports if not report["refused"]]
    for key in ("before", "after"):
        total[key] = sum(report[key] for report in reports)
    for key in ("debug", "containers"):
        total[key] = sum(report[key] for report in read)
    for key in ("kept", "removed", "strange"):
        total[key] = _added(report[key] for report in read)
    sms = sorted({sm for report in read for sm in report["uncovered"]}, key=int)
    total["uncovered"] = {
        sm: _added(report["uncovered"].get(sm, {}) for report in read) for sm in sms
    }
    return total


def _added(counts: Any) -> Dict[str, int]:
    out: Dict[str, int] = {}
    for each in counts:
        for name, number in each.items():
            out[name] = out.get(name, 0) + number
    return dict(sorted(out.items()))

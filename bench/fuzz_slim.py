"""Breaks libraries with GPU code at random and slims them: nothing may be raised but a refusal.

    python -m bench.fuzz_slim [--count 10000] [--seed 1] [--minutes 10]

Each mutant has faults of one kind, in its ELF headers, in its fatbin containers, in its zstd frames
of GPU code, or in what leads to GPU code that may move: it is cut short, its sizes or pointers lie,
its parts overlap, or stand in one another. It is slimmed on a disk, beside another file. What is
refused, or has nothing to lose, must be the same file with the same bytes afterwards; what is
rewritten must have exactly the bytes that were announced, be an ELF file whose memory is what it
was but for GPU code that leaves or stands where all its pointers now lead, whose GPU code that
stays is the old file's byte for byte, and be what it is when it is slimmed a second time; nothing
else may be there, or have changed; and it must come to an end. Prints what became of each kind, and
each defect with the number by which --seed makes it again; exit code 1 for a defect. The run of
`make fuzz` writes bench/results/fuzz_slim.json: mutants by their fault and what became of them.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.faults import FAULTS
from bench.mutants import mutant
from bench.stamp import ROOT, stamp
from builder.runtime.slim import elf, layout, one
from tests.oracle import slimmed
from tests.oracle.pieces import joined
from tests.oracle.slimmed import Defect

_SLOW = 2.0  # CPU seconds that no file of a megabyte may take
_HANG = 60.0  # seconds after which a mutant is given up, on a busy machine, too
_COUNT, _SEED = 10_000, 1  # of `make fuzz`
_RESULT = ROOT / "bench/results/fuzz_slim.json"
_MOVED = "(rewritten, GPU code moved)"


class Hang(BaseException):
    """A mutant took too long."""


class Disk:
    """A folder with a mutant and a neighbour, which nobody may touch."""

    _NEIGHBOUR = b"beside it"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "mutant.so"
        self._other = folder / "other"
        self._other.write_bytes(self._NEIGHBOUR)
        self._before = self._seen(self._other)

    def slimmed(self, data: bytes, options: one.Options) -> str:
        """What became of a file; raises Defect, or whatever another defect raises."""
        self._file.write_bytes(data)
        wanted, told = self._wanted(data, options)
        report = self._run(options)
        if report and report["after"] != len(wanted):
            raise Defect(f"{report['after']} bytes are announced, {len(wanted)} are meant")
        if self._file.read_bytes() != (wanted if report else data):
            raise Defect("other bytes are on the disk than are meant")
        if not report or wanted == data:
            return told if report else "(no library)"
        moved = slimmed.compare(data, wanted, options)
        before = self._seen(self._file)
        self._run(options)
        if self._seen(self._file) != before:
            raise Defect("slimming twice is not slimming once")
        return _MOVED if moved else told

    def _run(self, options: one.Options) -> one.Report:
        before = self._seen(self._file)
        report = one.slim(str(self._file), options)
        stays = not report or report["refused"] or not report["changed"]
        if stays and self._seen(self._file) != before:
            raise Defect("a file that stays was touched")
        if {path.name for path in self._folder.iterdir()} != {self._file.name, self._other.name}:
            raise Defect("something is left beside it")
        if (self._seen(self._other), self._other.read_bytes()) != (self._before, self._NEIGHBOUR):
            raise Defect("the file beside it was touched")
        return report

    @staticmethod
    def _wanted(data: bytes, options: one.Options) -> tuple[bytes, str]:
        """What the file is to be, put together apart from what writes it."""
        try:
            _, pieces = one.examine(data, options)
        except elf.Refused as refused:
            return data, str(refused)
        if pieces is None:
            return data, "(unchanged)"
        if sum(map(layout.size_of, pieces)) > 2 * len(data) + 100_000:
            raise Defect("it grows")
        return joined(data, pieces), "(rewritten)"

    @staticmethod
    def _seen(file: Path) -> tuple[int, ...]:
        info = file.stat()
        return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_mode


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raises Hang in a block that takes too long."""

    def ended(*_: object) -> None:
        raise Hang(f"no end after {_HANG:g} s")

    old = signal.signal(signal.SIGALRM, ended)
    signal.setitimer(signal.ITIMER_REAL, _HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def run(
    count: int, seed: int, *, until: float = float("inf"), output: Path | None = None
) -> Iterator[str]:
    """Try so many, or until then on the monotonic clock; lines of what came of it, and of defects.

    `output` gets the same as JSON. Raises Defect at the end if there was one.
    """
    told: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in FAULTS}
    defects = tried = 0
    slowest = 0.0
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-slim-") as folder:
        disk = Disk(Path(folder))
        for index in itertools.takewhile(lambda _: time.monotonic() < until, range(count)):
            name, data, options = mutant(seed, index)
            tried += 1
            began = time.process_time()
            try:
                with _limited():
                    told[name][disk.slimmed(data, options)] += 1
            except (Exception, Hang) as error:
                defects += 1
                yield f"mutant {index}, {name}: {error!r}"
                disk = Disk(Path(tempfile.mkdtemp(dir=folder)))
            slowest = max(slowest, time.process_time() - began)
    for name, counts in told.items():
        yield name
        yield from (f"{times:7} {what}" for what, times in counts.most_common())
    took = time.monotonic() - start
    gathered = sum(counts[_MOVED] for counts in told.values())
    if output:
        result: dict[str, Any] = {
            **stamp(),
            "seed": seed,
            "mutants": tried,
            "gathered": gathered,
            "defects": defects,
            "seconds": round(took, 1),
            "slowest_cpu_ms": round(slowest * 1000, 1),
            "faults": {name: dict(counts.most_common()) for name, counts in told.items()},
        }
        output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    yield (
        f"{tried} mutants in {took:.0f} s, GPU code of {gathered} moved, {defects} defects, "
        f"slowest {slowest * 1000:.0f} ms"
    )
    if defects or slowest > _SLOW:
        raise Defect(f"{defects} defects, slowest {slowest:.1f} s")


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.fuzz_slim", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=_COUNT, help="mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=_SEED, help="of chance (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after these")
    given = parser.parse_args()
    if given.count < 1 or not given.minutes > 0:
        parser.error("--count and --minutes: above 0")
    until = time.monotonic() + 60 * given.minutes
    usual = (given.count, given.seed, given.minutes) == (_COUNT, _SEED, float("inf"))
    try:
        for line in run(given.count, given.seed, until=until, output=_RESULT if usual else None):
            sys.stdout.write(f"{line}\n")
    except Defect as defect:
        sys.stderr.write(f"fuzz_slim: {defect}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

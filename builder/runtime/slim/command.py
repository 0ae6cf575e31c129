"""Leaves out what the GPUs that are named do not load, and what only debuggers read.

    slim PATH --sm 90[,80] [--dry-run] [--json] [--mode zero|compact]

Shared objects keep their addresses and everything that runs there; a file that is not understood
stays as it is, and is listed. Exit code 1: a file could not be read or written, PATH is a file that
was not understood, or none that can be slimmed (a static library, a cubin), or a library that
--excuse does not name has no code for the GPU; 2: a wrong option.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time

from . import drops, gate, one, targets, tree, wheel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Sequence

_SHOWN = 12  # files that changed most, in the text


def main(arguments: Sequence[str]) -> int:
    """Print what was done; returns the exit code."""
    parser = argparse.ArgumentParser(prog="slim", description=__doc__.partition("\n")[0])
    parser.add_argument("path", help="a shared object, a program, or a folder")
    parser.add_argument("--sm", required=True, metavar="SM[,SM]", help="the GPUs: 90, or 9.0")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--json", action="store_true", help="all files and counts, for programs")
    parser.add_argument(
        "--mode", choices=(one.COMPACT, one.ZERO), default=one.COMPACT,
        help="cut the bytes out of the files, or only zero them (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--uncovered", choices=(one.KEEP, one.EMPTY), default=one.KEEP,
        help="containers of GPU code without any for these GPUs (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--output", metavar="WHL", help="PATH is a wheel: write it there, slimmed")
    parser.add_argument("--no-strip", action="store_true", help="leave debug sections")
    parser.add_argument(
        "--keep-files",
        action="store_true",
        help="leave all files, and LTO IR, that rules say are not needed, and equal files apart",
    )
    parser.add_argument(
        "--since", type=int, default=0, metavar="SECONDS",
        help="only files that have changed since, by the clock: what a build step has installed",
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true",
        help="PATH is a slimmed environment: import what rules say works without their files",
    )  # fmt: skip
    parser.add_argument(
        "--excuse", metavar="GLOB[,GLOB]",
        help="fail where a library has GPU code and none for these GPUs, unless its path ends so",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    packed = given.path.endswith(".whl")
    if (given.output and not packed) or (packed and not given.output and not given.dry_run):
        print(
            "slim: --output: a wheel needs it, but for a --dry-run, and nothing else takes it",
            file=sys.stderr,
        )
        return 2
    try:
        sms = tuple(targets.parse(given.sm))
    except ValueError as error:
        print(f"slim: --sm: {error}", file=sys.stderr)
        return 2
    if given.check:
        return checked(given.path, sms)
    for number in (signal.SIGTERM, signal.SIGHUP):  # what stands aside is cleared away
        signal.signal(number, _ended)
    options = one.Options(sms, given.mode, given.uncovered, strip=not given.no_strip)
    try:
        if packed:
            report = wheel.slim(given.path, given.output, options, dry=given.dry_run)
        else:
            report = tree.slim(
                given.path, options, dry=given.dry_run, told=_Progress(), since=given.since,
                files=not given.keep_files,
            )  # fmt: skip
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(printable(f"slim: {where}{error.strerror or error}"), file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(report, indent=2))
    else:
        for line in lines(report):
            print(line)
    stays = {} if packed or os.path.isdir(given.path) else _staying(report)
    sys.stdout.flush()
    for name, why in stays.items():
        print(printable(f"slim: {name}: {why}"), file=sys.stderr)
    return 1 if stays else gated(report, given.excuse)


def _staying(report: Dict[str, Any]) -> Dict[str, str]:
    """Why a file that was named is not slimmed; empty if it is, or was."""
    refused = {row["path"]: row["refused"] for row in report["files"] if row["refused"]}
    return {**report["left"], **refused}


def gated(report: Dict[str, Any], excused: str | None) -> int:
    """Say which libraries fail, where that is asked for; returns the exit code."""
    wrong = [] if excused is None else list(gate.wrong(report, excused.split(",")))
    for line in wrong:
        print(printable(f"slim: {line}"), file=sys.stderr)
    return 1 if wrong else 0


def checked(path: str, sms: Sequence[int]) -> int:
    """Run the checks of the rules that hold in an environment, with its Python, in one process."""
    rules = drops.Places(path, sms).installed()
    program = "\n".join(
        f"try:\n    {rule.check}\nexcept BaseException as error:\n"
        f"    wrong.append(f'{rule.name}: {{type(error).__name__}}: {{error}}')"
        for rule in rules
    )
    program = f"import sys\nwrong = []\n{program}\nsys.exit('\\n'.join(wrong) or 0)"
    done = subprocess.run(
        [os.path.join(path, "bin", "python3"), "-W", "ignore", "-c", program],
        check=False, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    if not done.returncode:
        print(
            f"{printable(path)}: {len(rules)} rules hold: {', '.join(rule.name for rule in rules)}"
        )
    return 1 if done.returncode else 0


def _ended(number: int, _: object) -> None:
    sys.exit(128 + number)


class _Progress:
    """A line a second on stderr, from the second second on."""

    def __init__(self) -> None:
        self._next = time.monotonic() + 1

    def __call__(self, files: int, size: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 1
            print(f"slim: {files} files, {size / 1e6:.0f} MB of libraries", file=sys.stderr)


def printable(text: str) -> str:
    """What a terminal may be given: files' names may be no text, end lines, or move its cursor."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode()
        for sign in text
    )


def lines(report: Dict[str, Any]) -> Iterator[str]:
    """The report as text."""
    return map(printable, _lines(report))


def _lines(report: Dict[str, Any]) -> Iterator[str]:
    total = report["total"]
    verb = "would be" if report["dry_run"] else "are"
    sms = ", ".join(f"sm_{sm}" for sm in report["sms"])
    yield (
        f"{report['path']}: {_mb(total['before'])} {verb} {_mb(total['after'])} for {sms} "
        f"({total['changed']} of {total['elf']} ELF files, {report['seconds']:.1f} s)"
    )
    for what, counts in (("kept", total["kept"]), ("removed", total["removed"])):
        if counts:
            yield f"  GPU code {what}: {_mb(sum(counts.values()))}: {_listed(counts)}"
    if total["debug"]:
        yield f"  debug sections and symbol tables removed: {_mb(total['debug'])}"
    whys = {rule.name: rule.why for rule in drops.rules()}
    for name, size in _largest(total.get("dropped", {})):
        yield f"  {verb} dropped: {name}, {_mb(size)}: {whys[name]}"
    if total.get("linked"):
        yield f"  {verb} links to equal files: {_mb(total['linked'])}"
    yield from _untouched(report)
    yield from _files(report["files"], verb)
    for name, why in report.get("records", {}).items():
        yield f"  no RECORD that we can read: {name}: {why}"
    for sm, counts in total["uncovered"].items():
        yield f"  {sum(counts.values())} containers have no code for sm_{sm}:"
        yield from (f"    {number} hold {names}" for names, number in _largest(counts))
    for why, number in total["strange"].items():
        yield f"  {number} containers stay as they are: {why}"


def _untouched(report: Dict[str, Any]) -> Iterator[str]:
    for name, why in report.get("left", {}).items():
        yield f"  left as it is: {name}: {why}"
    for name in report.get("not_entered", ()):
        yield f"  not entered: {name}: another file system is mounted there"


def _files(files: Sequence[Dict[str, Any]], verb: str) -> Iterator[str]:
    largest = sorted(files, key=lambda one: (one["after"] - one["before"], one["path"]))
    for file in largest[:_SHOWN]:
        if file["after"] < file["before"]:
            yield f"  {file['path']}: {_mb(file['before'])} {verb} {_mb(file['after'])}"
    for file in files:
        if file["refused"]:
            yield f"  refused: {file['path']}: {file['refused']}"
            continue
        if file["links_outside"]:
            yield f"  {file['path']}: {file['links_outside']} other names keep the old file"
        for sm, counts in file["uncovered"].items():
            if sum(counts.values()) == file["containers"]:
                yield f"  {file['path']}: none of its GPU code is for sm_{sm}"


def _listed(counts: Dict[str, int]) -> str:
    return ", ".join(f"{name} {_mb(size)}" for name, size in _largest(counts))


def _largest(counts: Dict[str, int]) -> List[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"

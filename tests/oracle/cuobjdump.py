"""NVIDIA's cuobjdump as a reader of GPU code (wheel `nvidia-cuda-cuobjdump`).

It reads the first section `.nv_fatbin` and `__nv_relfatbin` of a file, and no other. So what a
process finds at the addresses of a library's containers is carried to it in a file of its own, with
one such section: also what stands in other sections, and what is left in a slimmed library, whose
section is in parts.
"""

from __future__ import annotations

import hashlib
import re
import struct
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_ENTRY = re.compile(r"^Fatbin (\w+) code:\n=+\narch = (\w+)$", re.MULTILINE)
_EXTRACTED = re.compile(r"\.(\d+)\.(sm_\w+)\.(?:cubin|ptx)$")
_ENDINGS = {"elf": ("-xelf", "cubin"), "ptx": ("-xptx", "ptx")}
_LONGEST = 900  # seconds


class Seen(NamedTuple):
    """An entry as cuobjdump lists it."""

    kind: str  # elf, ptx, nvvm
    arch: str  # sm_90a
    number: int  # among those of its kind, from 1, as in the name of what is extracted


class Unread(Exception):  # noqa: N818 - what it says is the finding
    """cuobjdump did not read a file to its end; the text is what it said."""


def listed(tool: Path, file: Path) -> list[Seen]:
    """All entries that it finds, in order."""
    return parse(_run(tool, "-all", file.name, folder=file.parent))


def parse(text: str) -> list[Seen]:
    """Entries of what `cuobjdump -all FILE` prints."""
    counts: dict[str, int] = {}
    out = []
    for kind, arch in _ENTRY.findall(text):
        counts[kind] = counts.get(kind, 0) + 1
        out.append(Seen(kind, arch, counts[kind]))
    if len(out) != len(re.findall(r"^Fatbin ", text, re.MULTILINE)):
        raise Unread("an entry without an architecture")
    return out


def extracted(
    tool: Path, file: Path, wanted: Iterable[Seen], scratch: Path
) -> dict[tuple[str, int], str]:
    """Hashes of entries' content, decompressed, by kind and number; more than wanted may come.

    What is extracted stands in `scratch`, one kind at a time, and is removed again.
    """
    out: dict[tuple[str, int], str] = {}
    arches: dict[str, set[str]] = {}
    for one in wanted:
        arches.setdefault(one.kind, set()).add(one.arch.rstrip("f"))  # files are named without f
    for kind, names in arches.items():
        if kind in _ENDINGS:
            option, ending = _ENDINGS[kind]
            patterns = ",".join(f".{name}.{ending}" for name in sorted(names))
            scratch.mkdir()
            try:
                _run(tool, "-all", option, patterns, str(file), folder=scratch)
                out.update(((kind, number), digest) for number, digest in _hashed(scratch))
            finally:
                for path in scratch.iterdir():
                    path.unlink()
                scratch.rmdir()
    return out


def _hashed(folder: Path) -> Iterator[tuple[int, str]]:
    for path in folder.iterdir():
        found = _EXTRACTED.search(path.name)
        if not found:
            raise Unread(f"it extracted {path.name}")
        with path.open("rb") as file:
            yield int(found[1]), hashlib.file_digest(file, "sha256").hexdigest()


def _run(tool: Path, *arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [tool, *arguments], cwd=folder, capture_output=True, text=True, errors="replace",
        timeout=_LONGEST, check=False,
    )  # fmt: skip
    if done.returncode or "fatal" in done.stderr:
        if "does not contain device code" in done.stderr:
            return ""
        raise Unread(done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout


def carry(file: Path, containers: Iterable[bytes]) -> None:
    """Write an ELF file whose section `.nv_fatbin` holds these, each aligned to 8 bytes."""
    names = b"\0.nv_fatbin\0.shstrtab\0"
    with file.open("wb") as out:
        out.write(bytes(64))
        for one in containers:
            out.write(one + bytes(-len(one) % 8))
        end = out.tell()
        out.write(names + bytes(-len(names) % 8))
        table = out.tell()
        out.write(bytes(64))
        out.write(struct.pack("<IIQQQQIIQQ", 1, 1, 2, 0, 64, end - 64, 0, 0, 8, 0))
        out.write(struct.pack("<IIQQQQIIQQ", 12, 3, 0, 0, end, len(names), 0, 0, 1, 0))
        out.seek(0)
        out.write(b"\x7fELF\x02\x01\x01".ljust(16, b"\0"))
        out.write(struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2))

"""Whether a slimmed library serves a GPU as the whole one does, without that GPU.

Each container is read in the whole library, and in the slimmed one at the same address, or where
all that pointed to it points now, as the dynamic loader maps it: by ourselves, by the bytes that
stand there, and by NVIDIA's cuobjdump, by what it extracts. What the GPU takes of the two must be
the same for both readers.
"""

from __future__ import annotations

import contextlib
import re
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from mmap import ACCESS_READ, mmap
from pathlib import Path

from tests.oracle import cuobjdump, fatbin, pointers
from tests.oracle.cuobjdump import Seen, Unread
from tests.oracle.memory import Memory, entries

_SECTION = re.compile(
    r"\] (?:\.nv_fatbin|__nv_relfatbin) +PROGBITS +[0-9a-f]+ ([0-9a-f]+) ([0-9a-f]+) "
)
_NAMES = {"elf": "cubin", "ptx": "PTX", "nvvm": "LTO IR"}


@dataclass
class Verdict:
    """Of one library and one SM."""

    agreed: Counter[str] = field(default_factory=Counter)  # containers, by what is taken of them
    listed: int = 0  # containers of whose entries cuobjdump lists some and extracts none
    differing: list[str] = field(default_factory=list)


class Code:
    """The GPU code of one file, read twice."""

    def __init__(self, tool: Path, raw: list[list[bytes]], carrier: Path) -> None:
        """Raises Unread where cuobjdump lists other entries than ours."""
        self._tool, self._carrier = tool, carrier
        self.entries = [[fatbin.entry(one) for one in container] for container in raw]
        self._hashes: dict[tuple[str, int], str] = {}
        # An entry without a payload is what the slimmer leaves where nothing served before.
        full = [
            [one for one, read in zip(container, reads, strict=True) if not read.empty]
            for container, reads in zip(raw, self.entries, strict=True)
        ]
        cuobjdump.carry(carrier, (_container(one) for one in full if one))
        told = iter(cuobjdump.listed(tool, carrier) if any(full) else ())
        self._seen: list[list[Seen | None]] = []
        for reads in self.entries:
            self._seen.append([None if one.empty else next(told, None) for one in reads])
            for ours, theirs in zip(reads, self._seen[-1], strict=True):
                if not ours.empty and (ours.kind, ours.arch) != (theirs and theirs[:2]):
                    raise Unread(f"it reads {theirs}, we {ours.kind} {ours.arch}")
        if next(told, None):
            raise Unread("it lists more entries than we")

    @property
    def linked(self) -> bool:
        """Whether the library links code at run time."""
        return any(one.kind == "nvvm" for container in self.entries for one in container)

    def taken(self, sm: int, *, linked: bool) -> list[list[int]]:
        """Numbers of the entries that a GPU of this SM takes, of each container."""
        return [fatbin.taken(container, sm, linked=linked) for container in self.entries]

    def ours(self, taken: Sequence[Sequence[int]]) -> list[list[str]]:
        """These entries by their bytes."""
        return [
            [container[number].digest for number in numbers]
            for container, numbers in zip(self.entries, taken, strict=True)
        ]

    def theirs(self, taken: Sequence[Sequence[int]]) -> list[list[str]]:
        """These entries by what cuobjdump extracts; of LTO IR, which it does not, that it is."""
        chosen = [
            [one for number in numbers if (one := container[number])]
            for container, numbers in zip(self._seen, taken, strict=True)
        ]
        missing = [
            one
            for container in chosen
            for one in container
            if (one.kind, one.number) not in self._hashes
        ]
        scratch = self._carrier.with_suffix(".extracted")
        self._hashes |= cuobjdump.extracted(self._tool, self._carrier, missing, scratch)
        return [[self._named(one) for one in container] for container in chosen]

    def _named(self, one: Seen) -> str:
        digest = self._hashes.get((one.kind, one.number), "")
        if not digest and one.kind != "nvvm":
            raise Unread(f"it did not extract {one.kind} {one.number} for {one.arch}")
        return f"{one.kind} {one.arch} {digest}"


class Library:
    """A whole library, to compare slimmed ones with."""

    def __init__(self, tool: Path, path: Path, scratch: Path) -> None:
        """Raises Unread where cuobjdump does not read what we read."""
        self._tool, self._scratch, self._path = tool, scratch, path
        self.containers = self.in_place = 0  # the latter: where cuobjdump itself looks for them
        with mapped(path) as data:
            found = list(fatbin.places(data))
            if found:
                memory = Memory(data)  # type: ignore[arg-type]  # slices of an mmap are bytes
                self._addresses = [memory.address(at) for at, _ in found]
                self._sizes = {
                    memory.address(at): spans[-1][1] - at for at, spans in found if spans
                }
                raw = [[data[at:end] for at, end in spans] for _, spans in found]
        self.containers = len(found)
        if found:
            self._code = Code(tool, raw, scratch / "whole.o")
            self._read_in_place(path, [at for at, _ in found])

    def _read_in_place(self, path: Path, places: Sequence[int]) -> None:
        sections = _sections(path)
        inside = [any(start <= at < end for start, end in sections) for at in places]
        self.in_place = sum(inside)
        ours = Counter(
            (one.kind, one.arch)
            for container, within in zip(self._code.entries, inside, strict=True)
            for one in container
            if within
        )
        if ours != Counter(one[:2] for one in cuobjdump.listed(self._tool, path)):
            raise Unread("it lists other entries in the library itself")

    def compared(self, slimmed: Path, sm: int) -> Verdict:
        """What is taken by a GPU of this SM here and there."""
        with mapped(slimmed) as data:
            memory = Memory(data)  # type: ignore[arg-type]
            places = self._places(memory)
            raw = [entries(memory, places.get(address, address)) for address in self._addresses]
        carrier = self._scratch / "slim.o"
        after = Code(self._tool, raw, carrier)
        linked = self._code.linked
        old, new = (code.taken(sm, linked=linked) for code in (self._code, after))
        out = Verdict()
        rows = zip(
            self._addresses, old,
            self._code.ours(old), after.ours(new), self._code.theirs(old), after.theirs(new),
            self._code.entries, strict=True,
        )  # fmt: skip
        for address, numbers, ours, our_new, theirs, their_new, read in rows:
            kinds = sorted({_NAMES[read[number].kind] for number in numbers})
            if ours == our_new and theirs == their_new:
                out.agreed[" and ".join(kinds) or "nothing"] += 1
                out.listed += "LTO IR" in kinds
            else:
                out.differing.append(f"{address:#x}: {theirs or 'nothing'}, {their_new}")
        carrier.unlink()
        return out

    def _places(self, slimmed: Memory) -> dict[int, int]:
        with mapped(self._path) as data:
            whole = Memory(data)  # type: ignore[arg-type]
            return pointers.followed(whole, self._path, slimmed, self._sizes)


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[mmap]:
    """A file's bytes."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        yield data


def _container(raw: Sequence[bytes]) -> bytes:
    body = b"".join(raw)
    return fatbin.MAGIC + struct.pack("<HHQ", 1, 16, len(body)) + body


def _sections(path: Path) -> list[tuple[int, int]]:
    done = subprocess.run(
        ["readelf", "-SW", path], capture_output=True, text=True, check=True, timeout=600
    )
    return [
        (int(at, 16), int(at, 16) + int(size, 16)) for at, size in _SECTION.findall(done.stdout)
    ]

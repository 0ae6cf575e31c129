"""What kind each byte of a file is: machine code, GPU code by SM, debug, Python, data."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

from builder.inspect import frames
from builder.inspect.stored import Share
from builder.runtime.slim import debug, elf, fatbin
from builder.runtime.slim.fatbin import Container, Entry
from builder.runtime.slim.frames import Frame

CODE, TABLES, DEBUG = "machine code", "library data", "debug"
SOURCE, BYTECODE, DATA = "Python source", "bytecode", "data"
OBJECTS, HEADERS, CUBINS = "objects and archives", "C and CUDA source", "cubin files"

_SUFFIXES = {
    **dict.fromkeys((".py", ".pyi", ".pyx", ".pxd"), SOURCE),
    **dict.fromkeys((".pyc", ".pyo"), BYTECODE),
    **dict.fromkeys((".a", ".o", ".lo"), OBJECTS),
    **dict.fromkeys((".h", ".hpp", ".hh", ".hxx", ".cuh", ".inl", ".inc", ".c"), HEADERS),
    **dict.fromkeys((".cc", ".cpp", ".cxx", ".cu", ".ipp", ".tpp"), HEADERS),
    ".cubin": CUBINS,
}
_INSTRUCTIONS = 0x4  # SHF_EXECINSTR of sh_flags
_CUDA = 190  # e_machine of a cubin

_Sort = TypeVar("_Sort", bound=Hashable)

Region = tuple[str, int, int]  # kind, begin and end in the file


class Mapped(NamedTuple):
    """What a program or a library holds."""

    regions: list[Region]  # all of its bytes, in order
    containers: Mapping[Container, Share]  # of GPU code, by what they hold, wherever they stand
    frames: Mapping[int, Share]  # of GPU code in no container: SM (90 for 9.0) -> zstd frames


def by_name(path: str) -> str:
    """The kind of a file that is no program and no shared object."""
    return _SUFFIXES.get(PurePosixPath(path).suffix, DATA)


def mapped(head: bytes) -> bool:
    """Whether a file that begins so holds more than one kind: it is worth looking into."""
    if head[:4] == fatbin_magic():
        return True
    return elf.is_elf(head) and elf.kind_of(head) in {elf.EXEC, elf.DYN}


def fatbin_magic() -> bytes:
    """What containers of GPU code begin with."""
    return (0xBA55ED50).to_bytes(4, "little")


def look(data: bytes) -> Mapped:
    """What is in a file (also an mmap). Raises Refused for what is no sound ELF file."""
    if data[:4] == fatbin_magic():
        found = fatbin.containers(data, len(data))
        return Mapped(_filled(_gpu(found), len(data), DATA), _counted(found), {})
    if _is_cubin(data):
        return _cubin(data)
    file = elf.read(data)
    found = fatbin.containers(data, file.head)
    packed = frames.found(data, found, file.head)
    spans = [*_gpu(found), *_packed(packed), *_debug(file), *_code(file)]
    bare = _shares((one.sm, one.end - one.at) for one in packed)
    return Mapped(_filled(spans, file.size, TABLES), _counted(found), bare)


def has_gpu_code(data: bytes) -> bool:
    """Whether code for GPUs stands in a file (also an mmap) that `look` refuses."""
    if data.find(fatbin.MAGIC) >= 0 or _is_cubin(data):
        return True
    try:
        return bool(frames.found(data, (), len(data)))
    except elf.Refused:
        return True


def _is_cubin(data: bytes) -> bool:
    return elf.is_elf(data[: elf.HEADER]) and int.from_bytes(data[18:20], "little") == _CUDA


def _cubin(data: bytes) -> Mapped:
    """Machine code that is a file of its own: as a container of that alone."""
    sm = frames.sm_of(data[: elf.HEADER])
    if sm is None:
        raise elf.Refused("a cubin, and its header names no SM that is known")
    alone = Entry(0, 0, 0, fatbin.CUBIN, sm, "", blank=False)
    share = {Container(0, 0, (alone,), ""): Share(1, len(data))}
    return Mapped([(alone.name, 0, len(data))], share, {})


def _gpu(found: list[Container]) -> Iterator[Region]:
    for one in found:
        for entry in one.entries:
            yield entry.name, entry.at, entry.end


def _packed(found: list[Frame]) -> Iterator[Region]:
    for one in found:
        yield f"sm_{one.sm} zstd", one.at, one.end


def _debug(file: elf.Elf) -> Iterator[Region]:
    for index in debug.sections(file):
        yield DEBUG, file.sections[index].offset, file.sections[index].end


def _code(file: elf.Elf) -> Iterator[Region]:
    if not file.sections:
        for load in file.loads:
            if load.flags & elf.EXECUTE:
                yield CODE, load.offset, load.end
    for section in file.sections:
        if section.flags & _INSTRUCTIONS and section.stored:
            yield CODE, section.offset, section.end


def _filled(spans: list[Region] | Iterator[Region], size: int, rest: str) -> list[Region]:
    """Spans without overlaps, the first to come wins, and what lies between them."""
    out: list[Region] = []
    at = 0
    for kind, begin, end in sorted(spans, key=lambda span: span[1]):
        begin = max(begin, at)  # noqa: PLW2901
        end = min(end, size)  # noqa: PLW2901
        if begin >= end:
            continue
        if begin > at:
            out.append((rest, at, begin))
        out.append((kind, begin, end))
        at = end
    if at < size:
        out.append((rest, at, size))
    return out


def _counted(found: list[Container]) -> dict[Container, Share]:
    """Containers by what they hold, wherever they stand: a library has thousands, of few sorts."""
    return _shares(
        (
            Container(0, 0, _bare(one.entries), one.strange),
            sum(entry.end - entry.at for entry in one.entries),
        )
        for one in found
    )


def _shares(sizes: Iterable[tuple[_Sort, int]]) -> dict[_Sort, Share]:
    found: dict[_Sort, Share] = {}
    for sort, size in sizes:
        number, before = found.get(sort, (0, 0))
        found[sort] = Share(number + 1, before + size)
    return found


def _bare(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    return tuple(sorted({entry._replace(at=0, header=0, payload=0) for entry in entries}))

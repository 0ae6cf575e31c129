"""One file: what is in it, what of it goes, and the new bytes beside it until they are whole."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from typing import NamedTuple

from . import aside, debug, elf, fatbin, frames, gather, layout, rewrite, targets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Sequence, Tuple

    from .fatbin import Container, Entry

    Report = Dict[str, Any]

ZERO, COMPACT = "zero", "compact"
KEEP, EMPTY = "keep", "empty"
# The kernel gives the first itself; the others are hashes of what was in the file.
_OF_THE_PLACE = {"security.selinux", "security.ima", "security.evm"}
_WRITE = 1 << 24  # bytes at a time


class Options(NamedTuple):
    """What is asked for."""

    sms: Tuple[int, ...]
    mode: str = COMPACT
    # Containers that have nothing for any of the SMs: as they are, or their entries' headers only.
    uncovered: str = KEEP
    strip: bool = True
    linked: bool = True  # whether a library's LTO IR is linked at run time, and has to stay
    least: int = rewrite.HOLE  # bytes of the smallest hole that is cut out of a file
    apart: int = gather.LEAST  # bytes to free in a section for which containers are moved there


def examine(data: bytes, options: Options) -> Tuple[Report, List[layout.Piece] | None]:
    """What a file holds and what would be written; None if it stays. Raises Refused."""
    file = elf.read(data)
    found = fatbin.containers(data, file.head)
    links = options.linked and any(
        one.kind in targets.LINKED for each in found for one in each.entries
    )
    report = {**_blank(file.size), "containers": len(found)}
    edits = []
    for one in found:
        strange = one.strange or ("" if _mapped(file, one) else "it spans segments")
        if strange:
            _count(report["strange"], strange, 1)
            stay = set(one.entries)
        else:
            stay = _staying(one, options, report, links=links)
        for entry in one.entries:
            _count(report["kept" if entry in stay else "removed"], entry.name, entry.payload)
        edit = _edit(data, one, stay, options)
        if edit:
            edits.append(edit)
    edits += _frames(file, data, found, options, report)
    gone = debug.sections(file) if options.strip else set()
    report["debug"] = sum(file.sections[index].size for index in gone)
    if not edits and not gone:
        return report, None
    # The kernel maps programs, and older ones take one segment with zero pages.
    split = options.mode == COMPACT and file.library
    if split:
        edits = gather.gathered(file, data, found, edits, gone, least=options.apart)
    pieces = rewrite.compose(file, data, edits, gone, split=split, least=options.least)
    report["changed"] = True
    report["after"] = sum(map(layout.size_of, pieces))
    return report, pieces


def _blank(size: int) -> Report:
    """Of a file in which nothing is found; all reports are of this shape."""
    return {
        "before": size, "after": size, "kept": {}, "removed": {}, "debug": 0, "containers": 0,
        "uncovered": {}, "strange": {}, "refused": None, "changed": False,
    }  # fmt: skip


def _mapped(file: elf.Elf, one: Container | frames.Frame) -> bool:
    return any(load.offset <= one.at and one.end <= load.end for load in file.loads)


def _frames(
    file: elf.Elf, data: bytes, found: List[Container], options: Options, report: Report
) -> Iterator[rewrite.Edit]:
    """Zeros for machine code outside containers that none of the GPUs can run."""
    packed = frames.found(data, found, file.head)
    if packed is None:
        _count(report["strange"], "zstd frames, and no libzstd.so.1 is here to look into them", 1)
    for one in packed or ():
        stays = not _mapped(file, one) or any(targets.may_run(one.sm, sm) for sm in options.sms)
        _count(report["kept" if stays else "removed"], f"sm_{one.sm} zstd", one.end - one.at)
        if not stays:
            yield rewrite.Edit(one.at, one.end, (one.end - one.at,))


def _staying(one: Container, options: Options, report: Report, *, links: bool) -> set[Entry]:
    missing = targets.uncovered(one, options.sms)
    holding = ", ".join(sorted({entry.name for entry in one.entries if not entry.blank}))
    for sm in missing:
        _count(report["uncovered"].setdefault(str(sm), {}), holding or "nothing", 1)
    if len(missing) == len(options.sms) and options.uncovered == KEEP:
        return {
            entry for entry in one.entries if options.linked or entry.kind not in targets.LINKED
        }
    return targets.kept(one, options.sms, links=links)


def _count(where: Dict[str, int], name: str, number: int) -> None:
    where[name] = where.get(name, 0) + number


def _edit(data: bytes, one: Container, stay: set[Entry], options: Options) -> rewrite.Edit | None:
    leaving = [entry for entry in one.entries if entry not in stay]
    if not leaving:
        return None
    if options.mode == ZERO:
        if all(entry.blank for entry in leaving):
            return None
        pieces: List[layout.Piece] = []
        at = one.at
        for entry in leaving:
            start = entry.at + entry.header
            pieces += [part for part in ((at, start), entry.payload) if layout.size_of(part)]
            at = entry.end
        return rewrite.Edit(one.at, one.end, (*pieces, (at, one.end)))
    if stay:
        spans = [(entry.at, entry.end) for entry in one.entries if entry in stay]
        return _packed(data, one, spans)
    # Nothing of it serves. Its entries' headers say so, as they did: the driver finds no image for
    # the GPU in the same way as before.
    if not any(entry.payload for entry in leaving):
        return None
    return _packed(data, one, [_bare(data, entry) for entry in leaving])


def _bare(data: bytes, entry: Entry) -> bytes:
    head = bytes(data[entry.at : entry.at + entry.header])
    return head[:8] + bytes(8) + head[16:]


def _packed(data: bytes, one: Container, pieces: Sequence[layout.Piece]) -> rewrite.Edit:
    size = sum(map(layout.size_of, pieces))
    head = bytes(data[one.at : one.at + 8]) + size.to_bytes(8, "little")
    return rewrite.Edit(one.at, one.end, (head, *pieces))


def slim(path: str, options: Options, names: Sequence[str] = (), *, dry: bool = False) -> Report:
    """Rewrite a file; `names` are others of the same inode, which then are links to the new one.

    None of it is seen before all of it is on the disk. Raises OSError; a file that is not
    understood stays, and its report says why.
    """
    before = os.stat(path, follow_symlinks=False)
    with opened(path) as data:
        if data is None:
            return {}
        report, pieces = reported(path, data, options)
        if pieces is not None and not dry:
            _replace(path, data, pieces, names, before)
    return report


def reported(path: str, data: bytes, options: Options) -> Tuple[Report, List[layout.Piece] | None]:
    """As `examine`, of a file of this name; one that is refused stays, and its report says why."""
    try:
        report, pieces = examine(data, options)
    except elf.Refused as refused:
        return {"path": path, **_blank(len(data)), "refused": str(refused)}, None
    return {"path": path, **report}, pieces


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """A program or shared object for an x86-64 or AArch64 CPU as an mmap; None for other files."""
    with open(path, "rb", opener=_no_link) as file:
        if not is_ours(file.read(elf.HEADER)):
            yield None
            return
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            yield data
        finally:
            with contextlib.suppress(BufferError):  # an error's traceback may hold slices of it
                data.close()


def is_ours(head: bytes) -> bool:
    """Whether a file that begins so, with an ELF header's bytes, is one of these."""
    machine = int.from_bytes(head[18:20], "little")
    kinds = {elf.EXEC, elf.DYN}
    whole = len(head) == elf.HEADER and elf.is_elf(head)
    return whole and machine in rewrite.PAGES and elf.kind_of(head) in kinds


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def replaced(path: str, content: bytes) -> None:
    """Give a file this content, all at once. Raises OSError."""
    _replace(path, b"", (content,), (), os.stat(path, follow_symlinks=False))


def _replace(
    path: str,
    data: bytes,
    pieces: Sequence[layout.Piece],
    names: Sequence[str],
    info: os.stat_result,
) -> None:
    """`info`: of the file when it was opened; it stays where it is another one meanwhile."""
    try:
        with aside.replacing(path, 0o600) as out:
            _write(out, data, pieces)
            _dress(out.fileno(), path, info)
            os.fsync(out.fileno())
            _unchanged(path, info)
    except OSError as error:  # of the file that it is about, not of the one aside
        raise OSError(error.errno, error.strerror, path) from None
    for other in names:
        aside.link(path, other)


def _unchanged(path: str, info: os.stat_result) -> None:
    now = os.stat(path, follow_symlinks=False)
    kept = [(one.st_ino, one.st_size, one.st_mtime_ns) for one in (now, info)]
    if kept[0] != kept[1]:
        raise OSError(16, "it changed meanwhile")


def _write(out: Any, data: bytes, pieces: Sequence[layout.Piece]) -> None:
    view = memoryview(data)
    nothing = memoryview(bytes(1 << 20))
    try:
        for buffers in _batches(view, nothing, pieces):
            while buffers:
                done = os.writev(out.fileno(), buffers)
                while buffers and done >= len(buffers[0]):
                    done -= len(buffers.pop(0))
                if done:
                    buffers[0] = buffers[0][done:]
    finally:
        buffers = []
        view.release()


def _batches(
    view: memoryview, nothing: memoryview, pieces: Sequence[layout.Piece]
) -> Iterator[List[memoryview]]:
    """The pieces as buffers for writev: few calls for many small containers."""
    batch: List[memoryview] = []
    size = 0
    for piece in pieces:
        length = layout.size_of(piece)
        for at in range(0, length, len(nothing)):
            step = min(length - at, len(nothing))
            if isinstance(piece, int):
                batch.append(nothing[:step])
            elif isinstance(piece, tuple):
                batch.append(view[piece[0] + at : piece[0] + at + step])
            else:
                batch.append(memoryview(piece)[at : at + step])
            size += step
            if size >= _WRITE or len(batch) >= 512:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _dress(handle: int, path: str, info: os.stat_result) -> None:
    """Owner, mode, attributes and times of the old file."""
    if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(handle, info.st_uid, info.st_gid)
    os.fchmod(handle, stat.S_IMODE(info.st_mode))
    try:
        attributes = os.listxattr(path, follow_symlinks=False)
    except OSError:
        attributes = []  # a file system without
    for attribute in attributes:
        if attribute in _OF_THE_PLACE:
            continue
        value = os.getxattr(path, attribute, follow_symlinks=False)
        os.setxattr(handle, attribute, value)
    os.utime(handle, ns=(info.st_atime_ns, info.st_mtime_ns))

"""Which GPUs each library has code for, and which libraries have none for a GPU at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from builder.errors import UserError
from builder.facts import GpuCodeException
from builder.inspect.stored import Stored
from builder.runtime.slim import fatbin, targets


@dataclass(frozen=True, kw_only=True)
class Gap:
    """What of a library's GPU code has nothing that runs on a GPU."""

    containers: int
    frames: int
    size: int  # bytes of both, as stored
    holding: Mapping[str, int]  # "sm_100 cubin" -> containers or frames of that; commonest first

    def __bool__(self) -> bool:
        return bool(self.containers or self.frames)


@dataclass(frozen=True, kw_only=True)
class Library:
    """A file with GPU code."""

    path: str
    package: str
    size: int  # bytes of the file
    code: Mapping[str, int]  # "sm_90 cubin" -> bytes
    containers: int
    frames: int  # of zstd, in no container
    cubins: tuple[str, ...]  # "sm_80", "sm_90a", ...: of what is not blank
    ptx: tuple[str, ...]
    lto: tuple[str, ...]
    packed: tuple[str, ...]  # "sm_90": of frames, whose variant is told nowhere
    uncovered: Mapping[int, Gap]  # by the SMs that were asked for
    strange: tuple[str, ...]  # what of it is not known

    @property
    def fails(self) -> tuple[int, ...]:
        """SMs for which nothing of it has code: whatever it computes, it cannot there."""
        return tuple(
            sm
            for sm, gap in self.uncovered.items()
            if (gap.containers, gap.frames) == (self.containers, self.frames)
        )

    @property
    def lacks(self) -> tuple[int, ...]:
        """SMs for which some of it has code, and some has none.

        That is how libraries are that bring kernels for one generation and choose at run time, so
        it is told, and a failure to those alone who ask for it.
        """
        return tuple(sm for sm, gap in self.uncovered.items() if gap and sm not in self.fails)


def library(stored: Stored, path: str, package: str, sms: Sequence[int]) -> Library:
    """Of a file that has GPU code."""
    entries = {entry for one in stored.containers for entry in one.entries}
    return Library(
        path=path,
        package=package,
        size=stored.size,
        code={kind: size for kind, size in stored.kinds.items() if is_gpu(kind)},
        containers=sum(share.number for share in stored.containers.values()),
        frames=sum(share.number for share in stored.frames.values()),
        cubins=_named(entries, fatbin.CUBIN),
        ptx=_named(entries, fatbin.PTX),
        lto=_named(entries, fatbin.LTO),
        packed=tuple(f"sm_{sm}" for sm in sorted(stored.frames)),
        uncovered={sm: _gap(stored, sm) for sm in sms},
        strange=tuple(sorted({one.strange for one in stored.containers if one.strange})),
    )


def _gap(stored: Stored, sm: int) -> Gap:
    bare = {code: share for code, share in stored.frames.items() if not _runs(code, sm)}
    without = {
        one: share for one, share in stored.containers.items() if targets.uncovered(one, [sm])
    }
    holding = Counter({f"sm_{code} zstd": share.number for code, share in bare.items()})
    for one, share in without.items():
        names = sorted({entry.name for entry in one.entries if not entry.blank})
        holding[", ".join(names) or "nothing"] += share.number
    return Gap(
        containers=sum(share.number for share in without.values()),
        frames=sum(share.number for share in bare.values()),
        size=sum(share.size for share in (*without.values(), *bare.values())),
        holding=dict(sorted(holding.items(), key=lambda item: (-item[1], item[0]))),
    )


def _runs(code: int, sm: int) -> bool:
    """Whether a frame's machine code does: as that of a container does, of no variant."""
    alone = fatbin.Entry(0, 0, 1, fatbin.CUBIN, code, "", blank=False)
    return targets.covers([alone], sm)


def is_gpu(kind: str) -> bool:
    """Whether a kind is GPU code of one SM."""
    return kind.startswith("sm_")


def sms(text: str) -> tuple[int, ...]:
    """ "90,8.0" -> (80, 90); raises UserError for what is no compute capability."""
    try:
        return tuple(targets.parse(text))
    except ValueError as error:
        raise UserError(f"--sm: {error}") from None


def excuse(path: str, sm: int, rows: Iterable[GpuCodeException]) -> GpuCodeException | None:
    """The row by which a library needs no code for an SM."""
    for row in rows:
        named = fnmatchcase(path, row.library) or fnmatchcase(path, f"*/{row.library}")
        if named and row.holds(f"{sm // 10}.{sm % 10}"):
            return row
    return None


def _named(entries: Iterable[fatbin.Entry], kind: int) -> tuple[str, ...]:
    own = {(one.sm, one.variant) for one in entries if one.kind == kind and not one.blank}
    return tuple(f"sm_{sm}{variant}" for sm, variant in sorted(own))

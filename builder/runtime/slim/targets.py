"""Which entries of a container a GPU may load: those, and no others, have to stay.

Sources: CUDA C++ Programming Guide, "Binary Compatibility" and "Family-Specific Features"; PTX ISA,
".target"; for Thor's two numbers PTX ISA 9.0, target notes of tcgen05 ("sm_101a (Renamed to sm_110a
from PTX ISA version 9.0)", the same of sm_101f), and the release notes of CUDA 13.0. Where the
driver's choice among several is not documented, all of them stay.
"""

from __future__ import annotations

from . import fatbin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List, Sequence, Set, Tuple

    from .fatbin import Container, Entry

# Systems on a chip: their machine code is not for others of the same major version, nor the other
# way round ("binary compatibility between desktop and Tegra is not supported").
TEGRA = {53, 62, 72, 87, 101, 110}
# One chip with two numbers: that of CUDA 12, and that of CUDA 13. Its "a" and "f" went along.
# Nobody says that a driver which knows one takes code that bears the other: such code stays, and
# whatever would serve without it stays, too.
RENAMED = {101: 110, 110: 101}
# Kinds of code that no driver picks by itself: a library hands them to nvJitLink, in an order of
# its own.
LINKED = {
    fatbin.LTO: "LTO IR feeds run-time linking, whichever the GPU; see drops.json",
}
# In a library that links at run time, PTX is input too.
BESIDE_LINKED = {
    fatbin.PTX: "cufft links PTX of several SMs with LTO IR when a plan is made",
}


def parse(text: str) -> List[int]:
    """ "90,8.0" -> [80, 90]. Raises ValueError for what is no compute capability."""
    found = set()
    for part in text.split(","):
        word = part.strip()
        major, dot, minor = word.partition(".")
        digits = major + minor if dot else word
        if not (digits.isascii() and digits.isdigit() and 20 <= int(digits) <= 999):
            raise ValueError(f"{word!r} is no SM; write 90 or 9.0")
        if (dot and len(minor) != 1) or digits.startswith("0"):
            raise ValueError(f"{word!r} is no SM; write 90 or 9.0")
        found.add(int(digits))
    return sorted(found)


def serving(entries: Iterable[Entry], sm: int) -> Set[Entry]:
    """What the driver may load on a GPU of this SM; empty: "no kernel image is available".

    The cubin of the same major version with the highest minor; without one, the highest PTX.
    """
    cubins, texts = _candidates(entries, sm)
    if any(_promised(one, sm) for one in cubins):
        return _best(cubins, sm)
    # A chip's own code that might run, and PTX that certainly does.
    return _best(cubins, sm) | _best(texts, sm)


def covers(entries: Iterable[Entry], sm: int) -> bool:
    """Whether one of them certainly runs on a GPU of this SM."""
    cubins, texts = _candidates(entries, sm)
    return any(_own(one, sm) for one in texts) or any(_promised(one, sm) for one in cubins)


def _candidates(entries: Iterable[Entry], sm: int) -> Tuple[List[Entry], List[Entry]]:
    there = [one for one in entries if not one.blank]
    cubins = [one for one in there if one.kind == fatbin.CUBIN and _runs(one, sm)]
    return cubins, [one for one in there if one.kind == fatbin.PTX and _compiles(one, sm)]


def _runs(entry: Entry, sm: int) -> bool:
    return _is_chip(entry.sm, sm) if entry.variant == "a" else may_run(entry.sm, sm)


def may_run(code: int, sm: int) -> bool:
    """Whether machine code for the SM `code` may run on a GPU of this SM."""
    return _is_chip(code, sm) or (code // 10 == sm // 10 and code <= sm)


def _is_chip(code: int, sm: int) -> bool:
    """Whether both are numbers of one chip."""
    return sm in (code, RENAMED.get(code))


def _own(entry: Entry, sm: int) -> bool:
    """Whether it does not only bear the chip's other number."""
    return RENAMED.get(entry.sm) != sm


def _promised(entry: Entry, sm: int) -> bool:
    return entry.sm == sm or (_own(entry, sm) and (entry.sm in TEGRA) == (sm in TEGRA))


def _compiles(entry: Entry, sm: int) -> bool:
    if entry.variant == "a":
        return _is_chip(entry.sm, sm)
    if entry.variant == "f":
        return may_run(entry.sm, sm)
    return entry.sm <= sm or _is_chip(entry.sm, sm)


def _best(entries: Sequence[Entry], sm: int) -> Set[Entry]:
    """The highest of each variant, and below one that is not promised to run the highest that is.

    A container with sm_90 and sm_90a holds both for a reason that we do not see.
    """
    kept: Set[Entry] = set()
    for variant in {one.variant for one in entries}:
        own = [one for one in entries if one.variant == variant]
        named = [one for one in own if _own(one, sm)]
        for candidates in (own, named, [one for one in named if _promised(one, sm)]):
            highest = max((one.sm for one in candidates), default=None)
            kept |= {one for one in candidates if one.sm == highest}
    return kept


def kept(container: Container, sms: Sequence[int], *, links: bool) -> Set[Entry]:
    """Entries that stay for any of these SMs. `links`: whether the library links at run time.

    PTX for a newer GPU than all of them is no input to any link for these, unless it stands beside
    LTO IR: who takes the container as a whole hands that on, too.
    """
    stay: Set[Entry] = set()
    if links:
        beside = any(one.kind in LINKED for one in container.entries)
        newest = max(max(sm, RENAMED.get(sm, 0)) for sm in sms)
        stay |= {one for one in container.entries if one.kind in LINKED}
        stay |= {
            one
            for one in container.entries
            if one.kind in BESIDE_LINKED and (beside or one.sm <= newest)
        }
    for sm in sms:
        stay |= serving(container.entries, sm)
    return stay


def uncovered(container: Container, sms: Sequence[int]) -> List[int]:
    """SMs that find nothing here. LTO IR serves those that PTX of its SM would: it becomes their
    machine code, and none of an older GPU.
    """
    linked = [one for one in container.entries if one.kind in LINKED]
    return [
        sm
        for sm in sms
        if not any(_own(one, sm) and _compiles(one, sm) for one in linked)
        and not covers(container.entries, sm)
    ]

"""A layout: which instances one card is divided into, where each lies, and why one cannot be.

    "1x3g.40gb,4x1g.10gb"  ->  3g.40gb at memory slice 4, 1g.10gb at 0, 1, 2 and 3

A GPU instance takes consecutive memory slices; no two share one, and the driver admits a profile
at some slices only. Source: NVIDIA's MIG user guide, partitioning, and nvml.h,
nvmlDeviceGetGpuInstancePossiblePlacements.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from builder.errors import UserError, nearest, quoted
from builder.host.mig import cards
from builder.host.mig.cards import Card, has_media

_PART = re.compile(r"(?:(?P<count>\d+)\s*x\s*)?(?P<profile>\S+)")
_MOST = 100  # instances that are worth counting; the largest card has seven
_NEAR = 3  # layouts that are told instead of one that does not fit


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One GPU instance: its profile, and the memory slice at which it begins."""

    profile: str
    start: int


Counts = tuple[tuple[str, int], ...]  # profile -> instances
Found = tuple[Instance, ...] | None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What fits on a card, the largest instance first."""

    card_name: str
    card: Card
    counts: Counts  # the largest first
    instances: tuple[Instance, ...]

    def __str__(self) -> str:
        return spelled(self.counts)

    @property
    def alike(self) -> bool:
        """Whether all instances are of one profile."""
        return len(self.counts) == 1


def spelled(counts: Counts) -> str:
    """A layout as users write it."""
    return ",".join(f"{count}x{name}" for name, count in counts)


def parse(text: str) -> dict[str, int]:
    """How many of each profile are asked for; raises UserError for what is no list of them."""
    counts: dict[str, int] = {}
    for part in text.split(","):
        match = _PART.fullmatch(part.strip().lower())
        if match is None:
            what = "an empty part" if not part.strip() else f"{quoted(part.strip())}"
            raise UserError(
                f"layout {quoted(text)}: {what} is no COUNTxPROFILE",
                hint="write for example 1x3g.40gb,4x1g.10gb",
            )
        count = int((match["count"] or "1")[:9])
        name = match["profile"].removeprefix("mig-").removeprefix("mig").strip()
        if not 0 < count <= _MOST:
            raise UserError(
                f"layout {quoted(text)}: {match['count'][:9]} instances of {quoted(name)}",
                hint=f"a count is from 1 to {_MOST}",
            )
        counts[name] = counts.get(name, 0) + count
    return counts


def choose(gpu: str, text: str) -> Layout:
    """The layout on the card that is meant.

    A family's name means the one card of it that the layout fits on. Raises UserError with the
    nearest profile, with what does not fit and the nearest layouts that do, or with the cards of a
    family that cannot be told apart.
    """
    counts, candidates = parse(text), cards.named(gpu)
    knowing = {name: card for name, card in candidates.items() if set(counts) <= set(card.profiles)}
    if not knowing:
        raise _unknown_profile(gpu, counts, candidates)
    fitting = [
        Layout(card_name=name, card=card, counts=_ordered(card, counts), instances=instances)
        for name, card in knowing.items()
        if (instances := place(card, counts))
    ]
    if len(fitting) > 1:
        names = [layout.card_name for layout in fitting]
        raise UserError(
            f"{spelled(tuple(counts.items()))} fits on {' and on '.join(names)}",
            hint=f"say which: {' or '.join(f'--gpu {name}' for name in names)}",
        )
    if not fitting:
        # Of a family that card which it almost fits on.
        near_on = {name: nearest_layouts(card, counts) for name, card in knowing.items()}
        name = max(
            near_on, key=lambda one: (Counter(dict(near_on[one][0])) & Counter(counts)).total()
        )
        card, near = knowing[name], " or ".join(map(spelled, near_on[name]))
        raise UserError(
            f"{spelled(_ordered(card, counts))} does not fit on {name}: {problem(card, counts)}",
            hint=f"what fits: {near}",
        )
    return fitting[0]


def _unknown_profile(
    gpu: str, counts: Mapping[str, int], candidates: Mapping[str, Card]
) -> UserError:
    known = {name for card in candidates.values() for name in card.profiles}
    unknown = next((name for name in counts if name not in known), None)
    if unknown is None:  # each is of some card of the family, but no card has them all
        return UserError(
            f"no one {gpu} has all of {', '.join(counts)}",
            hint="; ".join(f"{n} has {', '.join(c.profiles)}" for n, c in candidates.items()),
        )
    return UserError(f"{gpu} has no profile {quoted(unknown)}", hint=nearest(unknown, known))


def place(card: Card, counts: Mapping[str, int]) -> tuple[Instance, ...] | None:
    """Where the instances lie; None where they do not fit."""
    return _search(card, _ordered(card, counts)) if _admitted(card, counts) else None


def _ordered(card: Card, counts: Mapping[str, int]) -> Counts:
    return tuple((name, counts[name]) for name in card.largest_first if counts.get(name))


def _admitted(card: Card, counts: Mapping[str, int]) -> bool:
    """Whether there are so many of each, wherever they lie."""
    few = all(count <= card.profiles[name].most for name, count in counts.items())
    return few and sum(count for name, count in counts.items() if has_media(name)) <= 1


def _search(card: Card, counts: Counts) -> tuple[Instance, ...] | None:
    """A free place for each instance; those that take most of the card choose first.

    The highest place is tried first: it leaves the low slices, which more profiles may take.
    """

    def search(left: tuple[str, ...], free: frozenset[int], below: int) -> Found:
        if not left:
            return ()
        name, rest = left[0], left[1:]
        profile = card.profiles[name]
        for start in sorted(profile.at, reverse=True):
            taken = frozenset(range(start, start + profile.memory))
            # Those of one profile are alike: each lies below the one before it.
            if start < below and taken <= free:
                again = bool(rest) and rest[0] == name
                found = search(rest, free - taken, start if again else card.memory)
                if found is not None:
                    return (Instance(profile=name, start=start), *found)
        return None

    names = tuple(name for name, count in counts for _ in range(count))
    return search(names, frozenset(range(card.memory)), card.memory)


def problem(card: Card, counts: Mapping[str, int]) -> str:
    """Why a layout that does not fit does not."""
    for name, count in counts.items():
        most = card.profiles[name].most
        if count > most:
            return f"at most {most} of {name} can be on one, and it names {count}"
    media = [name for name in counts if has_media(name)]
    if len(media) > 1:
        return f"one instance alone can have the media engines, and {' and '.join(media)} want them"
    memory = sum(card.profiles[name].memory * count for name, count in counts.items())
    if memory > card.memory:
        return f"it needs {memory} memory slices of {card.memory}"
    compute = sum(card.profiles[name].compute * count for name, count in counts.items())
    if compute > card.compute:
        return f"it needs {compute} compute slices of {card.compute}"
    places = "; ".join(
        f"{name} begins at {_alternatives(card.profiles[name].at)}" for name in counts
    )
    return f"there are slices enough, but no placement of them: {places}"


def _alternatives(at: tuple[int, ...]) -> str:
    *most, last = map(str, at)
    return f"slice {', '.join(most)} or {last}" if most else f"slice {last} only"


def nearest_layouts(card: Card, counts: Mapping[str, int]) -> list[Counts]:
    """Layouts that fit, those first that differ in the fewest instances, the fullest of them."""
    wanted = Counter(counts)

    def distance(layout: Counts) -> tuple[int, int, int, int, Counts]:
        has = Counter(dict(layout))
        changed = max((wanted - has).total(), (has - wanted).total())
        media = sum(count for name, count in (has - wanted).items() if has_media(name))
        kept = (wanted & has).total()
        used = sum(card.profiles[name].compute * count for name, count in layout)
        return changed, media, -kept, -used, layout

    return sorted(every(card), key=distance)[:_NEAR]


def every(card: Card) -> Iterator[Counts]:
    """All layouts of a card, as counts."""
    names = card.largest_first

    def extend(index: int, counts: dict[str, int]) -> Iterator[Counts]:
        if index == len(names):
            if counts:
                yield _ordered(card, counts)
            return
        for count in range(card.profiles[names[index]].most + 1):
            more = {**counts, names[index]: count} if count else counts
            # Part of what fits fits: where this does not, more of it does not either.
            if count and place(card, more) is None:
                break
            yield from extend(index + 1, more)

    return extend(0, {})

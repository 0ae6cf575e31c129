"""MIG instances in place of GPUs: whether a card that the image runs on can have such a one."""

from __future__ import annotations

from builder.deploy import checked
from builder.deploy.served import Served
from builder.errors import UserError, quoted
from builder.facts import version_key
from builder.host.mig import cards


def profile(served: Served, text: str, option: str = "--mig") -> str:
    """A profile as the device plugin spells it; raises UserError for one that no such card has.

    Of cards whose profiles nobody knows here each is believed.
    """
    wanted = checked.profile(text, option)
    known = _known(served)
    if known is None or wanted in known:
        return wanted
    if not known:
        facts = cards.table()
        names = {card.gpu for card in facts.cards.values()} | set(facts.others)
        raise UserError(
            f"{option}: {served.gpu_title} is not divided by MIG",
            hint=f"these are: {', '.join(sorted(names))}",
        )
    none = served.gpu_title or f"of the GPUs that {served.cell_id} runs on none"
    lacks = "has no" if served.gpu else "has a"
    raise UserError(
        f"{option}: {none} {lacks} profile {quoted(wanted)}",
        hint=f"did you mean {_nearest(wanted, known)!r}?",
    )


def _nearest(wanted: str, known: set[str]) -> str:
    """By slices, then by memory: what is spelt alike may be five times as large."""

    def size(profile: str) -> tuple[int, int]:
        slices, _, memory = profile.partition("g.")
        return int(slices), int(memory.partition("gb")[0])

    (slices, memory), extra = size(wanted), wanted.partition("gb")[2]

    def distance(profile: str) -> tuple[int, int, bool, str]:
        own_slices, own = size(profile)
        differs = profile.partition("gb")[2] != extra
        return abs(own_slices - slices), abs(own - memory), differs, profile

    return min(known, key=distance)


def _known(served: Served) -> set[str] | None:
    """Names of profiles that cards have on which the image runs; None where nobody knows."""
    facts = cards.table()
    if served.gpu is None:
        listed = {name for one in facts.others.values() for name in one}
        fitting = [card for card in facts.cards.values() if _covers(served, card.sm)]
    else:
        if facts.others.get(served.gpu) == ():
            return None
        listed = set(facts.others.get(served.gpu, ()))
        fitting = [card for card in facts.cards.values() if card.gpu == served.gpu]
    listed |= {name for card in fitting for name in card.profiles}
    return {name.replace("+", ".") for name in listed}


def _covers(served: Served, sm: str) -> bool:
    """Code of a major SM runs on that minor and later ones."""
    major, minor = version_key(sm)
    return any(has[0] == major and has[1] <= minor for has in map(version_key, served.sms))

"""The cards that can be divided, and their profiles: cards.yaml as frozen types."""

from __future__ import annotations

import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, StringConstraints

from builder.errors import UserError, nearest, quoted
from builder.facts import Fact, Name, Text, Version

ProfileName = Annotated[str, StringConstraints(pattern=r"^\d+g\.\d+gb(\+me(\.all)?|-me)?$")]
_FILE = Path(__file__).with_name("cards.yaml")


class Profile(Fact):
    """An instance that a card may have."""

    id: Annotated[int, Field(ge=0)]  # nvidia-smi's
    compute: Annotated[int, Field(gt=0)]  # slices
    memory: Annotated[int, Field(gt=0)]  # slices
    at: tuple[int, ...]  # the memory slices at which it may begin
    most: Annotated[int, Field(gt=0)]  # instances on one card
    gib: Annotated[float, Field(gt=0)]  # GiB that the driver says it has


class Card(Fact):
    """A GPU that MIG divides."""

    title: Text
    product: Text  # the word of it in the driver's product_name
    gpu: Name  # of matrix.yaml: the one that rules ask about
    sm: Version
    generation: Literal["ampere", "hopper", "blackwell"]
    driver: Version  # the oldest that divides it
    memory: Annotated[int, Field(gt=0)]  # slices
    compute: Annotated[int, Field(gt=0)]  # slices
    profiles: dict[ProfileName, Profile]
    source: Text

    @cached_property
    def largest_first(self) -> tuple[str, ...]:
        """Profiles' names: what takes more of the card comes first, media engines last."""
        return tuple(sorted(self.profiles, key=self._size, reverse=True))

    def _size(self, name: str) -> tuple[int, int, bool]:
        profile = self.profiles[name]
        return profile.memory, profile.compute, not has_media(name)


class Fit(Fact):
    """The margins by which a model's size is reckoned."""

    server: Annotated[float, Field(gt=0, le=1)]
    overhead_gib: Annotated[float, Field(ge=0)]
    kv_share: Annotated[float, Field(ge=0, lt=1)]
    why: Text
    types: dict[Name, int]  # bytes a parameter
    fp8: Text
    billions: tuple[float, ...]  # parameters, ascending


class Table(Fact):
    """All of cards.yaml."""

    as_of: datetime.date
    families: dict[Name, tuple[Name, ...]]
    others: dict[Name, tuple[ProfileName, ...]]  # GPUs of matrix.yaml -> names alone, (): unknown
    cards: dict[Name, Card]
    fit: Fit


def has_media(name: str) -> bool:
    """Whether a profile has the media engines that are on a card once."""
    return name.endswith("+me")


@cache
def table() -> Table:
    """The committed facts."""
    return Table.model_validate(yaml.safe_load(_FILE.read_text(encoding="utf-8")), strict=False)


def named(gpu: str) -> dict[str, Card]:
    """The cards that a name may mean: one, or those of a family; raises UserError."""
    facts, wanted = table(), gpu.lower()
    if wanted in facts.cards:
        return {wanted: facts.cards[wanted]}
    if wanted in facts.families:
        return {name: facts.cards[name] for name in facts.families[wanted]}
    hint = nearest(wanted, [*facts.families, *facts.cards])
    if wanted in facts.others:
        raise UserError(
            f"{quoted(gpu)} is divided by MIG, and where its instances may begin is not published",
            hint="`nvidia-smi mig -lgipp` on the card tells it",
        )
    raise UserError(f"no GPU {quoted(gpu)} that MIG divides", hint=hint)

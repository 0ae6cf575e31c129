"""Slices of Cloud TPUs: slices.yaml as frozen types, and the one that a user names."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, StringConstraints

from builder.errors import UserError, nearest, quoted
from builder.facts import Fact, Name, Text

Topology = Annotated[str, StringConstraints(pattern=r"^\d+x\d+(x\d+)?$")]
_FILE = Path(__file__).with_name("slices.yaml")


class Machine(Fact):
    """A kind of host."""

    chips: Annotated[int, Field(gt=0)]
    one: tuple[Topology, ...] = ()  # slices that are one such host
    several: tuple[Topology, ...] = ()  # slices of more
    spread: bool = False  # whether its chips hang on both of its NUMA nodes


class Generation(Fact):
    """A generation of TPUs."""

    title: Text
    api: Name  # begins its accelerator types
    cores: Annotated[int, Field(gt=0)]  # TensorCores a chip, which a type's number counts
    devices: Annotated[int, Field(gt=0)]  # of JAX, a chip
    runtime: Text  # version of the software on a TPU VM
    gke: Name  # the label's value
    policy: bool = False  # whether a node pool of several hosts is laid out by a workload policy
    machines: dict[Name, Machine]
    experimental: tuple[Name, ...] = ()  # frameworks that call themselves so on it
    caution: Text | None = None  # about the Cloud TPU API
    source: Text


class Table(Fact):
    """All of slices.yaml."""

    as_of: datetime.date
    aliases: dict[Name, Name]
    generations: dict[Name, Generation]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Chips that are connected, and the hosts that they are in."""

    generation: Generation
    topology: str
    machine_name: str
    machine: Machine

    @property
    def chips(self) -> int:
        """Of all hosts."""
        return math.prod(map(int, self.topology.split("x")))

    @property
    def hosts(self) -> int:
        """How many machines it is."""
        return self.chips // self.machine.chips

    @property
    def alone(self) -> bool:
        """Whether no other machine serves its topology, so that the label says which it is."""
        machines = self.generation.machines.values()
        return sum(self.topology in (*one.one, *one.several) for one in machines) == 1

    @property
    def devices(self) -> int:
        """Ranks of tensor parallelism over all of it."""
        return self.chips * self.generation.devices

    @property
    def accelerator(self) -> str:
        """Its accelerator type of the Cloud TPU API."""
        return f"{self.generation.api}-{self.chips * self.generation.cores}"

    def __str__(self) -> str:
        chips = "one chip" if self.chips == 1 else f"{self.chips} chips"
        hosts = "one host" if self.hosts == 1 else f"{self.hosts} hosts"
        return f"{self.generation.title}, {self.topology}: {chips} in {hosts}"


@cache
def table() -> Table:
    """The committed facts."""
    return Table.model_validate(yaml.safe_load(_FILE.read_text(encoding="utf-8")), strict=False)


def every() -> Iterator[Slice]:
    """All slices; of one topology the one with fewer hosts comes first."""
    for generation in table().generations.values():
        machines = sorted(generation.machines.items(), key=lambda item: -item[1].chips)
        for name, machine in machines:
            for topology in (*machine.one, *machine.several):
                yield Slice(
                    generation=generation, topology=topology, machine_name=name, machine=machine
                )


def by_type(text: str, option: str = "--accelerator") -> Slice:
    """The slice of an accelerator type; raises UserError with the nearest that there is."""
    known: dict[str, Slice] = {}
    for one in every():
        known.setdefault(one.accelerator, one)
    if text in known:
        return known[text]
    start, dash, number = text.lower().rpartition("-")
    meant = f"{table().aliases.get(start, start)}{dash}{number}"
    like = [name for name in known if name.startswith(f"{meant.rpartition('-')[0]}-")]
    like.sort(key=lambda name: known[name].chips)
    if meant in known:
        hint = f"did you mean {meant!r}?"
    else:
        hint = f"known: {', '.join(like)}" if like else nearest(text, known)
    raise UserError(f"{option}: {quoted(text)} is no accelerator type", hint=hint)


def by_topology(
    accelerator: str, topology: str, machine: str | None = None, option: str = "--accelerator"
) -> Slice:
    """The slice of a node pool; raises UserError with the nearest that there is."""
    generations = table().generations
    name = accelerator.lower()
    short = next((key for key, one in generations.items() if name in (key, one.gke, one.api)), None)
    if short is None:
        labels = [*generations, *(one.gke for one in generations.values())]
        raise UserError(
            f"{option}: {quoted(accelerator)} is no kind of TPU that GKE labels nodes with",
            hint=nearest(name, labels),
        )
    generation = generations[short]
    if machine is not None and machine not in generation.machines:
        raise UserError(
            f"--machine-type: {quoted(machine)} is no machine of {generation.title}",
            hint=nearest(machine, generation.machines),
        )
    fitting = [
        one
        for one in every()
        if one.generation is generation and machine in (None, one.machine_name)
    ]
    if found := next((one for one in fitting if one.topology == topology), None):
        return found
    known = list(dict.fromkeys(one.topology for one in sorted(fitting, key=lambda s: s.chips)))
    what = machine or generation.title
    raise UserError(
        f"--topology: {quoted(topology)} is no topology of {what}",
        hint=f"known: {', '.join(known)}",
    )

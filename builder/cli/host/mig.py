"""`imgbuild host mig`."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from pathlib import Path

import click

from builder.cli import options
from builder.facts import Matrix
from builder.host.mig import cards, commands, fits, layout
from builder.host.mig.layout import Layout

FORMATS = ("text", "nvidia-smi", "mig-parted", "kubernetes")


@click.command("mig")
@options.file
@click.option("--gpu", required=True, metavar="GPU", help="As h100, a100-40, h100-94, b200.")
@click.option(
    "--layout",
    "wanted",
    required=True,
    metavar="COUNTxPROFILE,...",
    help="As 7x1g.10gb, or 1x3g.40gb,4x1g.10gb. A count of 1 may be left out.",
)
@click.option(
    "--devices",
    default="0",
    show_default=True,
    metavar="INDEX,...|all",
    help="Which GPUs of the host the commands are for.",
)
@click.option(
    "--format",
    "shown",
    type=click.Choice(FORMATS),
    help="All of it, or one part alone.  [default: text]",
)
@options.as_json
def command(
    file: Path | None, gpu: str, wanted: str, devices: str, shown: str | None, *, as_json: bool
) -> None:
    """Check how a GPU is divided with NVIDIA's MIG, and print what divides it so.

    Commands for nvidia-smi, a configuration for mig-parted, the names by which Kubernetes knows the
    instances, and which models and cells fit into one. Nothing is run.
    """
    options.one_answer(shown, as_json=as_json)
    devices = commands.devices_of(devices)
    chosen = layout.choose(gpu, wanted)
    if as_json:
        _, loaded = options.open_matrix(file)
        click.echo(json.dumps(_as_json(chosen, devices, loaded), indent=2))
    elif shown == "nvidia-smi":
        click.echo(_script(chosen, devices), nl=False)
    elif shown == "mig-parted":
        click.echo(commands.mig_parted(chosen, devices), nl=False)
    elif shown == "kubernetes":
        click.echo("\n".join(_kubernetes(chosen)))
    else:
        _, loaded = options.open_matrix(file)
        click.echo("\n".join(_text(chosen, devices, loaded)))


def _as_json(chosen: Layout, devices: str, loaded: Matrix) -> dict[str, object]:
    card, facts = chosen.card, cards.table()
    return {
        "card": chosen.card_name,
        "title": card.title,
        "layout": str(chosen),
        "devices": devices,
        "instances": [
            {
                "profile": one.profile,
                "profile_id": card.profiles[one.profile].id,
                "start": one.start,
                "size": card.profiles[one.profile].memory,
            }
            for one in chosen.instances
        ],
        "driver": card.driver,
        "nvidia_smi": [dataclasses.asdict(step) for step in commands.nvidia_smi(chosen, devices)],
        "mig_parted": {
            "name": commands.config_name(chosen),
            "config": commands.mig_parted(chosen, devices),
        },
        "kubernetes": {
            strategy.name: {"resources": dict(strategy.resources), "note": strategy.note}
            for strategy in commands.kubernetes(chosen)
        },
        "fits": [
            {
                "profile": room.profile,
                "memory_gib": room.memory_gib,
                "weights_gib": room.weights_gib,
                "billions": dict(room.most),
                "usual": dict(room.usual),
            }
            for room in _rooms(chosen)
        ],
        "reckoning": facts.fit.why,
        "cells": [cell.id for cell in fits.cells(loaded, card)],
        "source": card.source,
        "as_of": facts.as_of.isoformat(),
    }


def _rooms(chosen: Layout) -> list[fits.Room]:
    return [fits.room(chosen.card, name, cards.table().fit) for name, _ in chosen.counts]


def _text(chosen: Layout, devices: str, loaded: Matrix) -> list[str]:
    card, facts = chosen.card, cards.table()
    used = [card.profiles[one.profile] for one in chosen.instances]
    compute, memory = sum(one.compute for one in used), sum(one.memory for one in used)
    lines = [f"{card.title}: {chosen} fits"]
    lines[0] += (
        f"; {compute} of {card.compute} compute slices, {memory} of {card.memory} memory slices"
    )
    lines += ["", f"{'instance':<12}{'id':>3}  {'each':>10}  memory slices"]
    for name, _ in chosen.counts:
        profile = card.profiles[name]
        spans = sorted(one.start for one in chosen.instances if one.profile == name)
        where = ", ".join(_span(start, profile.memory) for start in spans)
        lines.append(f"{name:<12}{profile.id:>3}  {profile.gib:>6g} GiB  {where}")
    lines += ["", f"nvidia-smi (driver {card.driver} or newer)"]
    lines += _indented(_script(chosen, devices))
    lines += ["", f"mig-parted (nvidia-mig-parted apply -f FILE -c {commands.config_name(chosen)})"]
    lines += _indented(commands.mig_parted(chosen, devices))
    lines += ["", "Kubernetes (NVIDIA's device plugin)"]
    lines += _indented("\n".join(_kubernetes(chosen)))
    lines += ["", "models, by the size of their weights"]
    lines += _indented("\n".join(_models(chosen)))
    lines += ["", "cells: one server an instance, each sees one GPU (no P2P between instances)"]
    lines += _wrapped(", ".join(cell.id for cell in fits.cells(loaded, card)) or "none", "  ")
    return [*lines, "", *_wrapped(f"source: {card.source} ({facts.as_of})", "")]


def _span(start: int, size: int) -> str:
    return str(start) if size == 1 else f"{start}-{start + size - 1}"


def _script(chosen: Layout, devices: str) -> str:
    """The commands as lines for a shell; what shows and what undoes stay comments."""
    lines = []
    for step in commands.nvidia_smi(chosen, devices):
        lines += _wrapped(f"{step.name}: {step.why}", "# ")
        mark = "# " if step.name == "destroy" else ""
        lines += [f"{mark}{line}" for line in step.commands]
    return "\n".join(lines) + "\n"


def _kubernetes(chosen: Layout) -> list[str]:
    lines = []
    for strategy in commands.kubernetes(chosen):
        lines.append(f"migStrategy: {strategy.name}  # {strategy.note}")
        lines += [f"  {name}: {count}  # of each GPU" for name, count in strategy.resources]
    label = f"nvidia.com/mig.config={commands.config_name(chosen)}"
    return [*lines, f"kubectl label node NODE {label} --overwrite  # with the GPU Operator"]


def _models(chosen: Layout) -> list[str]:
    fit = cards.table().fit
    lines = []
    for room in _rooms(chosen):
        sizes = ", ".join(
            f"{kind} up to {limit:g} B" + (f" (as {usual:g} B)" if usual else "")
            for (kind, limit), (_, usual) in zip(room.most, room.usual, strict=True)
        )
        lines.append(f"{room.profile:<12} {room.weights_gib:g} GiB of weights: {sizes}")
    lines += _wrapped(f"reckoned, not measured: {fit.why}", "")
    old = chosen.card.generation == "ampere"
    return [*lines, *(_wrapped(f"fp8: {fit.fp8}", "") if old else [])]


def _wrapped(text: str, mark: str) -> list[str]:
    return textwrap.wrap(
        text,
        96,
        initial_indent=mark,
        subsequent_indent=mark,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _indented(text: str) -> list[str]:
    return textwrap.indent(text.rstrip("\n"), "  ").splitlines()

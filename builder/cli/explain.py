"""`imgbuild explain`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from builder import bases, matrix
from builder.cli import options
from builder.facts import Gpu, Matrix
from builder.matrix import rules
from builder.model import Cell


@click.command("explain")
@click.argument("cell_id", metavar="CELL")
@options.file
@options.as_json
def command(cell_id: str, file: Path | None, *, as_json: bool) -> None:
    """Say why CELL is what it is: each choice, what each rule said, driver, GPUs, sources.

    A cell that the rules refuse is an error that has their reasons and the nearest that fits.
    """
    project, loaded = options.open_matrix(file)
    told = explained(loaded, matrix.cell(loaded, cell_id), bases.read(project))
    click.echo(json.dumps(told, indent=2) if as_json else _text(told))


def explained(loaded: Matrix, cell: Cell, pins: Mapping[str, str]) -> dict[str, Any]:
    """What there is to say of a cell, as plain data; `pins` are those of base images."""
    place = matrix.place_of(loaded, matrix.parse_id(loaded, cell.id))
    passed_over = []
    for candidate in rules.candidates(cell.framework, place):
        if candidate.build is cell.build:
            break
        verdict = rules.judge(candidate)
        name = f"{verdict.release.version} {verdict.build.name}"
        passed_over.append({"release": name, "objections": verdict.objections})
    here = rules.Candidate(release=cell.release, build=cell.build, place=place)
    covered = [name for name, gpu in loaded.gpus.items() if _runs_on(here, gpu)]
    return {
        "cell": cell.id,
        "framework": {"name": cell.framework.title, "version": cell.release.version},
        "release": {"source": cell.release.source, "python": cell.release.python},
        "build": {
            "name": cell.build.name,
            "requirements": list(cell.build.requirements),
            "image": cell.build.wrap.image if cell.build.wrap else None,
            "why": cell.build.why,
            "source": cell.build.source,
        },
        "stack": {
            "name": cell.stack_name,
            "title": cell.stack.title,
            "source": cell.stack.source,
        },
        "os": {
            "name": cell.os_name,
            "title": cell.os.title,
            "python": cell.os.python,
            "glibc": cell.os.glibc,
            "source": cell.os.source,
            "without a registry": cell.bootstrap_os_name,
        },
        "base": cell.registry_base,
        "base digest": pins.get(cell.registry_base),
        "driver": {"needed": cell.build.driver_floor, "promised": cell.stack.driver},
        "gpu": {"sm": cell.gpu.sm, "source": cell.gpu.source} if cell.gpu else None,
        "gpus": covered,
        "passed over": passed_over,
        "note": cell.framework.note,
        "rules": [
            {
                "name": rule.name,
                "demands": rule.demands,
                "why": rule.why,
                "source": rule.source,
                "asked": rule.asks(cell.build),
            }
            for rule in rules.RULES
        ],
    }


def _runs_on(candidate: rules.Candidate, gpu: Gpu) -> bool:
    """Whether the same image runs on that GPU too."""
    place = dataclasses.replace(candidate.place, gpu=gpu)
    same_cpu = place.arch == candidate.place.arch
    return same_cpu and not any(rules.objections(dataclasses.replace(candidate, place=place)))


def _pinned(base: str, digest: str | None) -> str:
    if "@" in base:
        return "pinned by matrix.yaml"
    if digest:
        return f"pinned to {digest}"
    return "unpinned: whatever its tag names when it is built; `imgbuild lock --bases` pins it"


def _text(told: dict[str, Any]) -> str:
    framework, build, stack, os = (told[key] for key in ("framework", "build", "stack", "os"))
    rows = [
        ("stack", f"{stack['name']}: {stack['title']}", stack["source"]),
        ("release", f"{framework['name']} {framework['version']}", told["release"]["source"]),
        (
            "image" if build["image"] else "wheels",
            f"{build['name']}: {build['image'] or ', '.join(build['requirements'])}",
            build["source"],
        ),
    ]
    rows += [("", f"because it is {build['why']}", "")] if build["why"] else []
    rows += [
        ("os", f"{os['title']}: Python {os['python']}, glibc {os['glibc']}", os["source"]),
        ("base", f"{told['base']}, without a registry {os['without a registry'] or 'none'}", ""),
        ("", _pinned(told["base"], told["base digest"]), ""),
    ]
    rows += [("note", told["note"], "")] if told["note"] else []
    if told["driver"]["needed"]:
        driver = told["driver"]
        text = f">={driver['needed']}; hosts of this stack have {driver['promised']} or newer"
        rows.append(("driver", text, ""))
    if told["gpu"]:
        rows.append(("gpu", f"SM {told['gpu']['sm']}", told["gpu"]["source"]))
    if told["gpus"]:
        rows.append(("runs on", ", ".join(told["gpus"]), ""))
    lines = [told["cell"]]
    for name, text, source in rows:
        lines.append(f"  {name:<9} {text}" + (f"  [{source}]" if source else ""))
    for other in told["passed over"]:
        whys = "; ".join(f"{why} ({rule})" for rule, why in other["objections"].items())
        lines.append(f"  not       {other['release']}: {whys}")
    lines.append("  rules, which this cell keeps:")
    for rule in told["rules"]:
        if not rule["asked"]:
            continue
        lines.append(f"    {rule['name']:<14} {rule['demands']}")
        lines.append(f"    {'':<14} Because {rule['why']}. [{rule['source']}]")
    if unasked := [rule["name"] for rule in told["rules"] if not rule["asked"]]:
        lines.append(f"  not asked, since it is an upstream image: {', '.join(unasked)}")
    return "\n".join(lines)

"""`imgbuild explain`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from builder import matrix
from builder.cli import options
from builder.matrix import rules
from builder.model import Cell, Matrix


@click.command("explain")
@click.argument("cell_id", metavar="CELL")
@options.file
@options.as_json
def command(cell_id: str, file: Path | None, *, as_json: bool) -> None:
    """Say why CELL is what it is: each choice, what each rule said, driver, GPUs, sources.

    A cell that the rules refuse is an error that has their reasons and the nearest that fits.
    """
    _, loaded = options.open_matrix(file)
    told = explained(loaded, matrix.cell(loaded, cell_id))
    click.echo(json.dumps(told, indent=2) if as_json else _text(told))


def explained(loaded: Matrix, cell: Cell) -> dict[str, Any]:
    """What there is to say of a cell, as plain data."""
    systems = (cell.os, cell.bootstrap_os)
    passed_over = []
    for verdict in rules.verdicts(cell.framework, cell.stack, cell.gpu, systems):
        if verdict.build is cell.build:
            break
        name = f"{verdict.release.version} {verdict.build.name}"
        passed_over.append({"release": name, "objections": verdict.objections})
    here = rules.Candidate(
        framework=cell.framework,
        release=cell.release,
        build=cell.build,
        stack=cell.stack,
        gpu=None,
        systems=systems,
    )
    covered = [
        name
        for name, gpu in loaded.gpus.items()
        if not rules.judge(dataclasses.replace(here, gpu=gpu)).objections
    ]
    return {
        "cell": cell.id,
        "framework": {"name": cell.framework.title, "version": cell.release.version},
        "release": {"source": cell.release.source, "python": cell.release.python},
        "build": {
            "name": cell.build.name,
            "requirements": list(cell.build.requirements),
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
        "driver": {"needed": cell.build.driver_floor, "promised": cell.stack.driver},
        "gpu": {"sm": cell.gpu.sm, "source": cell.gpu.source} if cell.gpu else None,
        "gpus": covered,
        "passed over": passed_over,
        "rules": {rule.__name__: rules.summary(rule) for rule in rules.RULES},
    }


def _text(told: dict[str, Any]) -> str:
    framework, build, stack, os = (told[key] for key in ("framework", "build", "stack", "os"))
    rows = [
        ("stack", f"{stack['name']}: {stack['title']}", stack["source"]),
        ("release", f"{framework['name']} {framework['version']}", told["release"]["source"]),
        ("wheels", f"{build['name']}: {', '.join(build['requirements'])}", build["source"]),
    ]
    rows += [("", f"because it is {build['why']}", "")] if build["why"] else []
    rows += [
        ("os", f"{os['title']}: Python {os['python']}, glibc {os['glibc']}", os["source"]),
        ("base", f"{told['base']}, without a registry {os['without a registry']}", ""),
    ]
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
    lines += [f"    {name:<12} {sentence}" for name, sentence in told["rules"].items()]
    return "\n".join(lines)

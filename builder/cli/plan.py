"""`imgbuild plan`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from builder import matrix
from builder.cli import options
from builder.model import BaseKind
from builder.prepare import Prepared, Workbench


@click.command("plan")
@click.argument("cell_id", metavar="CELL")
@options.file
@click.option(
    "--base",
    type=click.Choice([kind.value for kind in BaseKind]),
    default=BaseKind.REGISTRY.value,
    show_default=True,
    help="The kind of base to plan for.",
)
@options.as_json
def command(cell_id: str, file: Path | None, base: str, *, as_json: bool) -> None:
    """Show what CELL is made of: layers and steps, environment, labels, entrypoint."""
    project, loaded = options.open_matrix(file)
    cell = matrix.cell(loaded, cell_id)
    planned = _plain(Workbench(project, loaded).prepare(cell, BaseKind(base)))
    click.echo(json.dumps(planned, indent=2) if as_json else _text(planned))


def _plain(prepared: Prepared) -> dict[str, Any]:
    recipe = prepared.recipe
    return {
        "cell": recipe.cell.id,
        "tags": [recipe.cell.tag, recipe.cell.tag_id, prepared.naming.content],
        "base": {
            "kind": recipe.kind.value,
            "image": recipe.base,
            "digest": recipe.pinned_base.partition("@")[2] or None,
            "os": recipe.os_name,
        },
        "lock": recipe.lock.closure_id,
        "layers": [
            {
                "name": layer.name,
                "why": layer.why,
                "steps": [dataclasses.asdict(step) for step in layer.steps],
            }
            for layer in recipe.layers
        ],
        "pins": recipe.lock.pins,
        "environment": dict(recipe.env),
        "labels": dict(recipe.labels),
        "user": dataclasses.asdict(recipe.user),
        "entrypoint": list(recipe.entrypoint),
        "health": list(recipe.health),
        "port": recipe.port,
    }


def _text(planned: dict[str, Any]) -> str:
    base = planned["base"]
    pinned = f"pinned to {base['digest']}" if base["digest"] else "unpinned, by tag"
    lines = [
        f"{planned['cell']} on {base['image']} ({base['kind']})",
        *([f"  base        {pinned}"] if base["kind"] == BaseKind.REGISTRY else []),
        f"  lock        {planned['lock']}: {len(planned['pins'])} wheels"
        if planned["lock"]
        else "  lock        none: it is upstream's image",
    ]
    lines += [f"  layer       {layer['name']}: {layer['why']}" for layer in planned["layers"]]
    lines += [f"  {name}={value}" for name, value in planned["environment"].items()]
    lines += [
        f"  entrypoint  {' '.join(planned['entrypoint'])}",
        f"  port        {planned['port']}, uid {planned['user']['uid']}",
    ]
    return "\n".join(lines)

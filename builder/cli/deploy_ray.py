"""`imgbuild deploy ray`: a cluster of Ray on hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from builder import deploy, matrix, render
from builder.cli import deploy_options, options
from builder.model import Cell


def _image(cell: Cell, image: str | None, registry: str | None, engine: str) -> str:
    if engine == deploy.Engine.APPTAINER and image is None and registry is None:
        return f"dist/{cell.id}.sif"  # where `imgbuild sif` puts it
    return deploy_options.reference(cell, image, registry)


@click.command("ray")
@click.argument("cell_id", metavar="CELL")
@click.argument("arguments", metavar="[-- ARGUMENTS...]", nargs=-1, type=click.UNPROCESSED)
@options.file
@click.option(
    "--model", required=True, metavar="DIR", help="A folder of the hosts, the same on all."
)
@deploy_options.IMAGE
@deploy_options.REGISTRY
@click.option("--head", metavar="ADDRESS", help="Of the head's host, as the workers reach it.")
@click.option(
    "--hosts", "count", type=int, default=2, show_default=True, help="With the head's host."
)
@click.option("--name", metavar="NAME", help="Of the containers. Default: ray.")
@click.option(
    "--engine",
    type=click.Choice([engine.value for engine in deploy.Engine]),
    default=deploy.Engine.DOCKER.value,
    show_default=True,
)
@click.option("--gpus", type=int, metavar="N", help="Of each host. Default: 1.")
@click.option("--cpus", metavar="N", help="That Ray may hand out on each host. Default: all.")
@click.option("--head-only", is_flag=True, help="The head computes nothing, and needs no GPU.")
@click.option(
    "--spread",
    is_flag=True,
    help="One vLLM over all hosts, for a model that one cannot hold. Default: one a host.",
)
@click.option(
    "--token-folder",
    metavar="DIR",
    help="For the cluster's token alone, closed to others. Default: /etc/imgbuild-NAME.",
)
@click.option("--network", metavar="NAME", help="Of the engine's, for several nodes on one host.")
@deploy_options.SHM
@deploy_options.ENV
@click.option("--json", "as_json", is_flag=True, help="The commands as lists, and the ports.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write. Default: stdout.",
)
def ray(
    cell_id: str,
    file: Path | None,
    *,
    image: str | None,
    registry: str | None,
    engine: str,
    as_json: bool,
    output: Path | None,
    **wishes: Any,
) -> None:
    """Write a script that serves MODEL with CELL's image on several hosts, through Ray.

    It says what to type on which host, and reaches none. What follows `--` goes to vLLM.
    """
    _, loaded = options.open_matrix(file)
    cell = matrix.cell(loaded, cell_id)
    served = deploy.of(cell)
    reference = _image(cell, image, registry, engine)
    wanted = deploy.hosts(served, image=reference, engine=engine, **wishes)
    if as_json:
        text = json.dumps(deploy.ray_commands(served, wanted), indent=1) + "\n"
    else:
        text = deploy.ray_script(served, wanted)
    if output is None:
        click.echo(text, nl=False)
        return
    for changed in render.write(output.parent, [render.RenderedImage(".", {output.name: text})]):
        click.echo(changed)

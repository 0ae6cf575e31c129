"""`imgbuild deploy ray` and `kuberay`: a cluster of Ray, on hosts and on Kubernetes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from builder import deploy, matrix
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
    deploy_options.hand_over(text, output)


@click.command("kuberay")
@click.argument("cell_id", metavar="CELL")
@click.argument("arguments", metavar="[-- ARGUMENTS...]", nargs=-1, type=click.UNPROCESSED)
@options.file
@click.option(
    "--model",
    required=True,
    metavar="MODEL",
    help="pvc://CLAIM[/FOLDER]: the volume that has it, for all nodes.",
)
@deploy_options.IMAGE
@deploy_options.REGISTRY
@click.option("--name", metavar="NAME", help="Of all objects. Default: ray.")
@click.option("-n", "--namespace", metavar="NAME", help="Of all objects. Default: none is named.")
@click.option(
    "--kuberay",
    "version",
    type=click.Choice(deploy.KUBERAY),
    default=deploy.KUBERAY_DEFAULT,
    show_default=True,
    help="The operator's version, or an older one.",
)
@click.option("--cluster-only", is_flag=True, help="A RayCluster, which serves nothing yet.")
@click.option("--replicas", type=int, metavar="N", help="Workers, an engine on each. Default: 1.")
@click.option(
    "--surge/--no-surge",
    default=True,
    help="A change starts another cluster first, which needs GPUs for both; else it changes the "
    "application alone. Default: on.",
)
@deploy_options.GPUS
@deploy_options.MIG
@deploy_options.GPU_PRODUCTS
@deploy_options.GPU_LABELS
@deploy_options.NODE_LABELS
@click.option("--cpus", metavar="N", help="Whole CPUs of a worker. Default: as deploy k8s.")
@click.option("--memory", metavar="SIZE", help="Of a worker. Default: as deploy k8s.")
@click.option("--head-cpus", metavar="N", default="2", show_default=True)
@click.option("--head-memory", metavar="SIZE", default="8Gi", show_default=True)
@deploy_options.SHM
@deploy_options.HUGEPAGES
@deploy_options.CACHE_SIZE
@deploy_options.CACHE_CLAIM
@deploy_options.ENV
@deploy_options.SECRET_ENV
@deploy_options.HF_TOKEN
@deploy_options.PULL_SECRETS
@deploy_options.RUNTIME_CLASS
@deploy_options.PRIORITY_CLASS
@deploy_options.ANY_UID
@deploy_options.DRAIN
@click.option(
    "--auth-secret",
    metavar="SECRET",
    help="Its key auth_token has the cluster's token. Default: KubeRay makes one.",
)
@click.option("--redis", metavar="HOST:PORT", help="Where a head that is replaced finds its state.")
@click.option("--redis-password-secret", "redis_password", metavar="SECRET[/KEY]")
@deploy_options.NETWORK_POLICY
@deploy_options.ALLOW_FROM
@click.option("--operator-namespace", metavar="NAME", help="KubeRay's. Default: any.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write. Default: stdout.",
)
def kuberay(
    cell_id: str,
    file: Path | None,
    *,
    image: str | None,
    registry: str | None,
    output: Path | None,
    **wishes: Any,
) -> None:
    """Write a RayService that serves MODEL with CELL's image, for KubeRay.

    What follows `--` goes to vLLM. docs/ray.md says why each field is what it is.
    """
    _, loaded = options.open_matrix(file)
    cell = matrix.cell(loaded, cell_id)
    served = deploy.of(cell)
    reference = deploy_options.reference(cell, image, registry)
    wanted = deploy.kuberay(served, image=reference, **wishes)
    deploy_options.hand_over(deploy.kuberay_stream(served, wanted), output)

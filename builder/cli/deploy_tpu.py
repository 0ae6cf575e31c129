"""`imgbuild deploy tpu-vm` and `gke-tpu`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from builder import deploy, matrix, render
from builder.cli import deploy_options, options
from builder.deploy.tpu import outputs, slices
from builder.deploy.tpu import pool as pools
from builder.deploy.tpu import vm as vms
from builder.errors import DriftError, UserError

_SPOT = click.option("--spot", is_flag=True, help="Capacity that may be taken back at any time.")
_ARGUMENTS = click.argument(
    "arguments", metavar="[-- ARGUMENTS...]", nargs=-1, type=click.UNPROCESSED
)


@click.command("tpu-vm")
@click.argument("cell_id", metavar="CELL")
@_ARGUMENTS
@options.file
@click.option(
    "--accelerator", required=True, metavar="TYPE", help="As v6e-8, v5litepod-4, v5p-8, tpu7x-8."
)
@click.option("--zone", required=True, metavar="ZONE", help="Of the VMs, as us-east5-b.")
@click.option("--project", required=True, metavar="PROJECT", help="Of Google Cloud.")
@click.option(
    "--model", required=True, metavar="MODEL", help="ORG/NAME on a hub, or a folder of each VM."
)
@deploy_options.IMAGE
@deploy_options.REGISTRY
@click.option("--name", metavar="NAME", help="Of VMs and container. Default: the framework's.")
@click.option("--runtime-version", "runtime", metavar="VERSION", help="Default: the generation's.")
@click.option(
    "--queued/--no-queued", default=True, help="Wait for capacity, or fail without. Default: wait."
)
@_SPOT
@click.option("--reserved", is_flag=True, help="Out of the project's reservation.")
@click.option("--network", metavar="NAME", help="Default: default.")
@click.option("--subnetwork", metavar="NAME")
@click.option("--service-account", metavar="ADDRESS", help="Of the VMs.")
@click.option(
    "--hf-token-secret", "hf_token", metavar="SECRET", help="Of Secret Manager: the hub's token."
)
@click.option(
    "--ray-token-secret",
    "ray_token",
    metavar="SECRET",
    help="Of Secret Manager: Ray's token, where there are several hosts.",
)
@deploy_options.SHM
@click.option("--listen", metavar="ADDRESS", default="127.0.0.1", show_default=True)
@deploy_options.ENV
@options.as_json
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write. Default: stdout.",
)
def tpu_vm(
    cell_id: str,
    file: Path | None,
    *,
    image: str | None,
    registry: str | None,
    as_json: bool,
    output: Path | None,
    **wishes: Any,
) -> None:
    """Write the gcloud commands that serve MODEL with CELL's image on TPU VMs.

    A shell script that asks for the VMs and starts the server on each; what looks and what undoes
    it are comments. What follows `--` goes to the server. Nothing is run.
    """
    _, loaded = options.open_matrix(file)
    cell = matrix.cell(loaded, cell_id)
    served = deploy.of_tpu(cell)
    wanted = vms.vm(served, image=deploy_options.reference(cell, image, registry), **wishes)
    if as_json:
        text = json.dumps(outputs.data_of_vm(served, wanted), indent=2) + "\n"
    else:
        text = outputs.script(served, wanted)
    deploy_options.hand_over(text, output)


@click.command("gke-tpu")
@click.argument("cell_id", metavar="CELL")
@_ARGUMENTS
@options.file
@click.option(
    "--accelerator",
    required=True,
    metavar="KIND",
    help="v5e, v5p, v6e, v7x, or as GKE labels nodes: tpu-v6e-slice.",
)
@click.option("--topology", required=True, metavar="AxB[xC]", help="Of one replica's slice.")
@click.option(
    "--machine-type",
    metavar="NAME",
    help="Where a topology is there with several. Default: the one with fewer hosts.",
)
@click.option(
    "--model",
    required=True,
    metavar="MODEL",
    help="ORG/NAME on a hub, or pvc://CLAIM[/FOLDER] for a volume that has it.",
)
@deploy_options.IMAGE
@deploy_options.REGISTRY
@click.option("--name", metavar="NAME", help="Of all objects. Default: the framework's.")
@click.option("-n", "--namespace", metavar="NAME", help="Of all objects. Default: none is named.")
@click.option("--replicas", type=int, metavar="N", help="Slices. Default: 1.")
@_SPOT
@click.option("--cpus", metavar="N", help="Of each host. Default: none are asked for.")
@click.option("--memory", metavar="SIZE", help="Of each host. Default: none is asked for.")
@deploy_options.SHM
@deploy_options.CACHE_SIZE
@click.option("--cache-claim", metavar="CLAIM", help="A volume that is there, for all pods.")
@click.option("--cache-per-replica", is_flag=True, help="A volume for each replica: a StatefulSet.")
@click.option("--storage-class", metavar="NAME", help="Of each replica's volume.")
@deploy_options.ENV
@deploy_options.SECRET_ENV
@deploy_options.HF_TOKEN
@deploy_options.PULL_SECRETS
@deploy_options.PRIORITY_CLASS
@click.option("--any-uid", is_flag=True, help="Name no user in the security context.")
@click.option("--root", is_flag=True, help="Be uid 0, where a node's TPUs are root's alone.")
@click.option(
    "--startup", metavar="TIME", help="For a start, as 45m. Default: 10m, from a hub 30m."
)
@click.option("--drain", metavar="TIME", default="30s", show_default=True)
@deploy_options.NETWORK_POLICY
@deploy_options.ALLOW_FROM
@click.option("--monitor", is_flag=True, help="A ServiceMonitor for the Prometheus Operator.")
@click.option("--cluster", metavar="NAME", help="Of GKE: also write what creates its node pools.")
@click.option("--project", metavar="PROJECT", help="The cluster's.")
@click.option("--zone", metavar="ZONE", help="Of the nodes.")
@click.option("--location", metavar="PLACE", help="The cluster's zone or region. Default: --zone.")
@click.option("--reservation", metavar="NAME", help="Whose capacity the nodes take.")
@options.as_json
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to, with the node pools' script. Default: YAML to stdout.",
)
@click.option("--check", is_flag=True, help="Compare with what is in the folder instead.")
def gke_tpu(
    cell_id: str,
    file: Path | None,
    *,
    accelerator: str,
    topology: str,
    machine_type: str | None,
    image: str | None,
    registry: str | None,
    cluster: str | None,
    project: str | None,
    zone: str | None,
    location: str | None,
    reservation: str | None,
    as_json: bool,
    output: Path | None,
    check: bool,
    **wishes: Any,
) -> None:
    """Write Kubernetes objects that serve MODEL with CELL's image on GKE's TPUs.

    A Deployment where a replica is one host, a LeaderWorkerSet where it is several. With --cluster
    also the gcloud commands of its node pools. What follows `--` goes to the server.
    """
    _, loaded = options.open_matrix(file)
    cell = matrix.cell(loaded, cell_id)
    served = deploy.of_tpu(cell)
    values = deploy.values(
        served,
        image=deploy_options.reference(cell, image, registry),
        tpus=slices.by_topology(accelerator, topology, machine_type),
        **wishes,
    )
    if as_json and (output is not None or check):
        raise UserError("--json with --output or --check", hint="it goes to stdout")
    if cluster is not None and output is None and not as_json:
        raise UserError(
            "--cluster: the commands of its node pools are a file beside the objects",
            hint="name a folder with --output, or ask for --json",
        )
    pool = pools.pool(
        cluster=cluster,
        project=project,
        zone=zone,
        location=location,
        reservation=reservation,
        spot=values.spot,
        replicas=values.replicas,
    )
    if as_json:
        click.echo(json.dumps(outputs.data_of_gke(served, values, pool), indent=2))
        return
    if output is None:
        if check:
            raise UserError("--check needs a folder", hint="name one with --output")
        click.echo(outputs.stream(served, values), nl=False)
        return
    folders = deploy_options.folders(outputs.files(served, values, pool))
    if check:
        if diff := render.check(output, folders, orphans=False):
            raise DriftError(f"{output} is not what would be written", diff=diff)
        return
    for changed in render.write(output, folders):
        click.echo(changed)

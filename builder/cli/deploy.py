"""`imgbuild deploy`: what a cluster is fed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from builder import deploy, matrix, render
from builder.cli import deploy_options, deploy_ray, deploy_tpu, options
from builder.errors import DriftError, UserError, nearest


class _Targets(click.Group):
    """Says what is near where a target is mistyped, and its help where none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise UserError(f"no target {args[0]!r}", hint=nearest(args[0], self.commands))
        return super().resolve_command(ctx, args)


@click.group("deploy", cls=_Targets)
def command() -> None:
    """Write what starts a cell's image on a cluster or a host, fit for that image."""


@command.command("k8s")
@click.argument("cell_id", metavar="CELL")
@click.argument("arguments", metavar="[-- ARGUMENTS...]", nargs=-1, type=click.UNPROCESSED)
@options.file
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
@click.option("--replicas", type=int, metavar="N", help="Default: 1.")
@click.option(
    "--surge/--no-surge",
    default=True,
    help="In a rollout, start a pod before one goes, which needs spare GPUs. Default: on.",
)
@click.option(
    "--autoscale", metavar="MIN:MAX", help="Replicas by the server's load, in place of --replicas."
)
@click.option("--target", type=int, metavar="N", help="Load of a replica to scale by. Default: 5.")
@deploy_options.GPUS
@deploy_options.MIG
@deploy_options.GPU_PRODUCTS
@deploy_options.GPU_LABELS
@deploy_options.NODE_LABELS
@click.option("--cpus", metavar="N", help="Whole CPUs. Default: 4, and 2 a GPU; 8 without one.")
@click.option("--memory", metavar="SIZE", help="Default: 16Gi, and 16Gi a GPU.")
@deploy_options.SHM
@deploy_options.HUGEPAGES
@deploy_options.CACHE_SIZE
@deploy_options.CACHE_CLAIM
@click.option("--cache-per-replica", is_flag=True, help="A volume for each replica: a StatefulSet.")
@click.option("--storage-class", metavar="NAME", help="Of each replica's volume.")
@deploy_options.ENV
@deploy_options.SECRET_ENV
@deploy_options.HF_TOKEN
@deploy_options.PULL_SECRETS
@deploy_options.RUNTIME_CLASS
@deploy_options.PRIORITY_CLASS
@deploy_options.ANY_UID
@click.option(
    "--startup", metavar="TIME", help="For a start, as 45m. Default: 10m, from a hub 30m."
)
@deploy_options.DRAIN
@deploy_options.NETWORK_POLICY
@deploy_options.ALLOW_FROM
@click.option("--monitor", is_flag=True, help="A ServiceMonitor for the Prometheus Operator.")
@click.option("--monitor-label", "monitor_labels", multiple=True, metavar="KEY=VALUE")
@click.option("--gateway", metavar="[NAMESPACE/]NAME", help="An HTTPRoute of that Gateway.")
@click.option("--hostname", "hostnames", multiple=True, metavar="HOST", help="Of the HTTPRoute.")
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in deploy.Format]),
    default=deploy.Format.YAML.value,
    show_default=True,
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to, with what the cluster needs beside it. Default: YAML to stdout.",
)
@click.option("--check", is_flag=True, help="Compare with what is in the folder instead.")
def k8s(
    cell_id: str,
    file: Path | None,
    *,
    image: str | None,
    registry: str | None,
    form: str,
    output: Path | None,
    check: bool,
    **wishes: Any,
) -> None:
    """Write Kubernetes objects that serve MODEL with CELL's image.

    What follows `--` goes to the server. docs/kubernetes.md says why each field is what it is.
    """
    _, loaded = options.open_matrix(file)
    cell = matrix.cell(loaded, cell_id)
    served = deploy.of(cell)
    values = deploy.values(served, image=deploy_options.reference(cell, image, registry), **wishes)
    for note in deploy.notes(values):
        options.say(f"imgbuild: {note}")
    wanted = deploy.Format(form)
    if output is None:
        if wanted is not deploy.Format.YAML or check:
            what = "--check" if check else f"--format {form}"
            raise UserError(f"{what} needs a folder", hint="name one with --output")
        click.echo(deploy.stream(served, values), nl=False)
        return
    folders = deploy_options.folders(deploy.files(served, values, wanted))
    gone = deploy.left_over(values, wanted)
    if check:
        if diff := render.check(output, folders, orphans=False, gone=gone):
            raise DriftError(f"{output} is not what would be written", diff=diff)
        return
    for changed in render.write(output, folders):
        click.echo(changed)
    for removed in render.remove(output, gone):
        click.echo(f"{removed} is removed: Helm would install it beside what is new")


@command.command("compose")
@click.argument("cell_id", metavar="CELL")
@click.argument("arguments", metavar="[-- ARGUMENTS...]", nargs=-1, type=click.UNPROCESSED)
@options.file
@click.option(
    "--model", required=True, metavar="MODEL", help="ORG/NAME on a hub, or a folder of the host."
)
@deploy_options.IMAGE
@deploy_options.REGISTRY
@click.option("--name", metavar="NAME", help="Of the project. Default: the framework's.")
@click.option("--gpus", type=int, metavar="N", help="Default: 1.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="GPU",
    help="That GPU of the host, by number or UUID; a MIG instance's, too; may be repeated.",
)
@click.option("--cpus", metavar="N", help="At most. Default: all.")
@click.option("--memory", metavar="SIZE", help="At most. Default: all.")
@deploy_options.SHM
@click.option("--listen", metavar="ADDRESS", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, metavar="N", help="Of the host. Default: the server's.")
@deploy_options.ENV
@click.option(
    "--pass-env",
    "passed",
    multiple=True,
    metavar="NAME",
    help="A variable of the shell or of .env, as HF_TOKEN; may be repeated.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write. Default: stdout.",
)
def compose(
    cell_id: str,
    file: Path | None,
    *,
    image: str | None,
    registry: str | None,
    output: Path | None,
    **wishes: Any,
) -> None:
    """Write a Compose file that serves MODEL with CELL's image on one host.

    What follows `--` goes to the server.
    """
    _, loaded = options.open_matrix(file)
    cell = matrix.cell(loaded, cell_id)
    served = deploy.of(cell)
    stack = deploy.stack(served, image=deploy_options.reference(cell, image, registry), **wishes)
    text = deploy.compose(served, stack)
    deploy_options.hand_over(text, output)


command.add_command(deploy_ray.ray)
command.add_command(deploy_ray.kuberay)
command.add_command(deploy_tpu.tpu_vm)
command.add_command(deploy_tpu.gke_tpu)

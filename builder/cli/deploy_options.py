"""What the targets of `imgbuild deploy` share."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import click

from builder import render
from builder.errors import UserError
from builder.model import Cell

IMAGE = click.option(
    "--image", metavar="REF", help="The image; best by the digest that a push prints."
)
REGISTRY = click.option(
    "--registry", metavar="PREFIX", help="In place of --image: where `imgbuild push` put it."
)
SHM = click.option("--shm", metavar="SIZE", help="Of /dev/shm. Default: what the image asks for.")
ENV = click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable; repeatable.")

GPUS = click.option("--gpus", type=int, metavar="N", help="Of one replica. Default: 1.")
MIG = click.option("--mig", metavar="PROFILE", help="A MIG instance in place of a GPU, as 1g.10gb.")
GPU_PRODUCTS = click.option(
    "--gpu-product",
    "gpu_products",
    multiple=True,
    metavar="NAME",
    help="Only nodes with the label nvidia.com/gpu.product=NAME; may be repeated.",
)
GPU_LABELS = click.option(
    "--gpu-labels/--no-gpu-labels",
    default=True,
    help="Whether nodes have the labels of GPU feature discovery. Default: they do.",
)
NODE_LABELS = click.option(
    "--node-label",
    "node_labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only nodes with that label; may be repeated.",
)
HUGEPAGES = click.option("--hugepages", metavar="2Mi=SIZE", help="Huge pages at /dev/hugepages.")
CACHE_SIZE = click.option("--cache-size", metavar="SIZE", default="100Gi", show_default=True)
CACHE_CLAIM = click.option(
    "--cache-claim", metavar="CLAIM", help="A volume that is there, for all replicas."
)
SECRET_ENV = click.option(
    "--secret-env",
    multiple=True,
    metavar="NAME=SECRET/KEY",
    help="A variable out of a Secret; may be repeated.",
)
HF_TOKEN = click.option(
    "--hf-token-secret", "hf_token", metavar="SECRET[/KEY]", help="With the hub's token."
)
PULL_SECRETS = click.option(
    "--pull-secret", "pull_secrets", multiple=True, metavar="SECRET", help="A registry's."
)
RUNTIME_CLASS = click.option(
    "--runtime-class", metavar="NAME", help="Where NVIDIA's runtime is not the default."
)
PRIORITY_CLASS = click.option("--priority-class", metavar="NAME", help="Who gives way to whom.")
ANY_UID = click.option(
    "--any-uid", is_flag=True, help="Let the cluster choose the user, as OpenShift does."
)
DRAIN = click.option(
    "--drain",
    metavar="TIME",
    default="30s",
    show_default=True,
    help="For what still runs when a pod is to stop.",
)
NETWORK_POLICY = click.option(
    "--network-policy/--no-network-policy",
    default=True,
    help="Let only pods of the same namespace ask. Default: on.",
)
ALLOW_FROM = click.option(
    "--allow-from", multiple=True, metavar="NAMESPACE", help="Let its pods ask, too; repeatable."
)


def reference(cell: Cell, image: str | None, registry: str | None) -> str:
    """The image's reference, of which one option says it; raises UserError for none and both."""
    if (image is None) == (registry is None):
        raise UserError("one of --image and --registry says where the image is")
    if image is not None:
        return image
    if not (where := (registry or "").rstrip("/")):
        raise UserError("--registry: '' is no registry", hint="as registry.example.org/llm")
    return f"{where}/{cell.framework_name}:{cell.tag}"


def folders(files: dict[str, str]) -> list[render.RenderedImage]:
    """Files by their folder, as they are written whole or not at all."""
    made: dict[str, dict[str, str]] = defaultdict(dict)
    for path, text in files.items():
        folder, _, name = path.rpartition("/")
        made[folder or "."][name] = text
    return [render.RenderedImage(folder, texts) for folder, texts in made.items()]


def hand_over(text: str, output: Path | None) -> None:
    """To the file, whole or not at all, whose name is then said; or to stdout."""
    if output is None:
        click.echo(text, nl=False)
        return
    if not output.name:
        raise UserError("--output: '' is no file", hint="leave it out for stdout")
    for changed in render.write(output.parent, [render.RenderedImage(".", {output.name: text})]):
        click.echo(changed)

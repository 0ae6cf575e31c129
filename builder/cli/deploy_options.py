"""What the targets of `imgbuild deploy` share."""

from __future__ import annotations

from collections import defaultdict

import click

from builder import render
from builder.errors import UserError
from builder.model import Cell

image = click.option(
    "--image", metavar="REF", help="The image; best by the digest that a push prints."
)
registry = click.option(
    "--registry", metavar="PREFIX", help="In place of --image: where `imgbuild push` put it."
)
shm = click.option("--shm", metavar="SIZE", help="Of /dev/shm. Default: what the image asks for.")
env = click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable; repeatable.")


def reference(cell: Cell, image: str | None, registry: str | None) -> str:
    """The image that is meant."""
    if (image is None) == (registry is None):
        raise UserError("one of --image and --registry says where the image is")
    return image if image is not None else f"{registry}/{cell.framework_name}:{cell.tag}"


def folders(files: dict[str, str]) -> list[render.RenderedImage]:
    """Files by their folder, as they are written whole or not at all."""
    made: dict[str, dict[str, str]] = defaultdict(dict)
    for path, text in files.items():
        folder, _, name = path.rpartition("/")
        made[folder or "."][name] = text
    return [render.RenderedImage(folder, texts) for folder, texts in made.items()]

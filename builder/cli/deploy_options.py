"""Options that the targets of `imgbuild deploy` share."""

from __future__ import annotations

import click

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


def reference(cell: Cell, image: str | None, registry: str | None) -> str:
    """The image's reference, of which one option says it; raises UserError for none and both."""
    if (image is None) == (registry is None):
        raise UserError("one of --image and --registry says where the image is")
    return image if image is not None else f"{registry}/{cell.framework_name}:{cell.tag}"

"""Recipe -> text -> images/<cell>/: pure, offline, byte-identical on every run."""

from builder.render.text import DEFINITION, DOCKERFILE, RenderedImage, Renderer
from builder.render.tree import check, remove, write

__all__ = ["DEFINITION", "DOCKERFILE", "RenderedImage", "Renderer", "check", "remove", "write"]

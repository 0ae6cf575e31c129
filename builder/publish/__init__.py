"""Images between engines, registries and clusters: what is built is pushed, and pulled there."""

from builder.publish.pull import Pulled, Wanted, pull_archive, pull_sif
from builder.publish.push import Pushed, Tag, push

__all__ = [
    "Pulled",
    "Pushed",
    "Tag",
    "Wanted",
    "pull_archive",
    "pull_sif",
    "push",
]

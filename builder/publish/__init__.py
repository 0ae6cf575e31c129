"""Images between engines, registries and clusters: what is built is pushed, and pulled there."""

from builder.publish.kept import Kept
from builder.publish.pull import Pulled, Wanted, pull_archive, pull_sif
from builder.publish.push import Pushed, Tag, chosen, push

__all__ = [
    "Kept",
    "Pulled",
    "Pushed",
    "Tag",
    "Wanted",
    "chosen",
    "pull_archive",
    "pull_sif",
    "push",
]

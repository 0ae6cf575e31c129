"""Images between engines, registries and clusters: what is built is pushed, and pulled there."""

from builder.publish.address import Address
from builder.publish.progress import Progress
from builder.publish.pull import Pulled, Wanted, pull_archive, pull_sif
from builder.publish.push import Pushed, Tag, push
from builder.publish.registry import Registry, is_digest

__all__ = [
    "Address",
    "Progress",
    "Pulled",
    "Pushed",
    "Registry",
    "Tag",
    "Wanted",
    "is_digest",
    "pull_archive",
    "pull_sif",
    "push",
]

"""From an image to a cluster: a cell's facts and a user's wishes become Kubernetes objects.

`of(cell)` has the facts, `values(...)` checks the wishes, `manifests` makes objects as plain data,
and `files` writes them as YAML, as a kustomize base or as a Helm chart. For one host there are
`stack(...)` and `compose`, for TPUs `builder.deploy.tpu`.
"""

from builder.deploy.compose import Stack, stack
from builder.deploy.compose import text as compose
from builder.deploy.formats import Format, files, stream
from builder.deploy.manifests import manifests
from builder.deploy.served import Served, of, of_tpu
from builder.deploy.values import Values, values

__all__ = [
    "Format",
    "Served",
    "Stack",
    "Values",
    "compose",
    "files",
    "manifests",
    "of",
    "of_tpu",
    "stack",
    "stream",
    "values",
]

"""From an image to a cluster: a cell's facts and a user's wishes become Kubernetes objects.

`of(cell)` has the facts, `values(...)` checks the wishes, `manifests` makes objects as plain data,
and `files` writes them as YAML, as a kustomize base or as a Helm chart.
"""

from builder.deploy.formats import Format, files, stream
from builder.deploy.manifests import manifests
from builder.deploy.served import Served, of
from builder.deploy.values import Values, values

__all__ = ["Format", "Served", "Values", "files", "manifests", "of", "stream", "values"]

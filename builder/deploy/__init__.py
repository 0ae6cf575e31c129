"""From an image to a cluster: a cell's facts and a user's wishes become Kubernetes objects.

`of(cell)` has the facts, `values(...)` checks the wishes, `manifests` makes objects as plain data,
and `files` writes them as YAML, as a kustomize base or as a Helm chart. For one host there are
`stack(...)` and `compose`; for Ray on several, `hosts(...)`, `ray_script` and `ray_commands`; on
Kubernetes, `kuberay(...)` and `kuberay_stream`; for TPUs `builder.deploy.tpu`.
"""

from builder.deploy.compose import Stack, stack
from builder.deploy.compose import text as compose
from builder.deploy.formats import Format, files, left_over, stream
from builder.deploy.manifests import manifests
from builder.deploy.notes import notes
from builder.deploy.rayhosts import Engine, Hosts, hosts
from builder.deploy.rayscript import data as ray_commands
from builder.deploy.rayscript import script as ray_script
from builder.deploy.rayservice import DEFAULT as KUBERAY_DEFAULT
from builder.deploy.rayservice import VERSIONS as KUBERAY
from builder.deploy.rayservice import Kuberay, kuberay
from builder.deploy.rayservice import stream as kuberay_stream
from builder.deploy.served import Served, of, of_tpu
from builder.deploy.values import Values, values

__all__ = [
    "KUBERAY",
    "KUBERAY_DEFAULT",
    "Engine",
    "Format",
    "Hosts",
    "Kuberay",
    "Served",
    "Stack",
    "Values",
    "compose",
    "files",
    "hosts",
    "kuberay",
    "kuberay_stream",
    "left_over",
    "manifests",
    "notes",
    "of",
    "of_tpu",
    "ray_commands",
    "ray_script",
    "stack",
    "stream",
    "values",
]

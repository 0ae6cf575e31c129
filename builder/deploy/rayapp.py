"""What runs on a Ray cluster of an image: its Serve application, its ports, its login.

An image has Ray where Ray is its framework: vLLM's own closure has none (images/locks), so that its
image can neither start a node nor join one.
"""

from __future__ import annotations

import re

from builder.deploy.served import Served
from builder.errors import UserError

FRAMEWORK = "ray"
# builder/servers, where every process of Ray finds it; in images only.
PYTHONPATH = "/opt/imgbuild"
IMPORT_PATH = "servers.on_ray:application"
APPLICATION = "imgbuild"
# ray/scripts/scripts.py and ray/serve/_private/constants.py, 2.59.0.
GCS, DASHBOARD, CLIENT, AGENT, SERVE = 6379, 8265, 10001, 52365, 8000
# Bytes; nothing large passes through Ray's object store (builder/servers/on_ray.py).
OBJECT_STORE = 100 << 20
# Answers without a token (ray/dashboard/http_server_agent.py); Serve's proxy has the other.
NODE_HEALTH, PROXY_HEALTH = "/api/healthz", "/-/healthz"
_GLUED = re.compile(r"^(-[a-z]+)[0-9]+\Z")


def of_ray(served: Served) -> Served:
    """The image, which has Ray; raises UserError with the cell that is meant for one without."""
    if served.framework == FRAMEWORK:
        return served
    stack = served.cell_id.partition("-")[0]
    hint = f"vLLM and Ray are in {stack}-{FRAMEWORK}, if `imgbuild explain` admits it"
    raise UserError(f"{served.cell_id}: {served.title}'s image has no Ray", hint=hint)


def arguments(
    served: Served, model: str, *, replicas: int, gpus: int, own: tuple[str, ...]
) -> list[str]:
    """Of the application: an engine a replica, over the GPUs of one node; the user's own win.

    One a node: Serve would put that of a node that died beside another, where they share CPUs, and
    leave it there when the node is back, so that the next node to die may take all of them along.
    """
    made = ["--model", model, "--replicas", str(replicas), "--replicas-per-node", "1"]
    if gpus > 1:
        made += [served.flags.parallel or "", str(gpus)]
    return [*made, *own]


def free(served: Served, own: tuple[str, ...]) -> tuple[str, ...]:
    """The user's own arguments; raises UserError for one that says where the model is to lie."""
    flags = served.flags
    ours = {*flags.parallel_also, *flags.spreading, *flags.hosts, flags.parallel or ""}
    for argument in own:
        flag = argument.partition("=")[0].replace("_", "-")
        if found := _GLUED.match(flag):  # -tp2 is -tp 2
            flag = found[1]
        if flag in ours:
            raise UserError(
                f"argument: {flag} is for the cluster to say, which is made for it",
                hint="--gpus, --replicas and --spread of imgbuild say how the model lies",
            )
    return own

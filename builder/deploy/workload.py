"""The pod, and the Deployment or StatefulSet that keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builder.deploy import placement
from builder.deploy.secret import Secret
from builder.deploy.served import INTERVAL, RETRIES, TIMEOUT, Served
from builder.deploy.storage import MODELS
from builder.deploy.tpu import hosts
from builder.deploy.values import PULL, Values

Object = dict[str, Any]

CONTAINER = "server"
PORT = "http"  # the port's name
CACHE = "/cache"
LEADER = "leaderworkerset.sigs.k8s.io/worker-index"  # "0" of the leader
STARTUP_PERIOD = 10  # seconds
AFTER_DRAIN = 30  # seconds that a server has to end by itself; vLLM took 0.9
# Of what starts compile and unpack; a full one evicts the pod and not its neighbours.
_TMP, _HOME = "10Gi", "1Gi"


def labels(served: Served, values: Values) -> dict[str, str]:
    """Kubernetes' recommended labels."""
    return {**_of_pods(served, values), "app.kubernetes.io/managed-by": "imgbuild"}


def _of_pods(served: Served, values: Values) -> dict[str, str]:
    """Without who applies them, so that no pod is replaced when that changes."""
    return {
        **selector(served, values),
        "app.kubernetes.io/component": "inference-server",
        "app.kubernetes.io/version": served.version,
    }


def selector(served: Served, values: Values) -> dict[str, str]:
    """Those that never change: selectors are immutable."""
    return {"app.kubernetes.io/name": served.framework, "app.kubernetes.io/instance": values.name}


def serving(served: Served, values: Values) -> dict[str, str]:
    """Selects the pods that answer: of a group its leader alone."""
    return {**selector(served, values), **({LEADER: "0"} if values.grouped else {})}


def workload(served: Served, values: Values) -> Object:
    """A StatefulSet where each replica keeps its own cache, else a Deployment."""
    return (_stateful_set if values.stateful else _deployment)(served, values)


def headless(values: Values) -> str:
    """The name of a StatefulSet's own Service."""
    return f"{values.name}-headless"


def _deployment(served: Served, values: Values) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": values.name, "labels": labels(served, values)},
        "spec": {
            **_replicas(values),
            # A new pod needs GPUs of its own before an old one goes: nobody is left without answer.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {
                    "maxSurge": int(values.surge),
                    "maxUnavailable": int(not values.surge),
                },
            },
            "progressDeadlineSeconds": values.startup + PULL,
            "selector": {"matchLabels": selector(served, values)},
            "template": template(served, values),
        },
    }


def _stateful_set(served: Served, values: Values) -> Object:
    claim: Object = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": values.cache.size}},
    }
    if values.cache.storage_class:
        claim["storageClassName"] = values.cache.storage_class
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": values.name, "labels": labels(served, values)},
        "spec": {
            **_replicas(values),
            "serviceName": headless(values),
            # Replicas do not know one another: none waits for another's minutes.
            "podManagementPolicy": "Parallel",
            # Made anew in minutes; what scales down comes back warm.
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": "Delete",
                "whenScaled": "Retain",
            },
            "selector": {"matchLabels": selector(served, values)},
            "template": template(served, values),
            "volumeClaimTemplates": [{"metadata": {"name": "cache"}, "spec": claim}],
        },
    }


def _replicas(values: Values) -> Object:
    """None beside an autoscaler: each apply would undo what that has decided."""
    return {} if values.scaling else {"replicas": values.replicas}


def template(served: Served, values: Values) -> Object:
    """Of a pod that serves."""
    spec: Object = {
        # No server here asks the cluster's API.
        "automountServiceAccountToken": False,
        # A Service called vllm would set VLLM_PORT=tcp://..., which vLLM refuses.
        "enableServiceLinks": False,
        "securityContext": pod_security(served, values),
        "terminationGracePeriodSeconds": values.drain + AFTER_DRAIN,
    }
    if values.runtime_class:
        spec["runtimeClassName"] = values.runtime_class
    if values.priority_class:
        spec["priorityClassName"] = values.priority_class
    if values.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in values.pull_secrets]
    spec["nodeSelector"] = placement.selector(served, values)
    if affinity := placement.affinity(served, values):
        spec["affinity"] = affinity
    if tolerations := placement.tolerations(served):
        spec["tolerations"] = tolerations
    spec["topologySpreadConstraints"] = placement.spread(selector(served, values))
    spec["containers"] = [_container(served, values)]
    spec["volumes"] = volumes(values)
    return {"metadata": {"labels": _of_pods(served, values)}, "spec": spec}


def pod_security(served: Served, values: Values) -> Object:
    """A pod's security context: the image's user, or whom the cluster chooses."""
    ids: Object = {}
    seccomp = {"seccompProfile": {"type": "RuntimeDefault"}}
    if values.root:
        return {"runAsUser": 0, "runAsGroup": 0, "fsGroup": served.uid, **seccomp}
    if not values.any_uid:
        # The group makes a fresh volume, which is root's, one that this user may write.
        ids = {"runAsUser": served.uid, "runAsGroup": served.gid, "fsGroup": served.uid}
        ids["fsGroupChangePolicy"] = "OnRootMismatch"
    return {"runAsNonRoot": True, **ids, **seccomp}


def _container(served: Served, values: Values) -> Object:
    amounts = resources(values)
    return {
        "name": CONTAINER,
        "image": values.image,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            literal(argument, [name for name, _ in values.secret_env])
            for argument in arguments(served, values)
        ],
        "env": environment(values),
        "ports": [{"name": PORT, "containerPort": served.port, "protocol": "TCP"}],
        # Equal, and whole CPUs: the QoS class Guaranteed, to which the static policies give theirs.
        "resources": {"limits": amounts, "requests": dict(amounts)},
        **_probes(served, values),
        # Endpoints are forgotten while it sleeps, and what runs is answered.
        "lifecycle": {"preStop": {"sleep": {"seconds": values.drain}}},
        "securityContext": confined(values),
        "volumeMounts": mounts(served, values),
    }


def arguments(served: Served, values: Values) -> tuple[str, ...]:
    """Of the image's entrypoint, which is the server's."""
    if values.tpus:
        own = (*hosts.precision(served, values.arguments), *values.arguments)
        return arguments_of(served, values.model.name, values.tpus.devices, own)
    return arguments_of(served, values.model.name, values.gpus, values.arguments)


def arguments_of(
    served: Served,
    model: str,
    gpus: int,
    own: tuple[str, ...],
    *,
    host: str = "0.0.0.0",  # noqa: S104 - in a container
) -> tuple[str, ...]:
    """The model, where to listen, and one rank a GPU; the user's own come last, and win."""
    flags = served.flags
    made = list(flags.arguments(model, host, str(served.port)))
    if flags.parallel and gpus and not _arranged(served, own):
        made += [flags.parallel, str(gpus)]
    if served.metrics:
        made += served.metrics.arguments
    return (*made, *own)


def _arranged(served: Served, own: tuple[str, ...]) -> bool:
    """Whether the user says himself how the model lies on the GPUs."""
    flags = served.flags
    known = {*flags.parallel_also, *flags.spreading}
    known |= {flags.parallel} if flags.parallel else set()
    return any(argument.partition("=")[0] in known for argument in own)


def literal(text: str, secrets: Sequence[str] = ()) -> str:
    """As the kubelet leaves it: it expands $(NAME), and makes one $ of two.

    Of `secrets` it may: a server may take its key as an argument alone, which then is none in the
    open.
    """
    made = text.replace("$", "$$")
    for name in secrets:
        made = made.replace(f"$$({name})", f"$({name})")
    return made


def environment(values: Values) -> list[Object]:
    """The user's variables, and those of imgbuild that he has not set."""
    own = {"IMGBUILD_CACHE": CACHE}
    if values.model.claim:  # nothing is to be fetched, nor asked for
        own["HF_HUB_OFFLINE"] = "1"
    if values.tpus:
        own |= hosts.environment(values.tpus)
    # A variable that comes twice is refused by a server-side apply: the user's own counts.
    users = {name for name, _ in (*values.env, *values.secret_env)}
    made: list[Object] = [
        {"name": name, "value": value} for name, value in own.items() if name not in users
    ]
    if values.hf_token:
        made.append(from_secret("HF_TOKEN", values.hf_token))
    made += [from_secret(name, secret) for name, secret in values.secret_env]
    made += [{"name": name, "value": literal(value)} for name, value in values.env]
    return made


def from_secret(name: str, secret: Secret) -> Object:
    """A variable out of a Secret."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}


def confined(values: Values) -> Object:
    """A container's security context: Pod Security's profile `restricted`, and a read-only root."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        # Beyond that profile: VFIO locks memory, which uid 0 may with this.
        "capabilities": {"drop": ["ALL"], **({"add": ["IPC_LOCK"]} if values.root else {})},
    }


def resources(values: Values) -> Object:
    """Of a container, which has as much as it asks for."""
    made: Object = {}
    if values.cpus:
        made["cpu"] = values.cpus
    if values.memory:
        made["memory"] = values.memory
    if values.gpus:
        made[values.resource] = values.gpus
    if values.tpus:  # all of a host's: GKE hands out no part of them
        made[values.resource] = values.tpus.machine.chips
    if values.hugepages:
        made[f"hugepages-{values.hugepages.page}"] = values.hugepages.amount
    return made


def _probes(served: Served, values: Values) -> Object:
    """Until it has started only the first is asked; the others are then what HEALTHCHECK is."""
    get = {"httpGet": {"path": served.health, "port": PORT}}
    tries = -(-values.startup // STARTUP_PERIOD)
    return {
        "startupProbe": {
            **get,
            "periodSeconds": STARTUP_PERIOD,
            "timeoutSeconds": TIMEOUT,
            "failureThreshold": tries,
        },
        "readinessProbe": {
            **get,
            "periodSeconds": STARTUP_PERIOD,
            "timeoutSeconds": TIMEOUT,
            "failureThreshold": RETRIES,
        },
        "livenessProbe": {
            **get,
            "periodSeconds": INTERVAL,
            "timeoutSeconds": TIMEOUT,
            "failureThreshold": RETRIES,
        },
    }


def mounts(served: Served, values: Values) -> list[Object]:
    """All that a start writes, and what it reads."""
    made: list[Object] = [
        {"name": "cache", "mountPath": CACHE},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        {"name": "home", "mountPath": served.home},
    ]
    if values.model.claim:
        made.append({"name": "models", "mountPath": MODELS, "readOnly": True})
    if values.hugepages:
        made.append({"name": "hugepages", "mountPath": "/dev/hugepages"})
    return made


def volumes(values: Values) -> list[Object]:
    """What `mounts` mounts."""
    made: list[Object] = []
    if values.cache.claim:
        made.append({"name": "cache", "persistentVolumeClaim": {"claimName": values.cache.claim}})
    elif not values.stateful:
        made.append({"name": "cache", "emptyDir": {"sizeLimit": values.cache.size}})
    made += [
        # In memory, and the pod's: what is written there counts towards its limit.
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": values.shm}},
        {"name": "tmp", "emptyDir": {"sizeLimit": _TMP}},
        {"name": "home", "emptyDir": {"sizeLimit": _HOME}},
    ]
    if claim := values.model.claim:
        # Read-only from the first: no driver changes the owner of a hundred gigabytes.
        source = {"claimName": claim, "readOnly": True}
        made.append({"name": "models", "persistentVolumeClaim": source})
    if pages := values.hugepages:
        made.append({"name": "hugepages", "emptyDir": {"medium": f"HugePages-{pages.page}"}})
    return made

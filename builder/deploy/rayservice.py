"""A Ray cluster that KubeRay keeps: RayService, or a RayCluster alone, and what stands beside it.

Facts of KubeRay are those of ray-project/kuberay, ray-operator/ at v1.4.2 to v1.7.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from builder.deploy import checked, placement, quantity, rayapp, workload, yamltext
from builder.deploy import values as wishes_of
from builder.deploy.checked import given
from builder.deploy.manifests import in_namespace
from builder.deploy.secret import Secret
from builder.deploy.served import INTERVAL, TIMEOUT, Served
from builder.deploy.values import Values
from builder.errors import UserError, quoted

Object = dict[str, Any]

VERSIONS = ("1.4", "1.5", "1.6", "1.7")
DEFAULT = "1.6"
# apis/ray/v1: authOptions came with 1.5.1, its secretName with 1.6.
_OPTIONS, _SECRET = "1.5", "1.6"
_SINCE = {_OPTIONS: "1.5.1"}
_TOKEN_KEY = "auth_token"  # noqa: S105 - the key that KubeRay reads
_LONGEST = 47  # utils/constant.go, MaxRayServiceNameLength
_OVERWRITE = "ray.io/overwrite-container-cmd"
# As KubeRay starts it, behind the image's own entrypoint; `exec` gives Ray the signals.
_START = "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; exec $KUBERAY_GEN_RAY_START_CMD"
_OURS = ("PYTHONPATH", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
_HEAD, _WORKER = "ray-head", "ray-worker"
_METRICS = 8080  # KubeRay's own default
_OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}  # its chart's label
_STARTED = 600  # seconds that a node may take to start, and to be deaf: KubeRay's own 120 x 5 s
_REDIS = re.compile(
    r"^(rediss?://)?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?:(?P<port>[0-9]{1,5})\Z"
)


@dataclass(frozen=True, kw_only=True)
class Kuberay:
    """What a user wants of it, checked."""

    values: Values  # of the workers; a replica is a worker
    version: str
    cluster_only: bool
    auth_secret: str | None  # None: KubeRay makes one
    redis: str | None
    redis_password: Secret | None
    operator_namespace: str | None  # None: any
    head_cpus: int
    head_memory: str


def kuberay(
    served: Served,
    *,
    version: str = DEFAULT,
    cluster_only: bool = False,
    auth_secret: str | None = None,
    redis: str | None = None,
    redis_password: str | None = None,
    operator_namespace: str | None = None,
    head_cpus: str = "2",
    head_memory: str = "8Gi",
    **wishes: Any,
) -> Kuberay:
    """Check what a user gives; `wishes` are those of `values`. Raises UserError."""
    rayapp.of_ray(served)
    made = wishes_of.values(served, **wishes)
    if len(made.name) > _LONGEST:
        raise UserError(f"--name: {made.name} is too long", hint=f"KubeRay leaves {_LONGEST} signs")
    if not made.replicas:
        raise UserError("--replicas: 0 workers serve nothing", hint="1 or more")
    rayapp.free(served, made.arguments)
    if cluster_only and made.arguments:
        raise UserError("--cluster-only serves nothing that arguments were for")
    if redis is not None:
        found = _REDIS.match(redis)
        if not found or not 0 < int(found["port"]) < 1 << 16:
            raise UserError(f"--redis: {quoted(redis)} is no address", hint="as redis:6379")
    if redis_password is not None and redis is None:
        raise UserError("--redis-password-secret without --redis says nothing", hint="add --redis")
    for name, _ in (*made.env, *made.secret_env):
        if name in _OURS:
            raise UserError(f"--env: {name} is set already")
    _logs_in(version, cluster_only=cluster_only, auth_secret=auth_secret)
    password = None
    if redis_password is not None:
        named, key = checked.secret(redis_password, "--redis-password-secret", "password")
        password = Secret(name=named, key=key)
    return Kuberay(
        values=made,
        version=version,
        cluster_only=cluster_only,
        auth_secret=given(auth_secret, checked.object_name, "--auth-secret"),
        redis=redis,
        redis_password=password,
        operator_namespace=given(operator_namespace, checked.namespace, "--operator-namespace"),
        head_cpus=checked.cpus(head_cpus, "--head-cpus"),
        head_memory=quantity.memory(head_memory, "--head-memory"),
    )


def _logs_in(version: str, *, cluster_only: bool, auth_secret: str | None) -> None:
    """Whether that KubeRay can be a cluster's with a token."""
    if version not in VERSIONS:
        raise UserError(f"--kuberay: {quoted(version)} is not known", hint=", ".join(VERSIONS))
    if version >= _SECRET:
        return
    if version >= _OPTIONS:
        if auth_secret is not None:
            raise UserError(
                f"--auth-secret with KubeRay {version}, which makes its own",
                hint=f"leave it out, or --kuberay {_SECRET}",
            )
        return
    if not cluster_only:
        raise UserError(
            f"KubeRay {version} sends no token, and so cannot start an application",
            hint=f"--kuberay {_OPTIONS} (1.5.1 or newer); --cluster-only works with {version}",
        )
    if auth_secret is None:
        raise UserError(
            f"KubeRay {version} makes no token",
            hint=f"--auth-secret names a Secret whose key {_TOKEN_KEY} has one",
        )


def objects(served: Served, wanted: Kuberay) -> dict[str, Object]:
    """File's stem -> object, in the order in which they are best applied."""
    made: dict[str, Object] = {}
    if wanted.values.network_policy:  # before there is a pod to be reached
        made["networkpolicy"] = _policy(served, wanted)
    spec = _cluster(served, wanted)
    if wanted.cluster_only:
        made["raycluster"] = _custom(served, wanted, "RayCluster", spec)
    else:
        made["rayservice"] = _custom(served, wanted, "RayService", _service(served, wanted, spec))
    if wanted.values.replicas > 1:
        made["poddisruptionbudget"] = _budget(served, wanted)
    return made


def stream(served: Served, wanted: Kuberay) -> str:
    """All objects as one YAML stream, for `kubectl apply -f -`."""
    made = objects(served, wanted).values()
    since = _SINCE.get(wanted.version, wanted.version)
    says = [
        f"{served.cell_id}: {served.title} {served.version}; for KubeRay {since} on.",
        "Made by `imgbuild deploy kuberay`; docs/ray.md says why.",
    ]
    return yamltext.documents(
        (in_namespace(one, wanted.values.namespace) for one in made), says=says
    )


def application(served: Served, wanted: Kuberay) -> Object:
    """What Ray Serve is told: a file of `serve deploy`, and a RayService's serveConfigV2."""
    values = wanted.values
    told = rayapp.arguments(
        served, values.model.name, replicas=values.replicas, gpus=values.gpus, own=values.arguments
    )
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": served.port},  # noqa: S104
        "applications": [
            {
                "name": rayapp.APPLICATION,
                "route_prefix": "/",
                "import_path": rayapp.IMPORT_PATH,
                "args": {"arguments": told},
            }
        ],
    }


def _custom(served: Served, wanted: Kuberay, kind: str, spec: Object) -> Object:
    return {
        "apiVersion": "ray.io/v1",
        "kind": kind,
        "metadata": {"name": wanted.values.name, "labels": workload.labels(served, wanted.values)},
        "spec": spec,
    }


def _service(served: Served, wanted: Kuberay, cluster: Object) -> Object:
    return {
        # Another cluster first, and the old one goes when that serves: GPUs for both are needed.
        "upgradeStrategy": {"type": "NewCluster" if wanted.values.surge else "None"},
        # The head has CPUs for Ray's own processes only.
        "excludeHeadPodFromServeSvc": True,
        "serveConfigV2": yamltext.Block(yamltext.text(application(served, wanted))),
        "rayClusterConfig": cluster,
    }


def _cluster(served: Served, wanted: Kuberay) -> Object:
    values = wanted.values
    made: Object = {"rayVersion": served.version}
    if wanted.version >= _OPTIONS:
        made["authOptions"] = {"mode": "token"}
        if wanted.auth_secret:
            made["authOptions"]["secretName"] = wanted.auth_secret
    if wanted.redis:
        made["gcsFaultToleranceOptions"] = {"redisAddress": wanted.redis}
        if secret := wanted.redis_password:
            password = workload.from_secret("", secret)["valueFrom"]
            made["gcsFaultToleranceOptions"]["redisPassword"] = {"valueFrom": password}
    store = {"object-store-memory": str(rayapp.OBJECT_STORE)}
    gpus = {"num-gpus": str(values.gpus)} if values.gpus else {}
    made["headGroupSpec"] = {
        # No task and no replica comes here: it is what all others need.
        "rayStartParams": {"num-cpus": "0", **store, "dashboard-host": "0.0.0.0"},  # noqa: S104
        "template": _template(served, wanted, _HEAD),
    }
    made["workerGroupSpecs"] = [
        {
            "groupName": "workers",
            "replicas": values.replicas,
            "minReplicas": values.replicas,
            "maxReplicas": values.replicas,
            # Said, since KubeRay counts no MIG instances.
            "rayStartParams": {"num-cpus": str(values.cpus), **gpus, **store},
            "template": _template(served, wanted, _WORKER),
        }
    ]
    return made


def _selector(wanted: Kuberay, component: str | None = None) -> dict[str, str]:
    """Of pods; app.kubernetes.io/name is KubeRay's, whose Services select by it."""
    both = {
        "app.kubernetes.io/instance": wanted.values.name,
        "app.kubernetes.io/part-of": f"imgbuild-{rayapp.FRAMEWORK}",
    }
    return both | ({"app.kubernetes.io/component": component} if component else {})


def _template(served: Served, wanted: Kuberay, role: str) -> Object:
    worker = role == _WORKER
    values = wanted.values
    if not worker:
        values = replace(
            values, gpus=0, cpus=wanted.head_cpus, memory=wanted.head_memory, hugepages=None
        )
    spec: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": workload.pod_security(served, values),
        "terminationGracePeriodSeconds": values.drain + workload.AFTER_DRAIN,
    }
    if values.runtime_class and worker:
        spec["runtimeClassName"] = values.runtime_class
    if values.priority_class:
        spec["priorityClassName"] = values.priority_class
    if values.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in values.pull_secrets]
    if worker:
        spec["nodeSelector"] = placement.selector(served, values)
        if affinity := placement.affinity(served, values):
            spec["affinity"] = affinity
        if tolerations := placement.tolerations(served):
            spec["tolerations"] = tolerations
        spec["topologySpreadConstraints"] = placement.spread(_selector(wanted, role))
    else:  # any node will do that runs the image
        spec["nodeSelector"] = {"kubernetes.io/arch": served.arch}
    spec["containers"] = [_container(served, wanted, values, role)]
    spec["volumes"] = workload.volumes(values)
    labels = {**_selector(wanted, role), "app.kubernetes.io/version": served.version}
    # KubeRay would put bash in the place of the image's init, which finds caches and reaps.
    return {"metadata": {"labels": labels, "annotations": {_OVERWRITE: "true"}}, "spec": spec}


def _container(served: Served, wanted: Kuberay, values: Values, role: str) -> Object:
    worker = role == _WORKER
    amounts = workload.resources(values)
    ports = {"serve": served.port, "metrics": _METRICS}
    if not worker:
        ports |= {"gcs-server": rayapp.GCS, "dashboard": rayapp.DASHBOARD, "client": rayapp.CLIENT}
    made: Object = {
        "name": role,
        "image": values.image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["bash", "-c", _START],
        "env": _environment(wanted, values),
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()
        ],
        "resources": {"limits": amounts, "requests": dict(amounts)},
        **_probes(wanted, worker=worker),
    }
    if worker:  # endpoints are forgotten while it sleeps
        made["lifecycle"] = {"preStop": {"sleep": {"seconds": values.drain}}}
    made["securityContext"] = workload.confined(values)
    made["volumeMounts"] = workload.mounts(served, values)
    return made


def _environment(wanted: Kuberay, values: Values) -> list[Object]:
    own = [{"name": "PYTHONPATH", "value": rayapp.PYTHONPATH}]
    if wanted.version < _OPTIONS and wanted.auth_secret:
        own.append({"name": "RAY_AUTH_MODE", "value": "token"})
        token = Secret(name=wanted.auth_secret, key=_TOKEN_KEY)
        own.append(workload.from_secret("RAY_AUTH_TOKEN", token))
    return [*own, *workload.environment(values)]


def _probes(wanted: Kuberay, *, worker: bool) -> Object:
    """In the place of KubeRay's, which ask a RayService's workers with a wget that is not here.

    Whether a replica is well is Serve's to know, which replaces it: these ask the node.
    """
    node = {"httpGet": {"path": rayapp.NODE_HEALTH, "port": rayapp.AGENT}}
    proxy = {"httpGet": {"path": rayapp.PROXY_HEALTH, "port": "serve"}}
    often = {"periodSeconds": workload.STARTUP_PERIOD, "timeoutSeconds": TIMEOUT}
    return {
        "startupProbe": {
            **node,
            **often,
            "failureThreshold": _STARTED // workload.STARTUP_PERIOD,
        },
        # A worker without a replica has no proxy, and gets no requests.
        "readinessProbe": {
            **(proxy if worker and not wanted.cluster_only else node),
            **often,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            **node,
            "periodSeconds": INTERVAL,
            "timeoutSeconds": TIMEOUT,
            "failureThreshold": _STARTED // INTERVAL,
        },
    }


def _budget(served: Served, wanted: Kuberay) -> Object:
    """In pods that stay: of those that may go Kubernetes counts none below a RayCluster.

    Its CRD has no `scale`, by which the disruption controller would know how many there are.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": wanted.values.name, "labels": workload.labels(served, wanted.values)},
        "spec": {
            "minAvailable": wanted.values.replicas - 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": _selector(wanted, _WORKER)},
        },
    }


def _policy(served: Served, wanted: Kuberay) -> Object:
    """Nodes among themselves; clients the server alone; KubeRay the dashboard, too."""
    values = wanted.values
    nodes = {"podSelector": {"matchLabels": _selector(wanted)}}
    label = "kubernetes.io/metadata.name"
    clients: list[Object] = [{"podSelector": {}}]
    clients += [{"namespaceSelector": {"matchLabels": {label: n}}} for n in values.allow_from]
    where = {"matchLabels": {label: wanted.operator_namespace}} if wanted.operator_namespace else {}
    operator = {"namespaceSelector": where, "podSelector": {"matchLabels": _OPERATOR}}
    ingress: list[Object] = [
        {"from": [nodes]},
        {"from": [operator], "ports": _tcp(rayapp.DASHBOARD, served.port)},
    ]
    if not wanted.cluster_only:
        ingress.append({"from": clients, "ports": _tcp(served.port)})
    names = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    egress: list[Object] = [{"to": [nodes]}, {"ports": names}]
    if wanted.redis:
        egress.append({"ports": _tcp(int(wanted.redis.rpartition(":")[2]))})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": values.name, "labels": workload.labels(served, values)},
        "spec": {
            "podSelector": {"matchLabels": _selector(wanted)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }


def _tcp(*ports: int) -> list[Object]:
    return [{"protocol": "TCP", "port": port} for port in ports]

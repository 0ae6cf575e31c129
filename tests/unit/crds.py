"""Schemas of what Kubernetes' own do not have: the fields that we write, and their types.

As the CRDs have them: HTTPRoute in config/crd/standard of kubernetes-sigs/gateway-api at
4564255ac2c3, ServiceMonitor in example/prometheus-operator-crd of
prometheus-operator/prometheus-operator at 6adcebc5076c (both of August 2026); Compose files in
schema/compose-spec.json of compose-spec/compose-spec at 170098ba07d9 (June 2026); LeaderWorkerSet
in api/leaderworkerset/v1/leaderworkerset_types.go of kubernetes-sigs/lws at 024af0845195, whose
pod templates are Kubernetes' own.
"""

from __future__ import annotations

from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
# api/v1 Duration of the Prometheus Operator.
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))+$"}
_PART = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
HOST = {"type": "string", "pattern": rf"^(\*\.)?{_PART}(\.{_PART})*$"}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}


def strict(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


def several(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


METADATA = strict(("name",), name=TEXT, namespace=TEXT, labels=TEXTS)


def custom(api: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return strict(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": api},
        kind={"const": kind},
        metadata=METADATA,
        spec=spec,
    )


_PATH = strict((), type={"enum": ["Exact", "PathPrefix", "RegularExpression"]}, value=TEXT)
_RULE = strict(
    (),
    matches=several(strict((), path=_PATH)),
    backendRefs=several(strict(("name",), name=TEXT, namespace=TEXT, port=PORT)),
)
CRDS = {
    "HTTPRoute": custom(
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        strict(
            (),
            parentRefs=several(strict(("name",), name=TEXT, namespace=TEXT)),
            hostnames=several(HOST),
            rules=several(_RULE),
        ),
    ),
    "ServiceMonitor": custom(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        strict(
            ("endpoints", "selector"),
            selector=strict((), matchLabels=TEXTS),
            endpoints=several(strict((), port=TEXT, path=TEXT, interval=DURATION)),
        ),
    ),
}

COUNT = {"type": "integer", "minimum": 0}
_POD = {"type": "object", "required": ["metadata", "spec"]}
CRDS["LeaderWorkerSet"] = strict(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "leaderworkerset.x-k8s.io/v1"},
    kind={"const": "LeaderWorkerSet"},
    metadata=strict(("name",), name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS),
    spec=strict(
        ("leaderWorkerTemplate",),
        replicas=COUNT,
        startupPolicy={"enum": ["LeaderCreated", "LeaderReady"]},
        rolloutStrategy=strict(
            ("type",),
            type={"enum": ["RollingUpdate"]},
            rollingUpdateConfiguration=strict(
                (), partition=COUNT, maxUnavailable=COUNT, maxSurge=COUNT
            ),
        ),
        leaderWorkerTemplate=strict(
            ("workerTemplate",),
            size={"type": "integer", "minimum": 1},
            restartPolicy={
                "enum": ["RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"]
            },
            leaderTemplate=_POD,
            workerTemplate=_POD,
        ),
    ),
)

NUMBER = {"type": "integer", "minimum": 1}
SIZE = {"type": "string", "pattern": "^[0-9]+[bkmg]$"}
TIME = {"type": "string", "pattern": "^[0-9]+[smh]$"}
_DEVICE = strict(
    ("capabilities",),
    driver=TEXT,
    count=NUMBER,
    device_ids=several(TEXT),
    capabilities=several(TEXT),
)
_MOUNT = strict(
    ("type",),
    type={"enum": ["bind", "volume"]},
    source=TEXT,
    target=TEXT,
    read_only={"type": "boolean"},
    bind=strict((), create_host_path={"type": "boolean"}),
)
_SERVICE = strict(
    ("image", "command"),
    image=TEXT,
    command=several(TEXT),
    environment={"type": "object", "additionalProperties": {"type": ["string", "null"]}},
    ports=several(strict((), host_ip=TEXT, published=TEXT, target=PORT)),
    volumes=several(_MOUNT),
    tmpfs=several(TEXT),
    shm_size=SIZE,
    mem_limit=SIZE,
    cpus=NUMBER,
    read_only={"type": "boolean"},
    cap_drop=several(TEXT),
    security_opt=several(TEXT),
    healthcheck=strict((), start_period=TIME),
    stop_grace_period=TIME,
    restart={"enum": ["unless-stopped"]},
    deploy=strict((), resources=strict((), reservations=strict((), devices=several(_DEVICE)))),
)
COMPOSE = strict(
    ("name", "services", "volumes"),
    name={"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
    services=strict(("server",), server=_SERVICE),
    volumes={"type": "object", "additionalProperties": strict(())},
)

"""Who reaches the server, and what it reaches: Services, NetworkPolicy, HTTPRoute."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from builder.deploy import workload
from builder.deploy.gateway import Gateway
from builder.deploy.served import Served
from builder.deploy.values import Values

Object = dict[str, Any]

_NAMESPACE = "kubernetes.io/metadata.name"  # a label that every namespace has of itself

# Variables that name another place than the hub's own, and the ports of URLs without one.
_ELSEWHERE = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "HF_ENDPOINT")
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


def service(served: Served, values: Values) -> Object:
    """One address for all replicas, at the port that the server has everywhere."""
    port = {"name": workload.PORT, "port": served.port, "targetPort": workload.PORT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": values.name, "labels": workload.labels(served, values)},
        "spec": {
            "type": "ClusterIP",
            "selector": workload.serving(served, values),
            "ports": [{**port, "protocol": "TCP", "appProtocol": "http"}],
        },
    }


def headless(served: Served, values: Values) -> Object:
    """What a StatefulSet names its pods by; they are named before they are ready."""
    made = service(served, values)
    # Without the labels by which a ServiceMonitor would find the pods a second time.
    made["metadata"] = {"name": workload.headless(values)}
    made["spec"] = {"clusterIP": "None", "publishNotReadyAddresses": True, **made["spec"]}
    del made["spec"]["type"]
    return made


def policy(served: Served, values: Values) -> Object:
    """Who may ask, and where the server may ask; an engine has no login of its own."""
    gateway = values.gateway.namespace if values.gateway else None
    others = dict.fromkeys((*values.allow_from, *([gateway] if gateway else [])))
    # Pods of the same namespace, and all of those that are named.
    peers: list[Object] = [{"podSelector": {}}]
    peers += [{"namespaceSelector": {"matchLabels": {_NAMESPACE: name}}} for name in others]
    # Hosts of a slice talk at ports that Ray and libtpu choose.
    group = [{"podSelector": {"matchLabels": workload.selector(served, values)}}]
    grouped = values.grouped
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": values.name, "labels": workload.labels(served, values)},
        "spec": {
            "podSelector": {"matchLabels": workload.selector(served, values)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": peers, "ports": [{"protocol": "TCP", "port": workload.PORT}]},
                *([{"from": group}] if grouped else []),
            ],
            "egress": [*_egress(values), *([{"to": group}] if grouped else [])],
        },
    }


def _egress(values: Values) -> list[Object]:
    """Names, a hub over TLS where the weights come from one, and what the user's variables name."""
    # OpenShift's name servers listen at 5353 behind their Service, and policies see that port (so
    # does HPE's for its CSI driver, scod.hpedev.io).
    dns = (53, 5353) if values.any_uid else (53,)
    names = [{"protocol": protocol, "port": port} for port in dns for protocol in ("UDP", "TCP")]
    rules: list[Object] = [{"ports": names}]
    ports = {port for name, value in values.env if (port := _port(name, value))}
    ports |= set() if values.model.claim else {443}
    if ports:
        rules.append({"ports": [{"protocol": "TCP", "port": port} for port in sorted(ports)]})
    return rules


def _port(name: str, value: str) -> int | None:
    """Where a variable sends requests to; None for one that names no proxy and no hub."""
    if name.upper() not in _ELSEWHERE or not value:
        return None
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        return url.port or _PORTS.get(url.scheme)
    except ValueError:  # no number; the server will say so
        return None


def route(served: Served, values: Values, gateway: Gateway) -> Object:
    """What a Gateway that is there sends here."""
    parent: Object = {"name": gateway.name}
    if gateway.namespace:
        parent["namespace"] = gateway.namespace
    spec: Object = {"parentRefs": [parent]}
    if gateway.hostnames:
        spec["hostnames"] = list(gateway.hostnames)
    spec["rules"] = [
        {
            "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
            "backendRefs": [{"name": values.name, "port": served.port}],
        }
    ]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": values.name, "labels": workload.labels(served, values)},
        "spec": spec,
    }

"""Who reaches the server, and what it reaches: Services, NetworkPolicy, HTTPRoute."""

from __future__ import annotations

from typing import Any

from builder.deploy import workload
from builder.deploy.served import Served
from builder.deploy.values import Gateway, Values

Object = dict[str, Any]

_NAMESPACE = "kubernetes.io/metadata.name"  # a label that every namespace has of itself


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
    """Names, and a hub over TLS where the weights come from one."""
    names = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    rules: list[Object] = [{"ports": names}]
    if not values.model.claim:
        rules.append({"ports": [{"protocol": "TCP", "port": 443}]})
    return rules


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

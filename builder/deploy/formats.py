"""Files of a deployment, in each format that a cluster is fed with."""

from __future__ import annotations

from enum import StrEnum

from builder.deploy import cluster, yamltext
from builder.deploy.chart import chart
from builder.deploy.manifests import in_namespace, manifests
from builder.deploy.served import Served
from builder.deploy.values import Values
from builder.errors import UserError

CLUSTER = "cluster"  # the folder of what is the cluster administrator's


class Format(StrEnum):
    """How objects are handed over."""

    YAML = "yaml"
    KUSTOMIZE = "kustomize"
    HELM = "helm"


def stream(served: Served, values: Values) -> str:
    """All objects as one YAML stream, for `kubectl apply -f -`."""
    made = manifests(served, values).values()
    says = [
        f"{served.cell_id}: {served.title} {served.version}.",
        "Made by `imgbuild deploy k8s`; docs/kubernetes.md says why.",
    ]
    return yamltext.documents((in_namespace(one, values.namespace) for one in made), says=says)


def files(served: Served, values: Values, form: Format) -> dict[str, str]:
    """Path -> text, of the objects and of what the cluster needs beside them."""
    if form is Format.HELM and values.name == CLUSTER:
        raise UserError(f"--name: the chart's folder would be `{CLUSTER}/`, which is not its own")
    match form:
        case Format.YAML:
            made = {f"{values.name}.yaml": stream(served, values)}
        case Format.KUSTOMIZE:
            made = {f"base/{name}": text for name, text in kustomize(served, values).items()}
        case Format.HELM:
            made = {f"{values.name}/{name}": text for name, text in chart(served, values).items()}
    # A chart may have its autoscaler turned on when it is installed.
    scaled = form is Format.HELM or values.scaling is not None
    return {**made, **_of_cluster(served, values, scaled=scaled)}


def left_over(values: Values, form: Format) -> list[str]:
    """Templates of an earlier run's workload, which was of another kind.

    Helm renders each that is there: a Deployment would be left beside the StatefulSet that it has
    become. A base names its files, and others do no harm.
    """
    if form is not Format.HELM:
        return []
    stems = ["deployment"] if values.stateful else ["statefulset", "service-headless"]
    return [f"{values.name}/templates/{stem}.yaml" for stem in stems]


def kustomize(served: Served, values: Values) -> dict[str, str]:
    """A base: a file an object, and what names them; overlays patch it."""
    made = {f"{stem}.yaml": yamltext.text(one) for stem, one in manifests(served, values).items()}
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    where = {"namespace": values.namespace} if values.namespace else {}
    says = [
        "A base of `imgbuild deploy k8s`: change it in an overlay, and here by running it again."
    ]
    named = yamltext.text({**head, **where, "resources": list(made)}, says=says)
    return {"kustomization.yaml": named, **made}


def _of_cluster(served: Served, values: Values, *, scaled: bool) -> dict[str, str]:
    made = {
        f"{CLUSTER}/kubelet.yaml": yamltext.text(
            cluster.kubelet(),
            says=[
                "Of the nodes that serve: merge it into their kubelet's configuration. A changed",
                "CPU manager policy needs the node drained, /var/lib/kubelet/cpu_manager_state",
                "removed and the kubelet restarted. Reserve CPUs for your system's daemons, both",
                "threads of each core (`lscpu -e`): the other of one that is reserved is nobody's.",
            ],
        )
    }
    if operator := cluster.gpu_operator(served, values):
        says = ["Values of NVIDIA's GPU Operator chart."]
        if served.driver_floor:
            says += [
                f"The image needs driver {served.driver_floor} or newer: where the chart's own",
                "driver.version is older, name one. Nodes that bring theirs: driver.enabled=false.",
            ]
        if served.last_driver:
            says += [
                f"Drivers after R{served.last_driver} do not know {served.gpu_title}, and the",
                "chart's own may be one: name a driver of that branch as driver.version.",
            ]
        made[f"{CLUSTER}/gpu-operator-values.yaml"] = yamltext.text(operator, says=says)
    if scaled and (adapter := cluster.adapter(served)):
        says = [
            "Values of the prometheus-adapter chart: the autoscaler's gauge, by pod. Where your",
            "Prometheus is, prometheus.url says.",
        ]
        made[f"{CLUSTER}/prometheus-adapter-values.yaml"] = yamltext.text(adapter, says=says)
    return made

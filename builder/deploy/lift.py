"""Objects become templates: some of their places become values, the rest stays as it is."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from builder.deploy import rows, template
from builder.deploy.gateway import Gateway
from builder.deploy.manifests import Object, manifests
from builder.deploy.scaling import TARGET, Scaling
from builder.deploy.secret import Secret
from builder.deploy.served import Served
from builder.deploy.storage import Hugepages
from builder.deploy.template import Lines, Raw, When
from builder.deploy.values import PULL, Values
from builder.deploy.workload import AFTER_DRAIN, STARTUP_PERIOD, arguments
from builder.facts import Accelerator


def _with_everything(served: Served, values: Values) -> Values:
    """With every part that a chart's user may turn on; whose values say what is on."""
    stateful = values.stateful
    cache = values.cache
    return dataclasses.replace(
        values,
        scaling=None,  # the replicas' place is lifted, and the autoscaler's is made beside it
        network_policy=True,
        monitor=served.metrics is not None,
        gateway=values.gateway or Gateway(name="gateway", namespace=None, hostnames=("example",)),
        hf_token=values.hf_token or Secret(name="hf-token", key="token"),
        hugepages=values.hugepages or Hugepages(page="2Mi", amount="1Gi"),
        pull_secrets=values.pull_secrets or ("registry",),
        runtime_class=values.runtime_class or "nvidia",
        priority_class=values.priority_class or "high",
        cache=dataclasses.replace(
            cache, storage_class=(cache.storage_class or "standard") if stateful else None
        ),
    )


class Lift:
    """Takes values out of objects, and puts expressions in their places."""

    def __init__(self, served: Served, values: Values) -> None:
        self._served, self._values = served, values
        self._kind = "statefulset" if values.stateful else "deployment"
        self.rows: list[rows.Row] = []
        self.conditions: dict[str, str] = {}
        self.objects = copy.deepcopy(manifests(served, _with_everything(served, values)))
        scaling = values.scaling or Scaling(least=1, most=4, target=TARGET)
        if served.metrics:
            scaled = manifests(served, dataclasses.replace(values, scaling=scaling))
            autoscaler = "horizontalpodautoscaler"
            self.objects[autoscaler] = copy.deepcopy(scaled[autoscaler])
        full = f'include "{values.name}.fullname" .'
        self._name = f"{{{{ {full} | quote }}}}"
        self._headless = f"{{{{ {full} }}}}-headless"
        self._workload()
        self._pod()
        self._volumes()
        self._names()
        self._budget()
        if served.metrics:
            self._autoscaler(scaling)
            self._monitor()
        self._policy()
        self._route()

    def _row(self, path: str, value: Any, says: str, schema: dict[str, Any]) -> None:
        self.rows.append(rows.Row(path, value, says, schema))

    @property
    def _spec(self) -> Object:
        spec: Object = self.objects[self._kind]["spec"]
        return spec

    @property
    def _podspec(self) -> Object:
        podspec: Object = self._spec["template"]["spec"]
        return podspec

    @property
    def _container(self) -> Object:
        container: Object = self._podspec["containers"][0]
        return container

    def _workload(self) -> None:
        values = self._values
        self._row(
            "image", values.image, "The image; by its digest it is the same for good.", rows.WORD
        )
        self._container["image"] = template.text("image")
        self._row(
            "imagePullSecrets", _named(values.pull_secrets), "Secrets of registries.", rows.NAMED
        )
        self._podspec["imagePullSecrets"] = _if_any("imagePullSecrets")
        scaled = {**rows.NUMBER, "minimum": 0}
        self._row("replicas", values.replicas, "Not asked where autoscaling is enabled.", scaled)
        when = When("not .Values.autoscaling.enabled", template.whole(".Values.replicas"))
        self._spec["replicas"] = (
            when if self._served.metrics else template.whole(".Values.replicas")
        )
        self._row(
            "startupSeconds",
            values.startup,
            "How long a start may take; then the container is started anew.",
            rows.SECONDS,
        )
        up = STARTUP_PERIOD - 1
        self._container["startupProbe"]["failureThreshold"] = Raw(
            f"{{{{ div (add (int .Values.startupSeconds) {up}) {STARTUP_PERIOD} }}}}"
        )
        if "strategy" in self._spec:
            says = "A new pod before an old one needs spare GPUs. Recreate: rollingUpdate: null."
            self._row("strategy", self._spec["strategy"], says, rows.MAP)
            self._spec["strategy"] = _if_any("strategy")
        if "progressDeadlineSeconds" in self._spec:
            deadline = Raw(f"{{{{ add (int .Values.startupSeconds) {PULL} }}}}")
            self._spec["progressDeadlineSeconds"] = deadline
        self._row(
            "drainSeconds",
            values.drain,
            "How long what runs is still answered after a pod is told to stop.",
            rows.SECONDS,
        )
        self._container["lifecycle"]["preStop"]["sleep"]["seconds"] = template.whole(
            ".Values.drainSeconds"
        )
        self._podspec["terminationGracePeriodSeconds"] = Raw(
            f"{{{{ add (int .Values.drainSeconds) {AFTER_DRAIN} }}}}"
        )

    def _pod(self) -> None:
        served, values, container = self._served, self._values, self._container
        self._arguments()
        self._environment()
        says = "Requests and limits alike, so that the class is Guaranteed; whole CPUs."
        self._row("cpus", values.cpus, says, rows.NUMBER)
        says = "What is written to /dev/shm counts towards it."
        self._row("memory", values.memory, says, rows.QUANTITY)
        resources: dict[Any, Any] = {
            "cpu": template.whole(".Values.cpus"),
            "memory": template.text("memory"),
        }
        if served.accelerator is Accelerator.CUDA:
            says = "nvidia.com/gpu, or an instance as nvidia.com/mig-1g.10gb."
            self._row("gpu.resource", values.resource, says, rows.RESOURCE)
            says = "Of one replica; the server spreads the model over so many."
            self._row("gpu.count", values.gpus, says, rows.NUMBER)
            resources[Raw("{{ .Values.gpu.resource }}")] = template.whole(".Values.gpu.count")
        pages = values.hugepages
        says = "2Mi or 1Gi."
        self._row("hugepages.page", pages.page if pages else "2Mi", says, {"enum": ["2Mi", "1Gi"]})
        says = "As 4Gi; empty: none."
        amount = {"type": "string", "pattern": f"^$|{rows.QUANTITY['pattern']}"}
        self._row("hugepages.amount", pages.amount if pages else "", says, amount)
        resources[Raw("hugepages-{{ .Values.hugepages.page }}")] = When(
            ".Values.hugepages.amount", template.text("hugepages.amount")
        )
        container["resources"] = {"limits": resources, "requests": dict(resources)}
        podspec = self._podspec
        for path, kind, says in (
            ("nodeSelector", rows.TEXTS, "Labels that nodes must have."),
            ("affinity", rows.MAP, "Nodes whose driver and GPUs the image has code for."),
            ("tolerations", rows.LIST, "Taints of nodes that are no hindrance."),
        ):
            self._row(path, podspec.get(path, [] if kind is rows.LIST else {}), says, kind)
            podspec[path] = _if_any(path)
        for path, value, says in (
            (
                "runtimeClassName",
                values.runtime_class,
                "Where the cluster's default is not NVIDIA's.",
            ),
            ("priorityClassName", values.priority_class, "Who gives way to whom."),
        ):
            self._row(path, value or "", says, rows.MAYBE)
            podspec[path] = When(f".Values.{path}", template.text(path))
        says = "Of the pod; OpenShift chooses the user, and wants none named."
        self._row("podSecurityContext", podspec["securityContext"], says, rows.MAP)
        podspec["securityContext"] = _if_any("podSecurityContext")
        says = "Of the container."
        self._row("securityContext", container["securityContext"], says, rows.MAP)
        container["securityContext"] = _if_any("securityContext")

    def _arguments(self) -> None:
        served, values = self._served, self._values
        own = list(arguments(served, values))
        own = own[: len(own) - len(values.arguments)]
        lifted: list[Any] = list(own)
        says = "The model, as the server is told."
        self._row("model", values.model.name, says, rows.TEXT)
        lifted[own.index(values.model.name)] = template.text("model")
        if served.flags.parallel in own:
            lifted[own.index(served.flags.parallel) + 1] = template.text("gpu.count")
        says = "Further arguments of the server, which win; `$` is written `$$`."
        extra = self._container["args"][len(own) :]
        self._row("extraArgs", extra, says, rows.LIST_OF_TEXTS)
        self._container["args"] = [*lifted, template.more("extraArgs")]

    def _environment(self) -> None:
        values, container = self._values, self._container
        token = values.hf_token
        says = "A Secret with the hub's token; empty: none."
        self._row("hfToken.secret", token.name if token else "", says, rows.MAYBE)
        self._row("hfToken.key", token.key if token else "token", "Its key.", rows.KEY)
        # What the user gives stands last, as it came.
        at = len(container["env"]) - len(values.env) - len(values.secret_env)
        own, extra = container["env"][:at], container["env"][at:]
        reference = {"name": template.text("hfToken.secret"), "key": template.text("hfToken.key")}
        given = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}}
        lifted = [
            When(".Values.hfToken.secret", given) if row["name"] == "HF_TOKEN" else row
            for row in own
        ]
        self._row("extraEnv", extra, "Further variables, as a container's `env`.", rows.VARIABLES)
        container["env"] = [*lifted, template.more("extraEnv")]

    def _volumes(self) -> None:
        values = self._values
        volumes = {volume["name"]: volume for volume in self._podspec["volumes"]}
        self._row("shm", values.shm, "Of /dev/shm, in memory.", rows.QUANTITY)
        volumes["shm"]["emptyDir"]["sizeLimit"] = template.text("shm")
        says = "Of the folder for caches." + (" Fixed once installed." if values.stateful else "")
        self._row("cache.size", values.cache.size, says, rows.QUANTITY)
        if values.stateful:
            says = "Of each replica's claim; empty: the cluster's default. Fixed once installed."
            self._row("cache.storageClass", values.cache.storage_class or "", says, rows.MAYBE)
            claim = self._spec["volumeClaimTemplates"][0]["spec"]
            claim["resources"]["requests"]["storage"] = template.text("cache.size")
            claim["storageClassName"] = When(
                ".Values.cache.storageClass", template.text("cache.storageClass")
            )
        else:
            says = "One that is there, for all replicas; empty: each pod's own, gone with it."
            self._row("cache.claim", values.cache.claim or "", says, rows.MAYBE)
            claim = {"claimName": template.text("cache.claim")}
            own = {"sizeLimit": template.text("cache.size")}
            volumes["cache"].pop("emptyDir", None)
            volumes["cache"]["persistentVolumeClaim"] = When(".Values.cache.claim", claim)
            volumes["cache"]["emptyDir"] = When("not .Values.cache.claim", own)
        if values.model.claim:
            self._row("modelClaim", values.model.claim, "The volume of models.", rows.OBJECT)
            volumes["models"]["persistentVolumeClaim"]["claimName"] = template.text("modelClaim")
        pages = ".Values.hugepages.amount"
        medium = Raw("HugePages-{{ .Values.hugepages.page }}")
        volumes["hugepages"]["emptyDir"]["medium"] = medium
        for place in (self._podspec["volumes"], self._container["volumeMounts"]):
            at = next(n for n, row in enumerate(place) if row["name"] == "hugepages")
            place[at] = When(pages, place[at])

    def _names(self) -> None:
        """The release's name and labels, wherever the objects have ours."""
        name = self._values.name
        for stem, made in self.objects.items():
            metadata = made["metadata"]
            metadata["name"] = Raw(self._headless if stem == "service-headless" else self._name)
            if "labels" in metadata:
                metadata["labels"] = template.included(f"{name}.labels")
        selectors = template.included(f"{name}.selectorLabels")
        self._spec["selector"]["matchLabels"] = selectors
        self._spec["template"]["metadata"]["labels"] = template.included(f"{name}.podLabels")
        for row in self._podspec["topologySpreadConstraints"]:
            row["labelSelector"]["matchLabels"] = selectors
        if self._values.stateful:
            self._spec["serviceName"] = Raw(self._headless)
            self.objects["service-headless"]["spec"]["selector"] = selectors
        self.objects["service"]["spec"]["selector"] = selectors
        for stem, key in (
            ("poddisruptionbudget", "selector"),
            ("networkpolicy", "podSelector"),
            ("servicemonitor", "selector"),
        ):
            if stem in self.objects:
                self.objects[stem]["spec"][key]["matchLabels"] = selectors
        if "horizontalpodautoscaler" in self.objects:
            target = self.objects["horizontalpodautoscaler"]["spec"]["scaleTargetRef"]
            target["name"] = Raw(self._name)

    def _enabled(self, stem: str, group: str, says: str, *, enabled: bool) -> None:
        self._row(f"{group}.enabled", enabled, says, rows.FLAG)
        self.conditions[stem] = f".Values.{group}.enabled"

    def _budget(self) -> None:
        stem, group = "poddisruptionbudget", "podDisruptionBudget"
        self._enabled(stem, group, "Nodes are drained so many replicas at a time.", enabled=True)
        self._row(f"{group}.maxUnavailable", 1, "Of the replicas.", rows.NUMBER)
        made = self.objects[stem]["spec"]
        made["maxUnavailable"] = template.whole(f".Values.{group}.maxUnavailable")

    def _autoscaler(self, scaling: Scaling) -> None:
        stem, group = "horizontalpodautoscaler", "autoscaling"
        says = "By the server's own gauge; needs an adapter for custom metrics."
        self._enabled(stem, group, says, enabled=self._values.scaling is not None)
        made = self.objects[stem]["spec"]
        self._row(f"{group}.minReplicas", scaling.least, "At least.", rows.NUMBER)
        self._row(f"{group}.maxReplicas", scaling.most, "At most.", rows.NUMBER)
        says = "Of the gauge, a replica."
        self._row(f"{group}.target", scaling.target, says, rows.NUMBER)
        least, most = f".Values.{group}.minReplicas", f".Values.{group}.maxReplicas"
        made["minReplicas"] = template.whole(least)
        fails = template.fail_if(
            f"lt (int {most}) (int {least})", f"{group}.maxReplicas is less than minReplicas"
        )
        made["maxReplicas"] = Raw(f"{template.whole(most)}{fails}")
        target = made["metrics"][0]["pods"]["target"]
        target["averageValue"] = template.text(f"{group}.target")

    def _policy(self) -> None:
        stem, group = "networkpolicy", "networkPolicy"
        says = "Who may ask the server, and where it may ask."
        self._enabled(stem, group, says, enabled=self._values.network_policy)
        made = self.objects[stem]["spec"]
        own = manifests(self._served, dataclasses.replace(self._values, network_policy=True))[stem][
            "spec"
        ]
        says = "Peers, as of a NetworkPolicy: pods of its namespace, and those named. Empty: all."
        self._row(f"{group}.from", own["ingress"][0]["from"], says, rows.LIST)
        self._row(
            f"{group}.egress",
            own["egress"],
            "Rules, as of a NetworkPolicy. Empty: none.",
            rows.LIST,
        )
        made["ingress"][0]["from"] = template.block(f"{group}.from")
        made["egress"] = template.block(f"{group}.egress")

    def _monitor(self) -> None:
        stem, group = "servicemonitor", "serviceMonitor"
        says = "For the Prometheus Operator."
        self._enabled(stem, group, says, enabled=self._values.monitor)
        says = "Labels by which your Prometheus finds it."
        self._row(f"{group}.labels", dict(self._values.monitor_labels), says, rows.TEXTS)
        name = self._values.name
        own, others = template.included(f"{name}.labels"), template.more(f"{group}.labels")
        self.objects[stem]["metadata"]["labels"] = Lines((*own.lines, *others.lines))
        self._row(f"{group}.interval", "15s", "Between two readings.", rows.DURATION)
        endpoint = self.objects[stem]["spec"]["endpoints"][0]
        endpoint["interval"] = template.text(f"{group}.interval")

    def _route(self) -> None:
        stem, group = "httproute", "httpRoute"
        gateway = self._values.gateway
        says = "For a Gateway that is there."
        self._enabled(stem, group, says, enabled=gateway is not None)
        made = self.objects[stem]["spec"]
        parents = made["parentRefs"] if gateway else []
        self._row(f"{group}.parentRefs", parents, "Which Gateway.", rows.NAMED)
        made["parentRefs"] = template.needed(f"{group}.parentRefs", "name a Gateway")
        hosts = list(gateway.hostnames) if gateway else []
        self._row(
            f"{group}.hostnames", hosts, "Hosts that lead here; empty: all.", rows.LIST_OF_TEXTS
        )
        made["hostnames"] = _if_any(f"{group}.hostnames")
        made["rules"][0]["backendRefs"][0]["name"] = Raw(self._name)


def _if_any(path: str) -> When:
    """A collection that is left out where it is empty, or taken away with `null`."""
    return When(f".Values.{path}", template.block(path))


def _named(names: tuple[str, ...]) -> list[Object]:
    return [{"name": name} for name in names]

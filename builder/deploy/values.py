"""What a user wants of a deployment: checked once, frozen, and the same for every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder.deploy import checked, instances, quantity, scaling, secret
from builder.deploy.checked import given
from builder.deploy.gateway import Gateway
from builder.deploy.scaling import Scaling
from builder.deploy.secret import Secret
from builder.deploy.served import START_PERIOD, Served
from builder.deploy.server import FETCHING, fetched, further, gpus_of, shm_fits, shm_of
from builder.deploy.storage import Cache, Hugepages, Model
from builder.deploy.tpu import hosts
from builder.deploy.tpu.slices import Slice
from builder.errors import UserError, quoted

PULL = 600  # seconds that a rollout waits for an image, beside the start itself
_LONGEST_OF_POOLS = 36  # characters; of a node pool's 40, beside a number


@dataclass(frozen=True, kw_only=True)
class Values:
    """All of it. Quantities are text as Kubernetes has it, durations are seconds."""

    name: str
    image: str
    model: Model
    namespace: str | None = None
    replicas: int = 1
    surge: bool = True  # a new pod before an old one goes
    gpus: int  # or MIG instances; 0 for an image that runs on CPUs
    mig: str | None = None
    tpus: Slice | None = None  # that a replica has
    spot: bool = False  # of nodes that may be taken back; of TPUs
    root: bool = False  # whether only uid 0 may open the devices; of TPUs
    gpu_products: tuple[str, ...] = ()
    gpu_labels: bool = True  # whether nodes have those of GPU feature discovery
    node_labels: tuple[tuple[str, str], ...] = ()
    # None: not asked for, since a slice's hosts are its pods' alone.
    cpus: int | None
    memory: str | None
    shm: str
    hugepages: Hugepages | None = None
    cache: Cache
    arguments: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    secret_env: tuple[tuple[str, Secret], ...] = ()
    hf_token: Secret | None = None
    pull_secrets: tuple[str, ...] = ()
    runtime_class: str | None = None
    priority_class: str | None = None
    any_uid: bool = False
    startup: int
    drain: int = 30
    scaling: Scaling | None = None
    network_policy: bool = True
    allow_from: tuple[str, ...] = ()
    monitor: bool = False
    monitor_labels: tuple[tuple[str, str], ...] = ()
    gateway: Gateway | None = None

    @property
    def stateful(self) -> bool:
        """Whether each replica keeps a volume of its own."""
        return self.cache.per_replica

    @property
    def grouped(self) -> bool:
        """Whether a replica is several pods, on the hosts of one slice."""
        return self.tpus is not None and self.tpus.hosts > 1

    @property
    def resource(self) -> str:
        """The extended resource that a device plugin hands out, one an instance."""
        if self.tpus:
            return "google.com/tpu"
        return f"nvidia.com/mig-{self.mig}" if self.mig else "nvidia.com/gpu"


def values(
    served: Served,
    *,
    image: str,
    model: str,
    name: str | None = None,
    namespace: str | None = None,
    replicas: int | None = None,
    surge: bool = True,
    gpus: int | None = None,
    mig: str | None = None,
    tpus: Slice | None = None,
    spot: bool = False,
    root: bool = False,
    gpu_products: Sequence[str] = (),
    gpu_labels: bool = True,
    node_labels: Sequence[str] = (),
    cpus: str | None = None,
    memory: str | None = None,
    shm: str | None = None,
    hugepages: str | None = None,
    cache_size: str = "100Gi",
    cache_claim: str | None = None,
    cache_per_replica: bool = False,
    storage_class: str | None = None,
    arguments: Sequence[str] = (),
    env: Sequence[str] = (),
    secret_env: Sequence[str] = (),
    hf_token: str | None = None,
    pull_secrets: Sequence[str] = (),
    runtime_class: str | None = None,
    priority_class: str | None = None,
    any_uid: bool = False,
    startup: str | None = None,
    drain: str = "30s",
    autoscale: str | None = None,
    target: int | None = None,
    network_policy: bool = True,
    allow_from: Sequence[str] = (),
    monitor: bool = False,
    monitor_labels: Sequence[str] = (),
    gateway: str | None = None,
    hostnames: Sequence[str] = (),
) -> Values:
    """Check everything that a user gives for an image; raises UserError at the first mistake."""
    number = gpus_of(served, gpus, mig, gpu_products)
    called = checked.name(served.framework if name is None else name)
    if tpus is not None:
        _of_slices(served, tpus, called, autoscale=autoscale, per_replica=cache_per_replica)
    if root and any_uid:
        raise UserError("--root with --any-uid", hint="one of them says who it is")
    scaled = scaling.parse(served, autoscale, target, replicas)
    scaling.needs_metrics(served, "--monitor", wanted=monitor)
    made_shm = given(shm, quantity.memory, "--shm") or (
        hosts.shm(served, tpus) if tpus else shm_of(served, number)
    )
    made_memory = given(memory, quantity.memory, "--memory")
    if made_memory is None and tpus is None:
        made_memory = f"{16 * (1 + number)}Gi"
    shm_fits(made_shm, made_memory)
    if cache_claim is not None and cache_per_replica:
        raise UserError(
            "--cache-claim with --cache-per-replica", hint="one volume for all, or one for each"
        )
    _alone("--storage-class", storage_class, "--cache-per-replica", cache_per_replica)
    _alone("--gpu-product", gpu_products, "--gpu-labels", gpu_labels)
    _alone("--target", target is not None, "--autoscale", autoscale is not None)
    _alone("--allow-from", allow_from, "--network-policy", network_policy)
    _alone("--hostname", hostnames, "--gateway", gateway)
    _alone("--monitor-label", monitor_labels, "--monitor", monitor)
    variables = tuple(checked.variable(text) for text in env)
    from_secrets = tuple(secret.variable(text) for text in secret_env)
    if hf_token is not None:
        checked.unique([*(key for key, _ in from_secrets), "HF_TOKEN"], "--secret-env")
    checked.unique([key for key, _ in (*variables, *from_secrets)], "--env")
    checked.unique(pull_secrets, "--pull-secret")
    secret.none_in(arguments, from_secrets, one_pod=tpus is None or tpus.hosts == 1)
    weights = Model.parse(model)
    if not weights.claim:
        fetched(served, weights.name, "pvc://CLAIM/FOLDER")
    return Values(
        name=called,
        namespace=given(namespace, checked.namespace, "--namespace"),
        image=checked.image(image),
        model=weights,
        # Nodes of TPUs are as many as there are replicas: none is free for a new pod.
        surge=tpus is None and _surge(surge, stateful=cache_per_replica),
        replicas=checked.replicas(1 if replicas is None else replicas, "--replicas"),
        gpus=number,
        mig=None if mig is None else instances.profile(served, mig),
        tpus=tpus,
        spot=spot,
        root=root,
        gpu_products=tuple(checked.label_value(text, "--gpu-product") for text in gpu_products),
        gpu_labels=gpu_labels,
        node_labels=_labels(node_labels, "--node-label", "kubernetes.io/arch"),
        # API server, engine and a worker a GPU, and the second thread of each of their cores
        # (vLLM's documentation, architecture overview).
        cpus=given(cpus, checked.cpus, "--cpus")
        or (None if tpus else 2 * (2 + number) if number else 8),
        memory=made_memory,
        shm=made_shm,
        hugepages=given(hugepages, Hugepages.parse, "--hugepages"),
        cache=Cache(
            size=quantity.memory(cache_size, "--cache-size"),
            claim=given(cache_claim, checked.object_name, "--cache-claim"),
            per_replica=cache_per_replica,
            storage_class=given(storage_class, checked.object_name, "--storage-class"),
        ),
        arguments=further(served, arguments),
        env=variables,
        secret_env=from_secrets,
        hf_token=None if hf_token is None else Secret.parse(hf_token, "--hf-token-secret", "token"),
        pull_secrets=tuple(checked.object_name(text, "--pull-secret") for text in pull_secrets),
        runtime_class=given(runtime_class, checked.object_name, "--runtime-class"),
        priority_class=given(priority_class, checked.object_name, "--priority-class"),
        any_uid=any_uid,
        startup=given(startup, checked.seconds, "--startup")
        or (START_PERIOD if weights.claim else FETCHING),
        drain=checked.seconds(drain, "--drain"),
        scaling=scaled,
        network_policy=network_policy,
        allow_from=tuple(checked.namespace(text, "--allow-from") for text in allow_from),
        monitor=monitor,
        monitor_labels=_labels(monitor_labels, "--monitor-label", "app.kubernetes.io/", "helm.sh/"),
        gateway=None if gateway is None else Gateway.parse(gateway, hostnames),
    )


def _of_slices(
    served: Served, tpus: Slice, name: str, *, autoscale: str | None, per_replica: bool
) -> None:
    """Raises UserError for what a slice cannot have."""
    hosts.check(served, tpus)
    if len(name) > _LONGEST_OF_POOLS:
        raise UserError(
            f"--name: {quoted(name)} has {len(name)} characters",
            hint=f"{_LONGEST_OF_POOLS} are left by a node pool's 40, and by a group's labels",
        )
    if autoscale is not None:
        raise UserError(
            "--autoscale: a slice is a node pool of its own, and comes in no minutes",
            hint="--replicas",
        )
    if per_replica and tpus.hosts > 1:
        raise UserError(
            f"--cache-per-replica: a replica is {tpus.hosts} pods, and one volume is one node's",
            hint="--cache-claim names one that all of them share",
        )


def _alone(option: str, said: object, needed: str, there: object) -> None:
    if said and not there:
        raise UserError(f"{option} without {needed} says nothing", hint=f"add {needed}")


def _surge(wanted: bool, *, stateful: bool) -> bool:
    if not wanted and stateful:
        raise UserError(
            "--no-surge with --cache-per-replica: a StatefulSet never starts one before"
        )
    return wanted


def _labels(texts: Sequence[str], option: str, *ours: str) -> tuple[tuple[str, str], ...]:
    """Of a user's, beside those whose beginning is given, which are set already."""
    labels = tuple(checked.label(text, option) for text in texts)
    checked.unique([key for key, _ in labels], option)
    for key, _ in labels:
        if key.startswith(ours):
            raise UserError(f"{option}: {key} is set already")
    return labels

"""What a user wants of a deployment: checked once, frozen, and the same for every format."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from builder.deploy import checked, instances, quantity
from builder.deploy.served import SHM_PER_RANK, START_PERIOD, Served
from builder.deploy.tpu import hosts
from builder.deploy.tpu.slices import Slice
from builder.errors import UserError, quoted
from builder.facts import Accelerator

_T = TypeVar("_T")

MODELS = "/models"  # where a volume of models is mounted
_LONGEST_OF_POOLS = 36  # characters; of a node pool's 40, beside a number
PULL = 600  # seconds that a rollout waits for an image, beside the start itself
TARGET = 5  # requests that wait at a replica, by which it is scaled where nothing else is said
_LARGEST = 1_000_000
_MOST_GPUS = 64  # of one host; more are several hosts', which Ray joins
_MOST_HOSTNAMES = 16  # of an HTTPRoute
# Three times what an image allows itself: a first start also fetches the weights.
FETCHING = 3 * START_PERIOD


@dataclass(frozen=True, kw_only=True)
class Model:
    """The weights: a name on a hub, or a folder of a claim."""

    name: str  # as the server is told
    claim: str | None = None  # None: it is fetched from a hub

    @classmethod
    def parse(cls, text: str) -> Model:
        """`org/name` or `pvc://CLAIM[/FOLDER]`."""
        scheme, _, rest = text.partition("://")
        if scheme != "pvc" or "://" not in text:
            return cls(name=checked.hub_model(text))
        claim, _, folder = rest.partition("/")
        folder = checked.folder(folder.rstrip("/"), "--model")
        path = f"{MODELS}/{folder}" if folder else MODELS
        return cls(name=path, claim=checked.object_name(claim, "--model"))


@dataclass(frozen=True, kw_only=True)
class Secret:
    """A key of a Secret, by reference."""

    name: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Where compiled code and fetched weights stay: with the pod, or in a volume."""

    size: str
    claim: str | None = None  # one that is there, for all replicas
    per_replica: bool = False  # a claim of its own for each: a StatefulSet
    storage_class: str | None = None  # None: the cluster's default


@dataclass(frozen=True, kw_only=True)
class Hugepages:
    """Pages of one size that the container may map."""

    page: str  # 2Mi or 1Gi
    amount: str


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Between how many replicas, and at which load a replica."""

    least: int
    most: int
    target: int  # of the server's gauge, a replica


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A Gateway that is there, and the hosts that lead to this server."""

    name: str
    namespace: str | None
    hostnames: tuple[str, ...] = ()


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
    scaling = _scaling(served, autoscale, target, replicas)
    _needs_metrics(served, "--monitor", wanted=monitor)
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
    from_secrets = tuple(_secret_variable(text) for text in secret_env)
    if hf_token is not None:
        checked.unique([*(key for key, _ in from_secrets), "HF_TOKEN"], "--secret-env")
    checked.unique([key for key, _ in (*variables, *from_secrets)], "--env")
    _no_secrets(arguments, from_secrets, one_pod=tpus is None or tpus.hosts == 1)
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
        replicas=_count(1 if replicas is None else replicas, "--replicas"),
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
        hugepages=given(hugepages, _hugepages, "--hugepages"),
        cache=Cache(
            size=quantity.memory(cache_size, "--cache-size"),
            claim=given(cache_claim, checked.object_name, "--cache-claim"),
            per_replica=cache_per_replica,
            storage_class=given(storage_class, checked.object_name, "--storage-class"),
        ),
        arguments=further(served, arguments),
        env=variables,
        secret_env=from_secrets,
        hf_token=None if hf_token is None else _secret(hf_token, "--hf-token-secret", "token"),
        pull_secrets=tuple(checked.object_name(text, "--pull-secret") for text in pull_secrets),
        runtime_class=given(runtime_class, checked.object_name, "--runtime-class"),
        priority_class=given(priority_class, checked.object_name, "--priority-class"),
        any_uid=any_uid,
        startup=given(startup, checked.seconds, "--startup")
        or (START_PERIOD if weights.claim else FETCHING),
        drain=checked.seconds(drain, "--drain"),
        scaling=scaling,
        network_policy=network_policy,
        allow_from=tuple(checked.namespace(text, "--allow-from") for text in allow_from),
        monitor=monitor,
        monitor_labels=_labels(monitor_labels, "--monitor-label", "app.kubernetes.io/", "helm.sh/"),
        gateway=None if gateway is None else _gateway(gateway, hostnames),
    )


def given(text: str | None, check: Callable[[str, str], _T], option: str) -> _T | None:
    """What an option is checked to be; None where it was not given. An empty text was."""
    return None if text is None else check(text, option)


def gpus_of(served: Served, gpus: int | None, mig: str | None, products: Sequence[str]) -> int:
    """How many a replica has; 0 for an image that runs on CPUs."""
    if served.accelerator is not Accelerator.CUDA:
        if gpus or mig is not None or products:
            raise UserError(
                f"{served.cell_id} runs on CPUs and would leave a GPU idle",
                hint="leave out --gpus, --mig and --gpu-product, or take a cuda cell",
            )
        return 0
    number = 1 if gpus is None else gpus
    if number < 1:
        raise UserError(f"--gpus: {served.cell_id} needs a GPU", hint="1 or more")
    if number > _MOST_GPUS:
        raise UserError(
            f"--gpus: no host has {number}", hint="`imgbuild deploy ray` and `kuberay` join several"
        )
    if mig is not None and number > 1:
        raise UserError(
            f"--mig with --gpus {number}: NCCL does not talk between MIG instances",
            hint="one instance a replica: --replicas or --autoscale",
        )
    if number > 1 and not served.flags.parallel:
        raise UserError(
            f"--gpus {number}: {served.title}'s server has no tensor parallelism",
            hint="one GPU a replica: --replicas or --autoscale",
        )
    return number


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


def _no_secrets(
    arguments: Sequence[str], given: Sequence[tuple[str, Secret]], *, one_pod: bool
) -> None:
    """A server's key comes out of a Secret: where the kubelet has the arguments, it fills it in."""
    hint = "--secret-env NAME=SECRET/KEY takes it from a Secret"
    if one_pod:
        references = {f"$({key})" for key, _ in given}
        checked.no_secrets(arguments, references, f"{hint}, and '$(NAME)' stands for it here")
    else:  # behind a shell; vLLM is what several hosts serve with, and has a variable
        checked.no_secrets(arguments, (), hint.replace("NAME", "VLLM_API_KEY"))


def _alone(option: str, said: object, needed: str, there: object) -> None:
    if said and not there:
        raise UserError(f"{option} without {needed} says nothing", hint=f"add {needed}")


def fetched(served: Served, model: str, instead: str) -> str:
    """A name on a hub; raises UserError where the server reads folders only."""
    if not served.fetches:
        raise UserError(
            f"--model: {served.title}'s server reads folders, and does not fetch {quoted(model)}",
            hint=f"as {instead}",
        )
    return model


def further(served: Served, arguments: Sequence[str]) -> tuple[str, ...]:
    """Of the server, behind those that are made for it; where it listens is not theirs to say."""
    if arguments and not arguments[0].startswith("-"):
        raise UserError(
            f"argument: {quoted(arguments[0])} is no option of the server's",
            hint="what is the server's follows `--`, an option first",
        )
    flags = served.flags
    ours = {flags.host: "", flags.port: ""}
    ours |= dict.fromkeys((flags.model, *flags.model_also), "--model")
    for text in arguments:
        flag = text.partition("=")[0]
        if flag and flag in ours:
            option = ours[flag]
            raise UserError(
                f"argument: {flag} is set already, and probes and Service count on it",
                hint=f"{option} of imgbuild says it" if option else "leave it out",
            )
    return tuple(checked.plain(text, "argument") for text in arguments)


def shm_of(served: Served, ranks: int) -> str:
    """What a server with so many GPUs needs of /dev/shm."""
    return quantity.text_of(max(served.shm_mib, ranks * SHM_PER_RANK) << 20)


def shm_fits(shm: str, memory: str | None) -> None:
    """Raises UserError where /dev/shm alone is all of a container's memory."""
    if memory and quantity.in_bytes(shm) >= quantity.in_bytes(memory):
        raise UserError(
            f"--shm: {shm} of {memory} of memory",
            hint="what is written to /dev/shm counts as the container's memory; raise --memory",
        )


def _count(number: int, option: str) -> int:
    if not 0 <= number <= 10_000:
        raise UserError(f"{option}: {number} is no number of replicas", hint="0 to 10000")
    return number


def _hugepages(text: str, option: str) -> Hugepages:
    page, equals, amount = text.partition("=")
    if not equals or page not in ("2Mi", "1Gi"):
        raise UserError(
            f"{option}: {quoted(text)} is no amount of huge pages", hint="as 2Mi=4Gi or 1Gi=8Gi"
        )
    size = quantity.in_bytes(quantity.memory(amount, option))
    if size % quantity.in_bytes(page):
        raise UserError(f"{option}: {amount} is no multiple of {page}")
    return Hugepages(page=page, amount=amount)


def _secret(text: str, option: str, default_key: str = "") -> Secret:
    named, key = checked.secret(text, option, default_key)
    return Secret(name=named, key=key)


def _secret_variable(text: str) -> tuple[str, Secret]:
    key, equals, place = text.partition("=")
    if not equals:
        raise UserError(f"--secret-env: {text!r} names no Secret", hint="as NAME=SECRET/KEY")
    return checked.variable_name(key, "--secret-env"), _secret(place, "--secret-env")


def _surge(wanted: bool, *, stateful: bool) -> bool:
    if not wanted and stateful:
        raise UserError(
            "--no-surge with --cache-per-replica: a StatefulSet never starts one before"
        )
    return wanted


def _scaling(
    served: Served, text: str | None, target: int | None, replicas: int | None
) -> Scaling | None:
    if text is None:
        return None
    if replicas is not None:
        raise UserError(
            "--replicas with --autoscale: the autoscaler says how many there are",
            hint="--autoscale MIN:MAX alone",
        )
    _needs_metrics(served, "--autoscale", wanted=True)
    found = re.match(r"^([0-9]{1,5}):([0-9]{1,5})\Z", text)
    least, most = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= least <= most:
        raise UserError(
            f"--autoscale: {text!r} is no range", hint="MIN:MAX as 1:4; no cluster scales to 0 so"
        )
    load = TARGET if target is None else target
    if not 1 <= load <= _LARGEST:
        raise UserError(f"--target: {load} is no load", hint=f"1 to {_LARGEST}")
    return Scaling(least=least, most=_count(most, "--autoscale"), target=load)


def _needs_metrics(served: Served, option: str, *, wanted: bool) -> None:
    if wanted and served.metrics is None:
        raise UserError(f"{option}: of {served.title}'s metrics nothing is known")


def _labels(texts: Sequence[str], option: str, *ours: str) -> tuple[tuple[str, str], ...]:
    """Of a user's, beside those whose beginning is given, which are set already."""
    labels = tuple(checked.label(text, option) for text in texts)
    checked.unique([key for key, _ in labels], option)
    for key, _ in labels:
        if key.startswith(ours):
            raise UserError(f"{option}: {key} is set already")
    return labels


def _gateway(text: str, hostnames: Sequence[str]) -> Gateway:
    checked.unique(hostnames, "--hostname")
    if len(hostnames) > _MOST_HOSTNAMES:
        raise UserError(f"--hostname: an HTTPRoute has no more than {_MOST_HOSTNAMES}")
    where, slash, named = text.partition("/")
    return Gateway(
        name=checked.object_name(named if slash else where, "--gateway"),
        namespace=checked.namespace(where, "--gateway") if slash else None,
        hostnames=tuple(checked.hostname(text, "--hostname") for text in hostnames),
    )

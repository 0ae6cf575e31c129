"""A Ray cluster on hosts without an orchestrator: the commands of its head, workers and server."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from builder.deploy import checked, quantity, rayapp
from builder.deploy.checked import given
from builder.deploy.compose import MODEL, host_folder
from builder.deploy.served import Served
from builder.deploy.server import further, gpus_of, shm_of
from builder.errors import UserError, quoted
from builder.facts import Accelerator, version_key
from builder.plan import RUNTIME, VENV

Object = dict[str, Any]

TOKEN = "/run/secrets/ray-token"  # noqa: S105 - where it is mounted
# All fixed, so that a firewall can name them; Ray picks any otherwise.
NODE, OBJECTS, ENVIRONMENTS, AGENT_GRPC, METRICS = 6380, 6381, 6382, 6383, 6384
WORKERS = (11000, 11999)  # a process of Ray's has one: workers, replicas, Serve's own actors
# Ray's documentation asks for as many open files; it opens several for each process that it talks
# to. Asked for inside: an engine whose own limit is lower refuses `--ulimit`, and starts nothing.
_START = 'ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"; exec "$@"'
_HEALTH = f"{VENV}/bin/python3 -ES {RUNTIME}/health.py {rayapp.AGENT} {rayapp.NODE_HEALTH}"
_TOKENS = (2, 52)  # the first release with tokens (docs.ray.io, Ray security)
_MOST = 1000  # hosts
_NAME_OF_HOST = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")  # each part
# Of Docker's and Podman's own, on which containers do not find one another by name.
_NAMELESS = ("host", "none", "bridge", "default", "podman", "private", "pasta", "slirp4netns")
_NETWORK = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
# A file beside where it is run; Apptainer reads others as addresses.
_SIF = re.compile(r"^[A-Za-z0-9_./@%+=,~ -]+\.sif\Z")


class Engine(StrEnum):
    """What runs the containers."""

    DOCKER = "docker"
    PODMAN = "podman"
    APPTAINER = "apptainer"


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """What a user wants of a cluster of hosts, checked."""

    name: str
    engine: Engine
    image: str
    head: str  # its address, for the workers
    count: int  # hosts, the head among them
    head_only: bool  # whether the head computes nothing
    spread: bool  # one engine over all hosts, else one a host
    gpus: int  # of each host that computes
    cpus: int | None  # that Ray may hand out on each; None: all
    model: str  # the folder, on all hosts
    token: str  # the file, on all hosts
    network: str | None  # of the engine's; None: the host's own
    shm: str
    arguments: tuple[str, ...]
    env: tuple[tuple[str, str], ...]

    @property
    def computing(self) -> int:
        """Hosts with an engine."""
        return self.count - self.head_only


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port that is open on a node, and who has to reach it."""

    number: str
    what: str
    on: str
    asked_by: str


def hosts(
    served: Served,
    *,
    image: str,
    model: str,
    head: str | None = None,
    count: int = 2,
    name: str | None = None,
    engine: str = Engine.DOCKER,
    head_only: bool = False,
    spread: bool = False,
    gpus: int | None = None,
    cpus: str | None = None,
    token_folder: str | None = None,
    network: str | None = None,
    shm: str | None = None,
    arguments: Sequence[str] = (),
    env: Sequence[str] = (),
) -> Hosts:
    """Check what a user gives; raises UserError at the first mistake."""
    rayapp.of_ray(served)
    if version_key(served.version)[:2] < _TOKENS:
        raise UserError(f"{served.cell_id}: Ray {served.version} knows no tokens; take 2.52 on")
    named = checked.name(served.framework if name is None else name)
    kind = Engine(engine)
    if not 1 <= count <= _MOST or (head_only and count < 2):
        least = 2 if head_only else 1
        hint = f"{least} to {_MOST}, the head's among them"
        raise UserError(f"--hosts: {count} is no number of hosts", hint=hint)
    number = gpus_of(served, gpus, None, ())
    _spreads(served, spread=spread, head_only=head_only)
    if network is not None and kind is Engine.APPTAINER:
        raise UserError("--network with apptainer, which has the host's network")
    if network is not None and not _NETWORK.match(network):
        raise UserError(f"--network: {quoted(network)} is no network's name")
    if network in _NAMELESS:
        raise UserError(
            f"--network: on {network} containers do not find one another by name",
            hint=f"one of your own, as by `{kind} network create ray`",
        )
    if shm is not None and kind is Engine.APPTAINER:
        raise UserError("--shm with apptainer, which has the host's /dev/shm")
    closed = f"/etc/imgbuild-{named}" if token_folder is None else token_folder
    return Hosts(
        name=named,
        engine=kind,
        image=_image(image, kind),
        head=_head(head, f"{named}-head" if network else None, alone=count == 1),
        count=count,
        head_only=head_only,
        spread=spread,
        gpus=number,
        cpus=given(cpus, checked.cpus, "--cpus"),
        model=host_folder(model),
        token=f"{host_folder(closed, '--token-folder')}/token",
        network=network,
        shm=given(shm, quantity.memory, "--shm") or shm_of(served, number),
        arguments=rayapp.free(served, further(served, arguments)),
        env=_variables(env),
    )


def _spreads(served: Served, *, spread: bool, head_only: bool) -> None:
    if not spread:
        return
    if served.accelerator is not Accelerator.CUDA:
        raise UserError(
            f"--spread: vLLM's CPU build spreads no model over hosts, and {served.cell_id} is one",
            hint="without it each host has an engine of its own",
        )
    if head_only:
        raise UserError(
            "--spread with --head-only: vLLM's own process is on the head, and needs its GPU there"
        )


def _image(text: str, engine: Engine) -> str:
    if engine is not Engine.APPTAINER:
        return checked.image(text)
    if _SIF.match(text) and not text.startswith("-"):
        return text
    raise UserError(f"--image: {quoted(text)} is no SIF", hint="as /images/cuda13.0-ray.sif")


def _head(text: str | None, default: str | None, *, alone: bool) -> str:
    address = default if text is None else text
    if address is None:
        raise UserError("--head says at which address workers find the head", hint="an IP address")
    if ip := _ip(address):
        here = ip.is_loopback and not alone
        if here or ip.is_unspecified or ip.is_multicast or ip == _BROADCAST:
            raise UserError(
                f"--head: at {address} no other host finds it", hint="its address on your network"
            )
        return address
    *_, last = parts = address.split(".")
    named = len(address) <= 253 and all(_NAME_OF_HOST.match(part) for part in parts)
    if named and not last.isdigit() and (alone or address.lower() != "localhost"):
        return address
    hint = "an IPv4 address, or a name, without a port"
    raise UserError(f"--head: {quoted(address)} is no address of a host", hint=hint)


_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


def _ip(text: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        return None


def _variables(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    made = tuple(checked.variable(text, instead=_IN_A_FILE) for text in texts)
    checked.unique([key for key, _ in made], "--env")
    for key, _ in made:
        if key in ("PYTHONPATH", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
            raise UserError(f"--env: {key} is set already")
    return made


_IN_A_FILE = "{} belongs into a file that only the server may read; models are folders here"


def head(served: Served, wanted: Hosts) -> list[str]:
    """The command of the head's host."""
    # Ray takes the address of the way out otherwise, which may be another network's.
    at = ["--node-ip-address", wanted.head] if _ip(wanted.head) else []
    start = ["--head", *at, "--port", str(rayapp.GCS)]
    # For this node alone: who may ask it runs code on all of them.
    start += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(rayapp.DASHBOARD)]
    start += ["--ray-client-server-port", str(rayapp.CLIENT)]
    return _node(served, wanted, "head", start, computes=not wanted.head_only)


def worker(served: Served, wanted: Hosts, number: int) -> list[str]:
    """The command of a worker's host."""
    start = ["--address", f"{wanted.head}:{rayapp.GCS}"]
    return _node(served, wanted, f"worker-{number}", start, computes=True)


def _node(
    served: Served, wanted: Hosts, role: str, start: list[str], *, computes: bool
) -> list[str]:
    cuda = served.accelerator is Accelerator.CUDA
    hands = [] if wanted.cpus is None else ["--num-cpus", str(wanted.cpus)]
    if not computes:
        hands = ["--num-cpus", "0"]
    if cuda:
        hands += ["--num-gpus", str(wanted.gpus if computes else 0)]
    ports = {
        "--node-manager-port": NODE,
        "--object-manager-port": OBJECTS,
        "--runtime-env-agent-port": ENVIRONMENTS,
        "--dashboard-agent-grpc-port": AGENT_GRPC,
        "--dashboard-agent-listen-port": rayapp.AGENT,
        "--metrics-export-port": METRICS,
        "--min-worker-port": WORKERS[0],
        "--max-worker-port": WORKERS[1],
    }
    fixed = [word for name, number in ports.items() for word in (name, str(number))]
    store = ["--object-store-memory", str(rayapp.OBJECT_STORE)]
    raised = ["sh", "-c", _START, "imgbuild"]
    command = [*raised, "ray", "start", "--block", *start, *hands, *store, *fixed]
    gpus = cuda and computes
    if wanted.engine is Engine.APPTAINER:
        return [*_apptainer(wanted, "run", gpus=gpus), *command]
    return [*_container(served, wanted, role, gpus=gpus), *command]


def _env(wanted: Hosts) -> list[tuple[str, str]]:
    return [
        ("RAY_AUTH_MODE", "token"),
        ("RAY_AUTH_TOKEN_PATH", TOKEN),
        ("PYTHONPATH", rayapp.PYTHONPATH),
        *wanted.env,
    ]


def _container(served: Served, wanted: Hosts, role: str, *, gpus: bool) -> list[str]:
    """As Docker and Podman start one; both end its name with the role."""
    made = [wanted.engine, "run", "--detach", "--name", f"{wanted.name}-{role}"]
    # A node that comes back joins again; a head has forgotten its application (docs/ray.md).
    made += ["--restart", "unless-stopped"]
    made += ["--network", wanted.network or "host"]
    if wanted.network:
        made += ["--hostname", f"{wanted.name}-{role}"]
    made += _gpus(wanted, role) if gpus else []
    size = quantity.in_bytes(wanted.shm)
    made += ["--shm-size", f"{size >> 20}m" if size % (1 << 20) == 0 else f"{size}b"]
    if gpus and wanted.spread:
        made += ["--ulimit", "memlock=-1:-1"]  # NCCL pins what network cards read
    made += ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    # Of the node, by Ray's own agent: the image's check asks the server, which is not on each node.
    made += ["--health-cmd", _HEALTH]
    # Fresh volumes take over the owners of what they cover: /tmp is anybody's, the home the user's.
    made += ["--volume", "/tmp", "--volume", served.home]  # noqa: S108
    for source, target in ((wanted.model, MODEL), (wanted.token, TOKEN)):
        made += ["--mount", f"type=bind,{_source(source)},target={target},readonly"]
    for key, value in _env(wanted):
        made += ["--env", f"{key}={value}"]
    return [*made, wanted.image]


def _gpus(wanted: Hosts, role: str) -> list[str]:
    """All that a host has, or for one of several nodes on a host those that no other has."""
    podman = wanted.engine is Engine.PODMAN
    if not wanted.network:
        every = ["--device", "nvidia.com/gpu=all"]
        return every if podman else ["--gpus", str(wanted.gpus)]
    before = int(role.rpartition("-")[2]) - wanted.head_only if role != "head" else 0
    mine = [str(number + before * wanted.gpus) for number in range(wanted.gpus)]
    if podman:
        return [word for number in mine for word in ("--device", f"nvidia.com/gpu={number}")]
    named = f"device={','.join(mine)}"
    return ["--gpus", f'"{named}"' if len(mine) > 1 else named]  # CSV, as --mount


def _source(path: str) -> str:
    """Quoted as CSV where a comma would begin another field."""
    return f'"source={path}"' if "," in path else f"source={path}"


def _apptainer(wanted: Hosts, action: str, *, gpus: bool) -> list[str]:
    """As Apptainer starts one: in the foreground, with the host's network, /tmp and /dev/shm."""
    # --env would take a comma for the next variable; without --no-eval a shell reads `$`.
    made = ["env", *(f"APPTAINERENV_{key}={value}" for key, value in _env(wanted))]
    made += ["apptainer", action, "--cleanenv", "--no-eval", "--no-home"]
    made += ["--nv"] if gpus else []
    for source, target in ((wanted.model, MODEL), (wanted.token, TOKEN)):
        made += ["--mount", f"type=bind,{_source(source)},destination={target},ro"]
    return [*made, wanted.image]


def server(served: Served, wanted: Hosts) -> list[str]:
    """The command that serves the model, on the head once all nodes are there."""
    inside = _inside(served, wanted)
    if not wanted.spread:
        told = rayapp.arguments(
            served, MODEL, replicas=wanted.computing, gpus=wanted.gpus, own=wanted.arguments
        )
        inside += ["serve", "deploy", "--name", rayapp.APPLICATION, rayapp.IMPORT_PATH]
        return [*inside, f"arguments={shlex.join(told)}"]
    made = ["vllm", "serve", MODEL, "--host", "0.0.0.0", "--port", str(served.port)]  # noqa: S104
    made += ["--distributed-executor-backend", "ray"]
    # Tensor parallelism asks for NVLink, which is within a host; stages send little.
    made += ["--tensor-parallel-size", str(wanted.gpus)]
    made += ["--pipeline-parallel-size", str(wanted.count)]
    return [*inside, *made, *wanted.arguments]


def status(served: Served, wanted: Hosts) -> list[str]:
    """The command that says, on the head, whether all nodes are there."""
    return [*_inside(served, wanted), "ray", "status", "--address", "auto"]


def stop(wanted: Hosts, role: str) -> list[str]:
    """The command that ends a node, with its volumes; none where it is in the foreground."""
    if wanted.engine is Engine.APPTAINER:
        return []
    return [wanted.engine, "rm", "--force", "--volumes", f"{wanted.name}-{role}"]


def _inside(served: Served, wanted: Hosts) -> list[str]:
    """Within the head's container, where Ray finds its own node."""
    if wanted.engine is Engine.APPTAINER:
        # A second container of the same /tmp, by which processes of one node find one another.
        gpus = served.accelerator is Accelerator.CUDA and not wanted.head_only
        return _apptainer(wanted, "exec", gpus=gpus)
    return [wanted.engine, "exec", f"{wanted.name}-head"]


def ports(served: Served, wanted: Hosts) -> list[Port]:
    """What is open, for a firewall; a container's network of its own keeps all but the server's."""
    others, every = "all nodes", "every node"
    made = [
        Port(number=str(rayapp.GCS), what="GCS", on="head", asked_by=others),
        Port(number=str(rayapp.DASHBOARD), what="dashboard, jobs", on="head", asked_by="this host"),
        Port(number=str(rayapp.CLIENT), what="Ray Client", on="head", asked_by="nobody"),
        # Fixed by Ray (AUTOSCALER_METRIC_PORT, DASHBOARD_METRIC_PORT of its constants).
        Port(number="44217, 44227", what="metrics of the head", on="head", asked_by="Prometheus"),
        Port(number=str(NODE), what="node manager", on=every, asked_by=others),
        Port(number=str(OBJECTS), what="object manager", on=every, asked_by=others),
        Port(number=str(ENVIRONMENTS), what="runtime environments", on=every, asked_by=others),
        Port(number=str(AGENT_GRPC), what="dashboard agent, gRPC", on=every, asked_by=others),
        Port(number=str(rayapp.AGENT), what="dashboard agent, HTTP", on=every, asked_by=others),
        Port(number=str(METRICS), what="metrics", on=every, asked_by="Prometheus"),
        Port(number=f"{WORKERS[0]}-{WORKERS[1]}", what="processes", on=every, asked_by=others),
    ]
    if wanted.spread:
        made.append(
            Port(number="ephemeral", what="NCCL, torch.distributed", on=every, asked_by=others)
        )
        return [*made, Port(number=str(served.port), what="server", on="head", asked_by="clients")]
    # Serve has a proxy on the head, and on each node with a replica.
    return [*made, Port(number=str(served.port), what="server", on=every, asked_by="clients")]

"""A server on TPU VMs: what asks for them, starts the image on each, looks, and gives them back.

cloud.google.com/tpu/docs: queued-resources, managing-tpus-tpu-vm, run-in-container.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from builder.deploy import checked, quantity
from builder.deploy.checked import given
from builder.deploy.compose import MODEL, host_folder
from builder.deploy.served import START_PERIOD, Served
from builder.deploy.server import FETCHING, fetched, further
from builder.deploy.tpu import hosts, slices
from builder.deploy.tpu.slices import Slice
from builder.deploy.tpu.steps import Command, Kind, Step
from builder.deploy.workload import arguments_of
from builder.errors import UserError, quoted

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_REGISTRY = ".pkg.dev"  # Artifact Registry, which wants a login of the VM's account
# Where a TPU VM reads its slice's addresses, worker 0 first; as JAX does
# (jax/_src/clusters/cloud_tpu_cluster.py).
_ENDPOINTS = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"


@dataclass(frozen=True, kw_only=True)
class Vm:
    """What a user wants of TPU VMs, checked."""

    name: str
    project: str
    zone: str
    tpus: Slice
    runtime: str
    image: str
    model: str  # as the server is told
    folder: str | None  # of each host, that has it; None: it is fetched
    queued: bool
    spot: bool
    reserved: bool
    network: str | None
    subnetwork: str | None
    service_account: str | None
    shm: str
    listen: str
    arguments: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    token: str | None  # of the hub: a secret's name in Secret Manager
    ray_token: str | None  # of Ray, where there are several hosts; another


def vm(
    served: Served,
    *,
    accelerator: str,
    project: str,
    zone: str,
    image: str,
    model: str,
    name: str | None = None,
    runtime: str | None = None,
    queued: bool = True,
    spot: bool = False,
    reserved: bool = False,
    network: str | None = None,
    subnetwork: str | None = None,
    service_account: str | None = None,
    shm: str | None = None,
    listen: str = "127.0.0.1",
    arguments: Sequence[str] = (),
    env: Sequence[str] = (),
    hf_token: str | None = None,
    ray_token: str | None = None,
) -> Vm:
    """Check what a user gives; raises UserError at the first mistake."""
    wanted = slices.by_type(accelerator)
    hosts.check(served, wanted)
    if spot and reserved:
        raise UserError("--spot with --reserved", hint="capacity is one or the other")
    folder = host_folder(model) if model.startswith(("/", ".", "~")) else None
    instead = "--hf-token-secret names a secret of Secret Manager; {} is read nowhere else"
    variables = tuple(checked.variable(text, instead=instead) for text in env)
    taken = ["HF_TOKEN"] if hf_token is not None else []
    if ray_token is not None:
        taken.append("RAY_AUTH_MODE")
        if wanted.hosts == 1:
            raise UserError(f"--ray-token-secret: {accelerator} is one host, which needs no Ray")
    checked.unique([*(key for key, _ in variables), *taken], "--env")
    return Vm(
        name=checked.name(served.framework if name is None else name),
        project=checked.project(project),
        zone=checked.zone(zone),
        tpus=wanted,
        runtime=given(runtime, checked.resource, "--runtime-version") or wanted.generation.runtime,
        image=checked.image(image),
        model=MODEL if folder else fetched(served, checked.hub_model(model), "/models/mine"),
        folder=folder,
        queued=queued,
        spot=spot,
        reserved=reserved,
        network=given(network, checked.resource, "--network"),
        subnetwork=given(subnetwork, checked.resource, "--subnetwork"),
        service_account=given(service_account, checked.account, "--service-account"),
        shm=given(shm, quantity.memory, "--shm") or hosts.shm(served, wanted),
        listen=_listen(listen),
        arguments=further(served, arguments),
        env=variables,
        token=given(hf_token, _secret, "--hf-token-secret"),
        ray_token=given(ray_token, _secret, "--ray-token-secret"),
    )


def _listen(text: str) -> str:
    """An address of a VM's, which has no other than IPv4 ones unless its network is made so."""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        hint = "as 127.0.0.1 or 0.0.0.0"
        raise UserError(f"--listen: {quoted(text)} is no IPv4 address", hint=hint) from None


def _secret(text: str, option: str) -> str:
    """A secret's name (cloud.google.com/secret-manager/docs, 255 letters, digits, `-` and `_`)."""
    if re.match(r"^[A-Za-z0-9_-]{1,255}\Z", text):
        return text
    raise UserError(f"{option}: {quoted(text)} is no secret's name", hint="as hub-token")


def says(served: Served, wanted: Vm) -> list[str]:
    """What stands above the commands."""
    made = [
        f"{served.cell_id}: {served.title} {served.version} on {wanted.tpus}.",
        "Made by `imgbuild deploy tpu-vm`; docs/tpu.md says why. It asks for what costs money.",
        *hosts.notes(served, wanted.tpus),
    ]
    if wanted.tpus.hosts > 1:
        if wanted.ray_token is None:
            made.append(
                "Ray has no login here: who reaches its ports from the VMs' network runs code on "
                "them. --ray-token-secret gives it one."
            )
        made.append(
            "gcloud asks several hosts at once, and then wants its key in an agent: "
            "`ssh-add ~/.ssh/google_compute_engine` first."
        )
    if caution := wanted.tpus.generation.caution:
        made.append(f"Not verified: {caution}")
    return made


def steps(served: Served, wanted: Vm) -> tuple[Step, ...]:
    """All of it, in order."""
    made = [_create(wanted)]
    if wanted.queued:
        made.append(_wait(wanted))
    registry = wanted.image.partition("/")[0]
    if registry.endswith(_REGISTRY):
        words = ("sudo", "gcloud", "auth", "configure-docker", registry, "--quiet")
        made.append(
            Step(
                name="login",
                why="the image is in Artifact Registry: Docker asks with the VM's service account",
                commands=(_ssh(wanted, "all", shlex.join(words)),),
            )
        )
    pull = shlex.join(("sudo", "docker", "pull", wanted.image))
    made.append(
        Step(
            name="pull",
            why="the image, on each host, before any of them starts",
            commands=(_ssh(wanted, "all", pull),),
        )
    )
    made += _run(served, wanted)
    return (*made, *_look(served, wanted), *_undo(wanted))


def _where(wanted: Vm) -> Command:
    return (f"--project={wanted.project}", f"--zone={wanted.zone}")


def _create(wanted: Vm) -> Step:
    options = [*_where(wanted), f"--accelerator-type={wanted.tpus.accelerator}"]
    options += ["--spot"] if wanted.spot else []
    options += ["--reserved"] if wanted.reserved else []
    options += [f"--network={wanted.network}"] if wanted.network else []
    options += [f"--subnetwork={wanted.subnetwork}"] if wanted.subnetwork else []
    if wanted.service_account:
        options.append(f"--service-account={wanted.service_account}")
    if wanted.token or wanted.ray_token or wanted.service_account:
        options.append(f"--scopes={_SCOPE}")
    if wanted.queued:
        command = _tpus("queued-resources", "create", wanted.name, f"--node-id={wanted.name}")
        version = f"--runtime-version={wanted.runtime}"
        why = "a place in the queue for capacity; the VMs come when it is there"
    else:
        command = _tpus("tpu-vm", "create", wanted.name)
        version = f"--version={wanted.runtime}"
        why = "the VMs at once, or an error where there is no capacity"
    if wanted.spot:
        why += "; Spot: they may be taken back at any time, and do not come again by themselves"
    kind = "queued-resources" if wanted.queued else "tpu-vm"
    there = _tpus(kind, "describe", wanted.name, *_where(wanted))
    return Step(name="create", why=why, commands=((*command, *options, version),), unless=there)


def _tpus(*words: str) -> Command:
    return ("gcloud", "compute", "tpus", *words)


def _wait(wanted: Vm) -> Step:
    words = ("queued-resources", "describe", wanted.name, *_where(wanted))
    return Step(
        name="wait",
        why="until the queue has given them; this may take days",
        commands=(_tpus(*words, "--format=value(state.state)"),),
        until="ACTIVE",
    )


def _ssh(wanted: Vm, worker: str, command: str) -> Command:
    return _tpus(
        "tpu-vm",
        "ssh",
        wanted.name,
        *_where(wanted),
        f"--worker={worker}",
        f"--command={command}",
    )


def _run(served: Served, wanted: Vm) -> list[Step]:
    dtype = hosts.precision(served, wanted.arguments)
    own = (*dtype, *wanted.arguments)
    told = arguments_of(served, wanted.model, wanted.tpus.devices, own, host=wanted.listen)
    why = (
        "--privileged: the TPU's device files; memlock: VFIO locks memory, and the image's user is "
        "not root; --net=host: hosts of a slice find one another by the VMs' addresses; "
        f"{served.title} listens at {wanted.listen}:{served.port}"
    )
    if wanted.tpus.hosts == 1:
        command = _token(wanted, _docker(served, wanted, told))
        return [Step(name="run", why=why, commands=(_ssh(wanted, "0", command),))]
    starts = hosts.head(served, wanted.tpus, told, wanted.shm)
    command = _token(wanted, _docker(served, wanted, starts))
    find = f"curl -fsS -H 'Metadata-Flavor: Google' {_ENDPOINTS} | cut -d, -f1 | cut -d: -f3"
    # Its last word is the head's address, which the worker's shell has found.
    joins = _docker(served, wanted, hosts.join(wanted.shm), answers=False)
    joining = f'head=$({find}) && {_token(wanted, joins)} "$head"'
    others = f"1-{wanted.tpus.hosts - 1}" if wanted.tpus.hosts > 2 else "1"
    return [
        Step(
            name="run",
            why=f"{why}; on worker 0 Ray's head, which serves once all hosts have joined it",
            commands=(_ssh(wanted, "0", command),),
        ),
        Step(
            name="join",
            why="the other hosts; they ask until the head is there",
            commands=(_ssh(wanted, others, joining),),
        ),
    ]


def _docker(served: Served, wanted: Vm, words: Sequence[str], *, answers: bool = True) -> str:
    variables = hosts.environment(wanted.tpus)
    if wanted.folder:
        variables["HF_HUB_OFFLINE"] = "1"
    variables |= dict(wanted.env)
    start = START_PERIOD if wanted.folder else FETCHING
    options = [
        "--detach",
        f"--name={wanted.name}",
        "--privileged",
        "--net=host",
        # VFIO locks what the TPU reads, and the image's user is not root.
        "--ulimit=memlock=-1:-1",
        f"--shm-size={quantity.in_bytes(wanted.shm)}b",
        "--restart=unless-stopped",
        f"--health-start-period={start}s" if answers else "--no-healthcheck",
        # A fresh volume takes over the owner of what it covers.
        f"--volume={wanted.name}-home:{served.home}",
    ]
    options += [f"--volume={wanted.folder}:{MODEL}:ro"] if wanted.folder else []
    options += [f"--env={name}={value}" for name, value in variables.items()]
    options += ["--env=RAY_AUTH_MODE=token"] if wanted.ray_token else []
    passed = [name for name, _ in _tokens(wanted)]
    options += [f"--env={name}" for name in passed]
    keep = (f"--preserve-env={','.join(passed)}",) if passed else ()
    return shlex.join(("sudo", *keep, "docker", "run", *options, wanted.image, *words))


def _tokens(wanted: Vm) -> list[tuple[str, str]]:
    """Variable -> secret."""
    both = (("HF_TOKEN", wanted.token), ("RAY_AUTH_TOKEN", wanted.ray_token))
    return [(name, secret) for name, secret in both if secret is not None]


def _token(wanted: Vm, command: str) -> str:
    """The command with its tokens, which are in no script and in no list of processes."""
    words = ("gcloud", "secrets", "versions", "access", "latest")
    for name, secret in reversed(_tokens(wanted)):
        read = shlex.join((*words, f"--secret={secret}", f"--project={wanted.project}"))
        command = f"{name}=$({read}) && export {name} && {command}"
    return command


def _look(served: Served, wanted: Vm) -> list[Step]:
    kind = "queued-resources" if wanted.queued else "tpu-vm"
    here = "127.0.0.1" if wanted.listen in ("127.0.0.1", "0.0.0.0") else wanted.listen  # noqa: S104
    answer = shlex.join(("curl", "-fsS", f"http://{here}:{served.port}{served.health}"))
    shown = shlex.join(("sudo", "docker", "ps", "--all"))
    logs = shlex.join(("sudo", "docker", "logs", "--tail=100", wanted.name))
    tunnel = f"-L{served.port}:{here}:{served.port}"
    reach = _tpus("tpu-vm", "ssh", wanted.name, *_where(wanted), "--worker=0")
    return [
        Step(
            name="status",
            why="of the request, of each host's container, and of the server",
            commands=(
                _tpus(kind, "describe", wanted.name, *_where(wanted)),
                _ssh(wanted, "all", shown),
                _ssh(wanted, "0", answer),
            ),
            kind=Kind.LOOK,
        ),
        Step(
            name="logs",
            why="of all hosts",
            commands=(_ssh(wanted, "all", logs),),
            kind=Kind.LOOK,
        ),
        Step(
            name="reach",
            why=f"the server from here, at http://127.0.0.1:{served.port}; it has no login",
            commands=((*reach, "--", "-N", tunnel),),
            kind=Kind.LOOK,
        ),
    ]


def _undo(wanted: Vm) -> list[Step]:
    stop = shlex.join(("sudo", "docker", "rm", "--force", wanted.name))
    if wanted.queued:
        command = _tpus("queued-resources", "delete", wanted.name, *_where(wanted), "--force")
        why = "the request and its VMs, with what is on their disks; billing ends"
    else:
        command = _tpus("tpu-vm", "delete", wanted.name, *_where(wanted))
        why = "the VMs, with what is on their disks; billing ends"
    return [
        Step(
            name="stop",
            why="the server on each host; caches stay in its volume",
            commands=(_ssh(wanted, "all", stop),),
            kind=Kind.UNDO,
        ),
        Step(name="delete", why=why, commands=((*command, "--quiet"),), kind=Kind.UNDO),
    ]

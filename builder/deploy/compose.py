"""One server on one host, for `docker compose up`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any

from builder.deploy import checked, quantity, yamltext
from builder.deploy.checked import given
from builder.deploy.served import START_PERIOD, Served
from builder.deploy.server import FETCHING, fetched, further, gpus_of, shm_fits, shm_of
from builder.deploy.workload import arguments_of
from builder.errors import UserError, quoted

Object = dict[str, Any]

MODEL = "/model"  # where a folder of the host's is mounted
# What a bind mount can name without a second meaning: a colon ends it in the short form.
_FOLDER = re.compile(r"^(/[A-Za-z0-9_.@%+=,~ -]+)+/?\Z")
_MINE = "/models/mine"
_SHELLS = "--pass-env {} takes it from the shell or from .env"


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What a user wants of a server on one host, checked."""

    name: str
    image: str
    model: str  # as the server is told
    folder: str | None  # of the host, that has it; None: it is fetched
    gpus: int
    devices: tuple[str, ...]  # which of the host's; (): any
    shm: str
    cpus: int | None
    memory: str | None
    listen: str
    port: int
    arguments: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    passed: tuple[str, ...]  # variables whose values are not in the file


def stack(
    served: Served,
    *,
    image: str,
    model: str,
    name: str | None = None,
    gpus: int | None = None,
    devices: Sequence[str] = (),
    shm: str | None = None,
    cpus: str | None = None,
    memory: str | None = None,
    listen: str = "127.0.0.1",
    port: int | None = None,
    arguments: Sequence[str] = (),
    env: Sequence[str] = (),
    passed: Sequence[str] = (),
) -> Stack:
    """Check what a user gives; raises UserError at the first mistake."""
    if devices and gpus not in (None, len(devices)):
        raise UserError(f"--gpus {gpus} with {len(devices)} times --device", hint="one says both")
    number = gpus_of(served, len(devices) or gpus, None, devices)
    folder = host_folder(model) if model.startswith(("/", ".", "~")) else None
    address(listen)
    outside = served.port if port is None else port
    if not 0 < outside < 1 << 16:
        raise UserError(f"--port: {outside} is no port", hint="1 to 65535")
    variables = tuple(checked.variable(text, instead=_SHELLS) for text in env)
    names = tuple(checked.variable_name(text, "--pass-env") for text in passed)
    checked.unique([*(key for key, _ in variables), *names], "--env")
    checked.no_secrets(
        arguments,
        {f"${{{name}}}" for name in names},
        "--pass-env NAME takes it from the shell or from .env, and '${NAME}' stands for it here",
    )
    checked.unique(devices, "--device")
    if number > 1 and any(device.startswith("MIG-") for device in devices):
        raise UserError(
            f"--device: NCCL does not talk between {number} devices of which one is a MIG instance",
            hint="one instance a server, each with its own --name and --port",
        )
    made_shm = given(shm, quantity.memory, "--shm") or shm_of(served, number)
    made_memory = given(memory, quantity.memory, "--memory")
    shm_fits(made_shm, made_memory)
    return Stack(
        name=checked.name(served.framework if name is None else name),
        image=checked.image(image),
        model=MODEL if folder else fetched(served, _hub_model(model), _MINE),
        folder=folder,
        gpus=number,
        devices=tuple(checked.device(text) for text in devices),
        shm=made_shm,
        cpus=given(cpus, _cpus, "--cpus"),
        memory=made_memory,
        listen=listen,
        port=outside,
        arguments=further(served, arguments),
        env=variables,
        passed=names,
    )


def _cpus(text: str, option: str) -> int:
    return checked.cpus(text, option, pinned=False)


def _hub_model(text: str) -> str:
    return checked.hub_model(text, elsewhere=_MINE)


def host_folder(text: str, option: str = "--model") -> str:
    """A folder of a host that can be mounted; raises UserError."""
    if _FOLDER.match(text) and ".." not in text.split("/"):
        return text.rstrip("/")
    hint = "an absolute path, without a colon" if text.startswith("/") else "an absolute path"
    raise UserError(f"{option}: {quoted(text)} is no folder that can be mounted", hint=hint)


def address(text: str, option: str = "--listen") -> str:
    """An address to listen at; raises UserError."""
    with suppress(ValueError):
        if text.startswith("[") and text.endswith("]"):
            IPv6Address(text[1:-1])
        else:
            ip_address(text)
        return text
    raise UserError(f"{option}: {quoted(text)} is no address", hint="as 127.0.0.1 or 0.0.0.0")


def project(served: Served, wanted: Stack) -> Object:
    """The compose file as data; `$` is doubled, or Compose would put a variable there."""
    told = arguments_of(served, wanted.model, wanted.gpus, wanted.arguments)
    environment: dict[str, str | None] = {name: _literal(value) for name, value in wanted.env}
    environment |= dict.fromkeys(wanted.passed)
    mounts: list[Object] = [{"type": "volume", "source": "home", "target": served.home}]
    if wanted.folder:
        environment.setdefault("HF_HUB_OFFLINE", "1")
        mounts.append(
            {
                "type": "bind",
                "source": _literal(wanted.folder),
                "target": MODEL,
                "read_only": True,
                "bind": {"create_host_path": False},
            }
        )
    server: Object = {
        "image": wanted.image,
        "command": [_literal(argument, wanted.passed) for argument in told],
        "environment": environment,
        "ports": [
            {
                "host_ip": wanted.listen.strip("[]"),
                "published": str(wanted.port),
                "target": served.port,
            }
        ],
        # A fresh volume takes over the home's owner, which a folder elsewhere would not have.
        "volumes": mounts,
        # Docker mounts one `noexec` otherwise; what compiles in it may also load it from there, as
        # the images' checks let it.
        "tmpfs": ["/tmp:exec,mode=1777"],  # noqa: S108
        "shm_size": _size(wanted.shm),
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        # The image's own check; the first start also fetches the weights.
        "healthcheck": {"start_period": f"{START_PERIOD if wanted.folder else FETCHING}s"},
        "stop_grace_period": "1m",
        "restart": "unless-stopped",
    }
    if wanted.cpus:
        server["cpus"] = wanted.cpus
    if wanted.memory:
        server["mem_limit"] = _size(wanted.memory)
    if wanted.gpus:
        which = {"device_ids": list(wanted.devices)} if wanted.devices else {"count": wanted.gpus}
        device = {"driver": "nvidia", **which, "capabilities": ["gpu"]}
        server["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    if not environment:
        del server["environment"]
    return {"name": wanted.name, "services": {"server": server}, "volumes": {"home": {}}}


def text(served: Served, wanted: Stack) -> str:
    """The compose file."""
    says = [
        f"{served.cell_id}: {served.title} {served.version}.",
        "Made by `imgbuild deploy compose`; start it with `docker compose up --wait`.",
    ]
    return yamltext.text(project(served, wanted), says=says)


def _size(amount: str) -> str:
    """As Compose writes one, whose `m` is 2^20 bytes."""
    size = quantity.in_bytes(amount)
    return f"{size >> 20}m" if size % (1 << 20) == 0 else f"{size}b"


def _literal(value: str, passed: Sequence[str] = ()) -> str:
    """As Compose leaves it; what is passed it fills in, and ends where that is not set."""
    made = value.replace("$", "$$")
    for name in passed:
        made = made.replace(f"$${{{name}}}", f"${{{name}:?}}")
    return made

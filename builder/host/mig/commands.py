"""What makes a layout: nvidia-smi's commands, mig-parted's configuration, Kubernetes' names.

Nothing here runs anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from builder.errors import UserError, quoted
from builder.host.mig.layout import Layout

# What nvidia-smi takes as --id, and mig-parted as an index of `devices`.
_INDEXES = re.compile(r"\d{1,3}(,\d{1,3})*", re.ASCII)
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command, or several that belong together, and what is to be known of it."""

    name: str
    why: str
    commands: tuple[str, ...]


def devices_of(text: str) -> str:
    """Which GPUs are meant: "all", or indexes as "0,1"; raises UserError for anything else."""
    chosen = text.replace(" ", "").lower()
    if chosen == ALL:
        return ALL
    if not _INDEXES.fullmatch(chosen):
        raise UserError(f"devices {quoted(text)} are no indexes", hint="write 0,1 or all")
    indexes = [int(index) for index in chosen.split(",")]
    if twice := {index for index in indexes if indexes.count(index) > 1}:
        raise UserError(
            f"devices {quoted(text)}: {min(twice)} is there twice", hint="name each GPU once"
        )
    return ",".join(map(str, indexes))


# Source: NVIDIA's MIG user guide, "Enable MIG Mode", "GPU Reset on Hopper+ GPUs" and "GPU Reset on
# NVIDIA Ampere Architecture GPUs".
_IDLE = (
    "As root, with nothing on the GPU: first stop what holds it open, as dcgm, nvsm, a device"
    " plugin, or a server (`fuser -v /dev/nvidia*` names them)."
)
_MODE = {
    "ampere": (
        f"{_IDLE} The driver resets the GPU; where it says that the mode is pending, run"
        " `nvidia-smi --gpu-reset`, and in a VM to which the GPU is passed through, where a reset"
        " is not allowed, reboot. The mode then outlasts reboots; the instances do not."
    ),
    "hopper": (
        f"{_IDLE} It needs no reset of the GPU. Mode and instances last while the driver is"
        " loaded: after a reboot both are to be made again, by mig-parted's service or by these"
        " commands in one of your own."
    ),
}
_MODE["blackwell"] = _MODE["hopper"]


def nvidia_smi(layout: Layout, devices: str) -> tuple[Step, ...]:
    """Commands that make the layout, show it, and take it away again, in the order to run them."""
    # -i is left out for all GPUs: nvidia-smi then takes each that has MIG enabled.
    which = "" if devices == ALL else f" -i {devices}"
    profiles = layout.card.profiles
    placed = ",".join(f"{profiles[one.profile].id}:{one.start}" for one in layout.instances)
    names = ", ".join(f"{profiles[name].id} is {name}" for name, _ in layout.counts)
    return (
        Step(
            name="enable",
            why=_MODE[layout.card.generation],
            commands=(f"nvidia-smi{which} -mig 1",),
        ),
        Step(
            name="create",
            why=(
                f"Profile and first memory slice of each instance ({names}), the largest first;"
                " -C makes its compute instance, without which CUDA does not see it."
            ),
            commands=(f"nvidia-smi mig{which} -cgi {placed} -C",),
        ),
        Step(
            name="list",
            why="GPU instances with their placements, compute instances, and the UUIDs to use.",
            commands=(
                f"nvidia-smi mig{which} -lgi",
                f"nvidia-smi mig{which} -lci",
                "nvidia-smi -L",
            ),
        ),
        Step(
            name="destroy",
            why="Compute instances first, then GPU instances; the last gives the whole GPU back.",
            commands=(
                f"nvidia-smi mig{which} -dci",
                f"nvidia-smi mig{which} -dgi",
                f"nvidia-smi{which} -mig 0",
            ),
        ),
    )


def config_name(layout: Layout) -> str:
    """The layout as a configuration's name, which is a label's value in Kubernetes, too."""
    return str(layout).replace(",", "_").replace("+", ".")


def mig_parted(layout: Layout, devices: str) -> str:
    """mig-parted's configuration file (v1), with this layout and the way back."""
    chosen = ALL if devices == ALL else [int(index) for index in devices.split(",")]
    config = {
        "version": "v1",
        "mig-configs": {
            "all-disabled": [{"devices": ALL, "mig-enabled": False}],
            config_name(layout): [
                {"devices": chosen, "mig-enabled": True, "mig-devices": dict(layout.counts)}
            ],
        },
    }
    return yaml.safe_dump(config, sort_keys=False)


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """What pods ask for under one migStrategy of NVIDIA's device plugin."""

    name: str
    resources: tuple[tuple[str, int], ...]  # name -> how many one card gives; () where it cannot be
    note: str


def kubernetes(layout: Layout) -> tuple[Strategy, ...]:
    """The resources' names. Source: NVIDIA/k8s-device-plugin, internal/rm/rm.go (addMIGResources).

    A "+" is no sign of a resource's name: the plugin writes "." for it.
    """
    mixed = tuple((resource(name), count) for name, count in layout.counts)
    single = (("nvidia.com/gpu", layout.counts[0][1]),) if layout.alike else ()
    alike = "every GPU of the node must be divided alike, into instances of one profile"
    return (
        Strategy(
            name="mixed",
            resources=mixed,
            note="GPUs of the node may be divided differently, or not at all",
        ),
        Strategy(
            name="single",
            resources=single,
            note=alike if layout.alike else f"cannot be: {alike}",
        ),
    )


def resource(profile: str) -> str:
    """The resource by which a pod asks for an instance, under the strategy mixed."""
    return f"nvidia.com/mig-{profile.replace('+', '.')}"

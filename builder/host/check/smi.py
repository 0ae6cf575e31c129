"""What `nvidia-smi -q -x` says of the GPUs, live or as it was recorded."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from builder import proc
from builder.errors import BuildError
from builder.proc import Command

_SECONDS = 20.0  # eight GPUs without persistence mode take several to wake
_BYTES = 8 << 20
# What is read of each GPU, and what a recording of it keeps: no serial numbers, no processes.
_FIELDS = (
    "product_name",
    "product_architecture",
    "persistence_mode",
    "mig_mode/current_mig",
    "mig_mode/pending_mig",
    "ecc_mode/current_ecc",
    "ecc_mode/pending_ecc",
    "remapped_rows/remapped_row_pending",
    "remapped_rows/remapped_row_failure",
    "gpu_power_readings/current_power_limit",
    "gpu_power_readings/default_power_limit",
    "gpu_power_readings/min_power_limit",
    "gpu_power_readings/max_power_limit",
    # As drivers before R535 have it.
    "power_readings/power_limit",
    "power_readings/default_power_limit",
    "power_readings/min_power_limit",
    "power_readings/max_power_limit",
    "fabric/state",
    "fabric/status",
)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU; "" and None are what the driver does not tell."""

    index: int
    bus: str  # as /sys has it, "0000:1b:00.0"
    name: str
    architecture: str  # "Hopper"
    persistence: str
    mig: str
    mig_pending: str
    instances: int  # MIG devices
    ecc: str
    ecc_pending: str
    remap_pending: str
    remap_failure: str
    power: float | None  # watts, the limit that is in force
    power_default: float | None
    power_least: float | None
    power_most: float | None
    fabric: str
    fabric_status: str


@dataclass(frozen=True, kw_only=True)
class Smi:
    """The answer: the GPUs, or what went wrong."""

    driver: str = ""
    cuda: str = ""  # the newest CUDA that the driver knows
    gpus: tuple[Gpu, ...] = ()
    error: str = ""  # why there is no answer; "" also where nobody asked


def ask() -> str | None:
    """What it prints on this host, an error too; None where it is not there."""
    program = proc.find("nvidia-smi")
    if program is None:
        return None
    try:
        told = proc.capture(Command(args=(program, "-q", "-x"), timeout=_SECONDS), check=False)
    except BuildError as error:
        return str(error)
    return told.stdout if told.code == 0 else told.stdout + told.stderr


def parse(text: str | None) -> Smi:
    """The answer as facts; what is no answer becomes the error."""
    if text is None:
        return Smi()
    root = _root(text)
    gpus = root.findall("gpu") if root is not None else []
    if root is None or not gpus:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        first = next((line for line in lines if not line.startswith("<")), "it names no GPU")
        return Smi(error=first[:200])
    return Smi(
        driver=_told(root, "driver_version"),
        cuda=_told(root, "cuda_version"),
        gpus=tuple(_gpu(index, gpu) for index, gpu in enumerate(gpus)),
    )


def kept(text: str | None) -> str | None:
    """What a recording has of the answer."""
    root = _root(text or "")
    if root is None or not root.findall("gpu"):
        return text[:2000] if text is not None else None
    top = ET.Element("nvidia_smi_log")
    for name in ("driver_version", "cuda_version"):
        ET.SubElement(top, name).text = _told(root, name)
    for gpu in root.findall("gpu"):
        new = ET.SubElement(top, "gpu", {"id": gpu.get("id", "")})
        for field in _FIELDS:
            if gpu.find(field) is not None:
                _below(new, field).text = _told(gpu, field)
        for _ in gpu.findall("mig_devices/mig_device"):
            ET.SubElement(_below(new, "mig_devices"), "mig_device")
    ET.indent(top)
    return ET.tostring(top, encoding="unicode") + "\n"


def _below(element: ET.Element, path: str) -> ET.Element:
    for name in path.split("/"):
        found = element.find(name)
        element = ET.SubElement(element, name) if found is None else found
    return element


def _root(text: str) -> ET.Element | None:
    # nvidia-smi defines no entities; a made-up recording may, to fill the memory.
    if len(text) > _BYTES or "<!ENTITY" in text:
        return None
    try:
        return ET.fromstring(text)  # noqa: S314 - without entities it is as large as it is
    except (ET.ParseError, ValueError):
        return None


def _told(element: ET.Element, path: str) -> str:
    """A value, "" for one that the driver does not tell."""
    found = element.find(path)
    value = ((found.text or "") if found is not None else "").strip()
    return "" if value in ("N/A", "None") or value.startswith("[") else value


def _watts(gpu: ET.Element, new: str, old: str = "") -> float | None:
    for path in (f"gpu_power_readings/{new}", f"power_readings/{old or new}"):
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) W", _told(gpu, path))
        if match:
            return float(match[1])
    return None


def _address(told: str) -> str:
    """A PCI address with 4 digits of domain, or more where it has more: nvidia-smi writes 8."""
    match = re.fullmatch(r"([0-9a-f]{8})(:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", told.lower())
    return f"{int(match[1], 16):04x}{match[2]}" if match else ""


def _gpu(index: int, gpu: ET.Element) -> Gpu:
    return Gpu(
        index=index,
        bus=_address(gpu.get("id", "")),
        name=_told(gpu, "product_name"),
        architecture=_told(gpu, "product_architecture"),
        persistence=_told(gpu, "persistence_mode"),
        mig=_told(gpu, "mig_mode/current_mig"),
        mig_pending=_told(gpu, "mig_mode/pending_mig"),
        instances=len(gpu.findall("mig_devices/mig_device")),
        ecc=_told(gpu, "ecc_mode/current_ecc"),
        ecc_pending=_told(gpu, "ecc_mode/pending_ecc"),
        remap_pending=_told(gpu, "remapped_rows/remapped_row_pending"),
        remap_failure=_told(gpu, "remapped_rows/remapped_row_failure"),
        power=_watts(gpu, "current_power_limit", "power_limit"),
        power_default=_watts(gpu, "default_power_limit"),
        power_least=_watts(gpu, "min_power_limit"),
        power_most=_watts(gpu, "max_power_limit"),
        fabric=_told(gpu, "fabric/state"),
        fabric_status=_told(gpu, "fabric/status"),
    )

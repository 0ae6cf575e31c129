"""What nvidia-smi says of the GPUs, within two seconds, whatever it does.

Started before anything else is read, so that the 25 ms that it takes on an H100 pass meanwhile.
"""

from __future__ import annotations

import os
import select
import signal
import time

from .numbers import capability, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

    Facts = Dict[str, Any]

SECONDS = 2.0  # a driver without persistence mode needs one to wake; more is a GPU that hangs
_FIELDS = (
    ("index", "index"),
    ("uuid", "uuid"),
    ("name", "name"),
    ("bus", "pci.bus_id"),
    ("sm", "compute_cap"),
    ("memory_mib", "memory.total"),
    ("driver", "driver_version"),
    ("mig", "mig.mode.current"),
    ("persistence", "persistence_mode"),
)
_BYTES = 1 << 20
_LOST = ("[GPU is lost]", "[Unknown Error]", "[GPU requires reset]")  # in place of a value


class Query:
    """A running nvidia-smi: one that names the GPUs, unless it is given other arguments."""

    def __init__(self, *arguments: str) -> None:
        self._pid = 0
        self._error: str | None = None
        columns = ",".join(column for _, column in _FIELDS)
        asked = arguments or (f"--query-gpu={columns}", "--format=csv,noheader,nounits")
        command = ["nvidia-smi", *asked]
        self._started = time.monotonic()
        self._output, writing = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        try:
            actions = [
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, writing, 1),
                (os.POSIX_SPAWN_DUP2, writing, 2),
            ]
            self._pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
        except OSError as error:
            self._error = None if isinstance(error, FileNotFoundError) else str(error)
        finally:
            os.close(writing)
            os.close(null)

    def answer(self) -> Facts:
        """`{"driver", "devices", "error"}`; all None or empty where there is no nvidia-smi."""
        if not self._pid:
            os.close(self._output)
            return {"driver": None, "devices": [], "error": self._error}
        text, status, error = self._all()
        if status is None:
            return {"driver": None, "devices": [], "error": error}
        return parse(text, ok=status == 0)

    def text(self) -> str | None:
        """All that it prints; None where it fails, or is not there."""
        if not self._pid:
            os.close(self._output)
            return None
        text, status, _ = self._all()
        return text if status == 0 else None

    def _all(self) -> Tuple[str, int | None, str | None]:
        """What it prints, and its status, or what is wrong where it has none in time."""
        data, error = self._read()
        status = self._ended() if error is None else None
        if status is None:
            self._end()
            error = error or f"no end in {SECONDS:g} s"
        return data.decode("utf-8", "replace"), status, error

    def drop(self) -> None:
        """End one whose answer nobody wants."""
        os.close(self._output)
        if self._pid:
            self._end()

    def _left(self) -> float:
        return max(0.0, self._started + SECONDS - time.monotonic())

    def _read(self) -> Tuple[bytes, str | None]:
        """All that it writes, and what is wrong with that."""
        data = b""
        try:
            while len(data) < _BYTES:
                ready, _, _ = select.select([self._output], [], [], self._left())
                if not ready:
                    return data, f"no answer in {SECONDS:g} s"
                more = os.read(self._output, 65536)
                if not more:
                    return data, None
                data += more
            return data, f"more than {_BYTES >> 20} MiB of an answer"
        finally:
            os.close(self._output)

    def _ended(self) -> int | None:
        """Its status; None where it does not end, though it has closed its output."""
        while True:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:  # SIGCHLD is ignored: the kernel has reaped it
                return 0
            if pid:
                return status
            if not self._left():
                return None
            time.sleep(0.001)

    def _end(self) -> None:
        """Kill it. One that hangs in the driver does not die: it is left behind, not waited for."""
        try:
            os.kill(self._pid, signal.SIGKILL)
            for _ in range(20):
                if os.waitpid(self._pid, os.WNOHANG)[0]:
                    return
                time.sleep(0.005)
        except OSError:
            pass


def early() -> Query | None:
    """A query, where a container has GPUs and something asks for them."""
    asked = [os.environ.get(name) for name in ("IMGBUILD_TUNE", "IMGBUILD_PREFLIGHT")]
    here = os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg")
    try:
        return Query() if here and asked != ["off", "off"] else None
    except OSError:  # no descriptors, or no /dev/null: the server may not need them
        return None


def parse(text: str, *, ok: bool) -> Facts:
    """nvidia-smi's answer as facts; what is no row of it becomes the error."""
    devices: List[Facts] = []
    others = []
    for line in text.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == len(_FIELDS) and number(values[0]) is not None:
            # A healthy GPU may not tell one of the others, such as its persistence mode.
            if lost := next((v for v in values[1:5] if v in _LOST), None):
                others.append(f"GPU {values[0]}: {lost.strip('[]')}")
            else:
                devices.append(_device({name: value for (name, _), value in zip(_FIELDS, values)}))
        elif line.strip():
            others.append(line.strip())
    driver = next((device["driver"] for device in devices if device["driver"]), None)
    error = others[0][:200] if others else None if ok and devices else "it names no GPU"
    return {"driver": driver, "devices": devices, "error": error}


def _device(row: Dict[str, str]) -> Facts:
    def known(name: str) -> str | None:
        value = row[name]
        return value if value and not value.startswith("[") and value != "N/A" else None

    memory = known("memory_mib")
    return {
        "index": number(row["index"]),
        "uuid": known("uuid"),
        "name": known("name"),
        "bus": known("bus"),
        "sm": capability(known("sm")),
        "memory_mib": number(memory or ""),
        "driver": known("driver"),
        "mig": row["mig"] == "Enabled",
        "persistence": None if known("persistence") is None else row["persistence"] == "Enabled",
    }


def visible(answer: Facts, wanted: str | None) -> Facts:
    """The answer without the GPUs that CUDA_VISIBLE_DEVICES hides: nvidia-smi names them all.

    Indexes, or UUIDs or their beginnings, up to the first that is none. Of a MIG instance
    nvidia-smi tells the GPU only.
    """
    if wanted is None:
        return answer
    order = os.environ.get("CUDA_DEVICE_ORDER")
    if order != "PCI_BUS_ID" and len({device["name"] for device in answer["devices"]}) > 1:
        return answer  # CUDA counts the fastest first, nvidia-smi by the bus
    chosen: List[Facts] = []
    for token in wanted.replace(" ", "").split(","):
        found = [
            device
            for device in answer["devices"]
            if number(token) == device["index"]
            or (token.startswith("GPU-") and str(device["uuid"]).startswith(token))
            or (token.startswith("MIG-") and device["mig"])
        ]
        if not found:
            break
        chosen += [device for device in found if device not in chosen]
    return {**answer, "devices": chosen, "hidden": len(answer["devices"]) - len(chosen)}

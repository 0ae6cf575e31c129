"""Carry decisions out: environment, CPU mask, memory policy, the server's flags.

Each is tried before it is relied on: a mask or a policy that the kernel refuses is left as it was,
and said (`numactl --membind` ends a server where set_mempolicy is blocked: vLLM pull request
45438).
"""

from __future__ import annotations

import os
import sys

from .decide import SET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence

    Row = Dict[str, Any]

_MPOL_PREFERRED = 1
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}  # system call numbers


def environment(decisions: Sequence[Row]) -> Dict[str, str]:
    """Variables that are to be set."""
    return {d["name"]: d["value"] for d in decisions if d["kind"] == "env" and d["status"] == SET}


def flags(decisions: Sequence[Row]) -> List[str]:
    """Options that the server gets after the user's own."""
    wanted = [d for d in decisions if d["kind"] == "flag" and d["status"] == SET]
    return [part for d in wanted for part in (d["name"], d["value"])]


def place(decisions: Sequence[Row]) -> List[str]:
    """Bind this process, and so the server; returns what was refused, as sentences."""
    refused = []
    for decision in decisions:
        if decision["status"] != SET:
            continue
        if decision["kind"] == "affinity":
            try:
                os.sched_setaffinity(0, {int(cpu) for cpu in decision["value"].split(",")})
            except (OSError, ValueError) as error:
                refused.append(f"CPUs {decision['value']}: {error}")
        elif decision["kind"] == "memory" and (why := _prefer(int(decision["value"]))):
            refused.append(f"memory of node {decision['value']}: {why}")
    return refused


def _prefer(node: int) -> str | None:
    """Prefer a node's memory; returns why that is refused. Preferred, not bound: it may be full."""
    number = _SET_MEMPOLICY.get(os.uname().machine)
    if node >= 64 or number is None or not sys.platform.startswith("linux"):
        return "not known for this CPU"
    try:
        import ctypes  # noqa: PLC0415 - 5 ms that most starts do not need

        libc = ctypes.CDLL(None, use_errno=True)
    except (ImportError, OSError) as error:
        return str(error)
    mask = ctypes.c_ulong(1 << node)
    if libc.syscall(number, _MPOL_PREFERRED, ctypes.byref(mask), ctypes.sizeof(mask) * 8 + 1):
        return os.strerror(ctypes.get_errno())
    return None

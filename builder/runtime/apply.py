"""Carry decisions out: environment, CPU mask, memory policy, the server's flags.

Each is tried before it is relied on: a mask or a policy that the kernel refuses is left as it was,
and said (`numactl --membind` ends a server where set_mempolicy is blocked: vLLM pull request
45438). So is a memory policy that somebody has set: `numactl --membind image.sif` wants it kept.
"""

from __future__ import annotations

import errno
import os
import sys

from .decide import REFUSED, SET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence

    Row = Dict[str, Any]

_MPOL_DEFAULT, _MPOL_PREFERRED = 0, 1
# Numbers of the system calls get_mempolicy and set_mempolicy.
_MEMPOLICY = {"x86_64": (239, 238), "aarch64": (236, 237)}


def environment(decisions: Sequence[Row]) -> Dict[str, str]:
    """Variables that are to be set."""
    return {d["name"]: d["value"] for d in decisions if d["kind"] == "env" and d["status"] == SET}


def flags(decisions: Sequence[Row]) -> List[str]:
    """Options that the server gets after the user's own."""
    wanted = [d for d in decisions if d["kind"] == "flag" and d["status"] == SET]
    return [part for d in wanted for part in (d["name"], d["value"])]


def place(decisions: Sequence[Row]) -> List[Row]:
    """Bind this process, and so the server; returns the rows, those that failed as refused."""
    done = []
    for decision in decisions:
        why = None
        if decision["status"] == SET and decision["kind"] == "affinity":
            why = _bind(decision["value"])
        elif decision["status"] == SET and decision["kind"] == "memory":
            why = _prefer(int(decision["value"]))
        done.append({**decision, "status": REFUSED, "why": why} if why else decision)
    return done


def _bind(cpus: str) -> str | None:
    """Run on these CPUs alone; returns why that is refused."""
    try:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _prefer(node: int) -> str | None:
    """Prefer a node's memory; returns why that is refused. Preferred, not bound: it may be full."""
    numbers = _MEMPOLICY.get(os.uname().machine)
    if node >= 64 or numbers is None or not sys.platform.startswith("linux"):
        return "not known for this CPU"
    try:
        import ctypes  # noqa: PLC0415 - 5 ms that most starts do not need

        libc = ctypes.CDLL(None, use_errno=True)
    except (ImportError, OSError) as error:
        return str(error)
    get, put = numbers
    policy = ctypes.c_int()
    if libc.syscall(get, ctypes.byref(policy), None, 0, None, 0):
        return _refusal(ctypes.get_errno())
    if policy.value != _MPOL_DEFAULT:
        return "a memory policy is set already, as numactl does"
    mask = ctypes.c_ulong(1 << node)
    if libc.syscall(put, _MPOL_PREFERRED, ctypes.byref(mask), ctypes.sizeof(mask) * 8 + 1):
        return _refusal(ctypes.get_errno())
    return None


def _refusal(number: int) -> str:
    """Docker's seccomp profile refuses both calls, unless the container may set priorities."""
    mends = " (docker run --cap-add SYS_NICE allows it)" if number == errno.EPERM else ""
    return f"{os.strerror(number)}{mends}"

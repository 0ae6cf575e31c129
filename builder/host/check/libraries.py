"""NVIDIA's toolkit and libraries on the host; images bring their own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial

from builder.host.check.recorded import version
from builder.host.check.rows import Finding, better, not_here, ok
from builder.host.check.subject import Subject

_FOLDERS = ("/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/local/cuda*/lib64", "/usr/local/lib")


def cuda_toolkit(subject: Subject) -> Finding:
    """Toolkits below /usr/local, and whether the driver runs what they build."""
    found = []
    for folder in subject.host.names("/usr/local/cuda-[0-9]*"):
        told = folder.rpartition("-")[2]
        try:
            text = subject.host.text(f"{folder}/version.json")
            told = str(json.loads(text)["cuda"]["version"])[:20] if text else told
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        if version(told):
            found.append(told)
    # "cuda-13" beside "cuda-13.0" is a link to it.
    found = [one for one in found if not any(other.startswith(f"{one}.") for other in found)]
    if not found:
        return not_here("none on the host, and none is needed")
    now, knows = ", ".join(found), version(subject.smi.cuda)
    newer = [one for one in found if knows and (version(one) or ())[: len(knows)] > knows]
    if newer:
        reason = f"the driver knows CUDA up to {subject.smi.cuda}"
        return better(now, reason=reason, advised=f"a driver that knows CUDA {newer[-1]}")
    return ok(now)


def _library(name: str, subject: Subject) -> Finding:
    """The versions of a library that the loader may find."""
    found = set()
    for folder in _FOLDERS:
        for path in subject.host.names(f"{folder}/{name}.so.*"):
            match = re.search(r"\.so\.(\d{1,4}(?:\.\d{1,4}){1,3})$", path)
            if match:
                found.add(match[1])
    if not found:
        return not_here("none on the host, and none is needed")
    return ok(", ".join(sorted(found, key=lambda one: version(one) or ())))


ROWS: dict[str, Callable[[Subject], Finding]] = {
    "cuda-toolkit": cuda_toolkit,
    "cudnn": partial(_library, "libcudnn"),
    "nccl": partial(_library, "libnccl"),
    "tensorrt": partial(_library, "libnvinfer"),
}

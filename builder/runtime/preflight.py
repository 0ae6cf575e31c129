"""Whether this image can serve on this host: what is wrong, why, and what mends it.

The rules are the matrix's own, shipped as data: the driver's floor, the SMs of torch and of the
framework's kernels, and the words that say why and who says so. A misfit ends the start with exit
code 78 (EX_CONFIG of sysexits.h); IMGBUILD_PREFLIGHT=warn goes on, =off does not look.
"""

from __future__ import annotations

from .numbers import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Iterator, List, Mapping

    Facts = Dict[str, Any]
    Finding = Dict[str, Any]

MISFIT = 78  # EX_CONFIG
# NCCL's buffers between two ranks, and what torch's workers hand over (NCCL issue 342).
_SHM_PER_RANK = 256 << 20
_GEFORCE = ("NVIDIA GeForce", "GeForce", "NVIDIA TITAN", "TITAN")


def check(
    facts: Facts,
    manifest: Facts,
    ranks: int | None = None,
    model: Facts | None = None,
    environment: Mapping[str, str] | None = None,
) -> List[Finding]:
    """What is wrong, the worst first.

    `ranks` is the tensor-parallel size that will be used, `model` what `weights.read` found.
    Nothing is where `environment` chooses another device than the image's.

    A finding has `name`, `fatal`, `what`, `why`, `fix`, and `rule` where it is one of the matrix.
    """
    found: List[Finding] = []
    environment = environment or {}
    if elsewhere(manifest, environment):
        return found
    if manifest["accelerator"] == "cuda" and _hides_all(environment):
        found.append(_hidden("CUDA_VISIBLE_DEVICES names none"))
    elif manifest["accelerator"] == "cuda" and _misses_all(facts["gpus"]):
        found.append(_missed(facts["gpus"]["hidden"], environment))
    elif manifest["accelerator"] == "cuda":
        found += _cuda(facts, manifest, ranks)
        found += _weights(facts, (model or {}).get("bytes"))
    elif manifest["accelerator"] == "tpu" and not facts["tpus"]:
        found.append(
            _finding(
                "no-tpu",
                "there is no TPU: neither /dev/accel* nor /dev/vfio/*",
                "the container was started without the host's devices, or the host has none",
                "docker run --privileged --net=host on a TPU VM",
            )
        )
    return sorted(found, key=lambda finding: not finding["fatal"])


def elsewhere(manifest: Facts, environment: Mapping[str, str]) -> bool:
    """Whether the user has chosen another device than the image's, as JAX_PLATFORMS=cpu does."""
    for choice in manifest.get("device_choices", ()):
        words = [w for w in environment.get(choice["variable"], "").lower().split(",") if w]
        if words and not set(words) & set(choice["ours"]):
            return True
    return False


def _hides_all(environment: Mapping[str, str]) -> bool:
    """Whether CUDA_VISIBLE_DEVICES begins with no GPU, which hides all of them."""
    wanted = environment.get("CUDA_VISIBLE_DEVICES")
    first = (wanted or "").partition(",")[0].strip()
    return wanted is not None and number(first) is None and not first.startswith(("GPU-", "MIG-"))


def _misses_all(gpus: Facts) -> bool:
    """Whether it names GPUs, and none of those that nvidia-smi has named."""
    return bool(gpus["hidden"]) and not gpus["devices"]


def _hidden(
    how: str,
    why: str = "somebody wants the CPU, or Slurm has set it for a job that asked for no GPU",
    fix: str = "unset it, or ask for GPUs (sbatch --gpus=1)",
) -> Finding:
    """No misfit: some servers then take the CPU, as DeepSpeed does."""
    return _finding("gpus-hidden", f"all GPUs are hidden: {how}", why, fix, fatal=False)


def _missed(count: int, environment: Mapping[str, str]) -> Finding:
    wanted = environment.get("CUDA_VISIBLE_DEVICES", "")
    known = "there is 1" if count == 1 else f"there are {count}"
    return _hidden(
        f"CUDA_VISIBLE_DEVICES={wanted} names none of the GPUs here, of which {known}",
        "a container counts from 0 the GPUs that it was given, whatever their numbers on the host",
        "unset it; which GPUs there are says docker run --gpus or the scheduler",
    )


def _finding(name: str, what: str, why: str, fix: str, *, fatal: bool = True) -> Finding:
    return {"name": name, "fatal": fatal, "what": what, "why": why, "fix": fix}


def _of_rule(manifest: Facts, rule: str, what: str, fix: str) -> Finding:
    """A finding in the words of the matrix's own rule."""
    told = manifest["rules"].get(rule, {"why": "", "source": ""})
    return {
        **_finding(rule.replace("_", "-"), what, told["why"], fix),
        "rule": rule,
        "source": told["source"],
    }


def _cuda(facts: Facts, manifest: Facts, ranks: int | None) -> Iterator[Finding]:
    gpus = facts["gpus"]
    if not gpus["control"] and not gpus["nodes"] and not gpus["devices"]:
        yield _no_devices(facts)
        return
    if not gpus["libraries"]:
        yield _finding(
            "no-driver-library",
            "GPU devices are here, but the driver's libcuda.so.1 is not",
            "the container toolkit mounts it, for --gpus and not for --device, and only where"
            " NVIDIA_DRIVER_CAPABILITIES names compute",
            "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility, or apptainer run"
            " --nv",
            fatal=False,  # the loader has more ways than are looked at here
        )
    drivers = list(_drivers(facts, manifest))
    if gpus["error"] and (not gpus["devices"] or _is_lost(gpus["error"])):
        silent = _silent(gpus["error"])
        enough = bool(gpus["devices"]) and len(gpus["devices"]) >= (ranks or 1)
        if silent["fatal"] or not drivers:  # an old driver's nvidia-smi knows fewer fields
            yield {**silent, "fatal": silent["fatal"] and not enough}
    yield from drivers
    yield from _code(facts, manifest, ranks or 1)
    if ranks is not None and ranks > 1:
        yield from _parallel(facts, ranks)


def _no_devices(facts: Facts) -> Finding:
    container = facts["platform"]["container"]
    fixes = {
        "apptainer": "apptainer run --nv",
        "kubernetes": "resources: {limits: {nvidia.com/gpu: 1}}, with NVIDIA's device plugin",
        "podman": "podman run --device nvidia.com/gpu=all",
    }
    return _finding(
        "no-gpu",
        "there is no GPU: neither /dev/nvidiactl nor /dev/nvidia0",
        "the container was started without GPUs, the host lacks the NVIDIA Container Toolkit,"
        " or it has no NVIDIA driver",
        fixes.get(container or "", "docker run --gpus all, after `nvidia-smi` works on the host"),
    )


def _is_lost(error: str) -> bool:
    words = ("gpu is lost", "fallen off", "device handle", "unknown error", "requires reset")
    return "initialize nvml" not in error.lower() and any(w in error.lower() for w in words)


def _silent(error: str) -> Finding:
    if "version mismatch" in error.lower():
        return _finding(
            "driver-mismatch",
            f"the driver's library and its kernel module differ: {error}",
            "the host's driver was updated, and the old module is still loaded (CUDA error 803)",
            "reboot the host, or unload the nvidia modules and load them again",
        )
    if "initialize nvml: unknown error" in error.lower():
        return _finding(
            "devices-refused",
            f"the GPU devices cannot be opened: {error}",
            "this container's cgroup does not allow them: systemd has reloaded its units since the"
            " start, or no-cgroups is set in the NVIDIA Container Toolkit's config.toml",
            "start a new container; for good, use CDI (docker run --device nvidia.com/gpu=all)",
        )
    if _is_lost(error):
        return _finding(
            "gpu-lost",
            f"a GPU does not answer: {error}",
            "it has fallen off the bus (look for Xid 79 in the host's dmesg)",
            "drain the node, then reset the GPU or reboot the host",
        )
    slow = error.startswith(("no answer in", "no end in"))  # gpus.Query's own words
    return _finding(
        "nvidia-smi",
        f"nvidia-smi says nothing of the GPUs: {error}",
        "without it the GPUs cannot be judged; the server may still find them",
        "turn persistence mode on, on the host: nvidia-smi -pm 1, or run nvidia-persistenced;"
        " without it the driver wakes each GPU anew, and eight take longer than that"
        if slow
        else "run nvidia-smi in this container and on the host",
        fatal=False,
    )


def _drivers(facts: Facts, manifest: Facts) -> Iterator[Finding]:
    gpus = facts["gpus"]
    driver, floor = gpus["driver"], manifest["driver_floor"]
    geforce = [d["name"] for d in gpus["devices"] if is_geforce(d["name"])]
    old = bool(driver and floor and numbers(driver) < numbers(floor))
    if old and (geforce or not _carried_forward(gpus["libraries"], floor)):
        forward = (
            f"{geforce[0]} has no forward compatibility, so cuda-compat does not help"
            if geforce
            else "on a data-center GPU NVIDIA's cuda-compat may help, for the drivers in its table"
        )
        yield _of_rule(
            manifest,
            "driver",
            f"the driver is {driver}; this image's CUDA {manifest['cuda']} needs {floor} or newer",
            f"install driver {floor} or newer, or take an image for an older CUDA"
            f" (`imgbuild explain CELL` names them); {forward}",
        )
    for library in gpus["libraries"][:1]:
        if not library["compat"]:
            continue
        own = library["version"]
        if geforce:
            yield _finding(
                "forward-compatibility",
                f"the loader finds cuda-compat in {library['folder']}, and {geforce[0]} cannot"
                " use it (CUDA error 804)",
                "forward compatibility is for data-center GPUs",
                f"take {library['folder']} out of LD_LIBRARY_PATH and of /etc/ld.so.conf.d",
            )
        elif driver and own and numbers(own) < numbers(driver):
            yield _finding(
                "shadowed-driver",
                f"the loader finds cuda-compat {own} in {library['folder']} before the newer"
                f" driver {driver} (CUDA error 803)",
                "a library older than the kernel's module cannot talk to it",
                f"take {library['folder']} out of LD_LIBRARY_PATH and of /etc/ld.so.conf.d",
            )


def _carried_forward(libraries: List[Facts], floor: str) -> bool:
    """Whether the first library that the loader finds is new enough, as cuda-compat's is.

    Older container toolkits mount it over the driver's own, under that one's folder.
    """
    return any(numbers(library["version"] or "") >= numbers(floor) for library in libraries[:1])


def _code(facts: Facts, manifest: Facts, ranks: int) -> Iterator[Finding]:
    """Fatal where fewer GPUs than the server wants can run it: a display's card may be beside."""
    told = set()
    known = [device["sm"] for device in facts["gpus"]["devices"]]
    tables = [manifest[key] for key in ("sms", "kernel_sms") if manifest[key]]
    fit = [sm for sm in known if sm is None or all(runs_on(sms, sm) for sms in tables)]
    fatal = len(fit) < min(ranks, len(known))
    for device in facts["gpus"]["devices"]:
        sm, name = device["sm"], device["name"] or "the GPU"
        if sm is None or sm in told:
            continue
        for key, rule, whose in (
            ("sms", "gpu_code", "this image's PyTorch has"),
            ("kernel_sms", "kernel_code", f"{manifest['title']}'s own kernels have"),
        ):
            if manifest[key] and not runs_on(manifest[key], sm):
                told.add(sm)
                found = _of_rule(
                    manifest,
                    rule,
                    f"{name} is SM {sm}; {whose} machine code for {', '.join(manifest[key])}",
                    "take an image whose cell covers this GPU: `imgbuild matrix` lists them",
                )
                yield {**found, "fatal": fatal}
                break


def _weights(facts: Facts, size: int | None) -> Iterator[Finding]:
    """Not fatal: a server may quantize them while it loads, or leave a part to the host."""
    sizes = [device["memory_mib"] for device in facts["gpus"]["devices"]]
    if not size or not sizes or None in sizes or size <= sum(sizes) << 20:
        return
    yield _finding(
        "weights",
        f"the weights take {size >> 30} GiB, and the visible GPUs have {sum(sizes) >> 10} GiB",
        "they lie in the GPUs' memory, and the KV cache needs some beside them",
        "give it more GPUs, or a quantized model",
        fatal=False,
    )


def _parallel(facts: Facts, ranks: int) -> Iterator[Finding]:
    devices, shm = facts["gpus"]["devices"], facts["shm"]
    if devices and len([device for device in devices if not device["mig"]]) < min(
        ranks, len(devices)
    ):
        yield _finding(
            "mig",
            f"tensor parallelism over {ranks} MIG instances",
            "NCCL does not talk between MIG instances",
            "serve with a tensor-parallel size of 1, one server an instance",
        )
    elif devices and ranks > len(devices):
        yield _finding(
            "too-few-gpus",
            f"tensor parallelism over {ranks} GPUs, and {len(devices)} are visible",
            "each rank has a GPU of its own",
            f"serve with a tensor-parallel size of {len(devices)}, or give it more GPUs",
        )
    needed = ranks * _SHM_PER_RANK
    fixes = {
        "apptainer": f"on the host: mount -o remount,size={needed >> 20}m /dev/shm",
        "kubernetes": "an emptyDir with medium: Memory, mounted at /dev/shm",
        "podman": f"podman run --shm-size={needed >> 20}m or --ipc=host",
    }
    container = facts["platform"]["container"]
    if shm is not None and shm < needed:
        mib = shm >> 20
        yield _finding(
            "shm",
            f"/dev/shm has {mib} MiB for {ranks} ranks",
            "NCCL and torch exchange data there; a full one ends in SIGBUS",
            fixes.get(container or "", f"docker run --shm-size={needed >> 20}m or --ipc=host"),
            fatal=False,  # over NVLink, or with NCCL_SHM_DISABLE, it may do
        )


def is_geforce(name: str | None) -> bool:
    """Whether NVIDIA's forward compatibility leaves the GPU out."""
    return bool(name) and str(name).startswith(_GEFORCE)


def numbers(version: str) -> tuple[int, ...]:
    """ "580.65.06" -> (580, 65, 6): versions compare by their numbers."""
    return tuple(n for n in map(number, version.split(".")) if n is not None)


def runs_on(sms: Iterable[str], sm: str) -> bool:
    """Whether machine code for any of `sms` runs on `sm`: same major, minor not above its own.

    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility
    """
    major, minor = numbers(sm)
    return any(m == major and n <= minor for m, n in map(numbers, sms))


def told(finding: Finding) -> str:
    """One finding as a line for people."""
    source = f" [{finding['source']}]" if finding.get("source") else ""
    return f"{finding['what']}. Because {finding['why']}{source}. To mend it: {finding['fix']}"

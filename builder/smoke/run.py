"""Smoke an image: as its own user, with the tiny model, until its server has stopped again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from builder import proc
from builder.engines import host
from builder.engines.base import Container, Engine
from builder.errors import BuildError
from builder.facts import Accelerator
from builder.model import Cell
from builder.proc import Command
from builder.smoke.report import Check, OnCheck, Probe, Skip, SmokeReport, Status, checked, told
from builder.smoke.subject import LOG_TAIL, RUNTIME, Subject, golden, last_words

STOP_SECONDS = 30.0

# Before 2.11 torch answers nothing where no GPU is; what it was compiled for it knows all the same.
_ARCH_LIST = (
    "import torch; print(*(torch.cuda.get_arch_list() or torch._C._cuda_getArchFlags().split()))"
)

_SLIM = ("python3", "-ES", "/opt/imgbuild/runtime", "slim", "/opt/venv")


def smoke(
    cell: Cell,
    engine: Engine,
    image: str,
    on_check: OnCheck,
    *,
    static: bool = False,
    timeout: float = 600.0,
) -> SmokeReport:
    """Run all checks, also after one fails; `static` leaves out those that start a server.

    `timeout` is how many seconds the server may take to become healthy.
    """
    subject = Subject(cell=cell, engine=engine, image=image, static=static, timeout=timeout)
    probes: list[tuple[str, Callable[[Subject], str]]] = [
        ("user", user),
        ("import", imports),
        ("help", shows_help),
        ("nvidia-smi", nvidia_smi),
    ]
    if cell.stack.accelerator is Accelerator.CUDA and not cell.build.wrap:
        probes.insert(2, ("gpu-code", gpu_code))
    if cell.slim_sm:
        probes.insert(3, ("left-out", left_out))
    checks = []
    for name, probe in probes:
        on_check(name)
        checks.append(checked(name, partial(probe, subject)))
    if not static:
        checks += serve(subject, on_check)
    return SmokeReport(cell_id=cell.id, image=image, engine=engine.name, checks=tuple(checks))


def user(subject: Subject) -> str:
    """Not root."""
    uid = subject.calls("id", "-u").strip()
    if subject.is_sif:
        return f"uid {uid}, the caller's: Apptainer has no user of its own"
    if uid == "0":
        raise BuildError("the image runs as root")
    return f"uid {uid}"


def imports(subject: Subject) -> str:
    """The framework can be imported, and is the release that the cell has."""
    if not subject.module:
        raise Skip("it is upstream's image, whose modules are its own affair")
    return subject.version(subject.calls)


def gpu_code(subject: Subject) -> str:
    """PyTorch holds code for the GPUs that the rules count on, a thinned one for its own."""
    if subject.cell.slim_sm:
        return _thinned(subject, subject.cell.slim_sm)
    shown = subject.calls("python3", "-c", _ARCH_LIST)
    found = {arch for arch in shown.split() if arch.startswith("sm_")}
    claimed = {f"sm_{sm.replace('.', '')}" for sm in subject.cell.build.sms}
    if found != claimed:
        have, want = ", ".join(sorted(found)), ", ".join(sorted(claimed))
        raise BuildError(f"torch has {have}; matrix.yaml claims {want}")
    return ", ".join(sorted(found))


def _thinned(subject: Subject, sm: str) -> str:
    """There is code for the GPU, and nothing more that it would leave out.

    PyTorch itself goes on to name what it was compiled for.
    """
    shown = subject.calls(*_SLIM, "--sm", sm, "--uncovered", "empty", "--dry-run", "--json")
    try:
        total = json.loads(shown)["total"]
        kept: dict[str, int] = total["kept"]
        changes: int = total["changed"]
        dropped: dict[str, int] = total["dropped"]
    except (ValueError, LookupError, TypeError):
        raise BuildError(
            "the slimmer prints something else", tail=shown.splitlines()[-3:]
        ) from None
    own = f"sm_{sm.replace('.', '')}"
    size = sum(count for name, count in kept.items() if name.startswith(own) and "cubin" in name)
    if changes:
        raise BuildError(f"{changes} files hold what SM {sm} never loads")
    if dropped:
        raise BuildError(f"there are files that rules leave out: {', '.join(dropped)}")
    if not size:
        raise BuildError(f"there is no machine code for SM {sm}")
    return f"{size / 1e6:.0f} MB of machine code for SM {sm}, nothing for other GPUs alone"


def left_out(subject: Subject) -> str:
    """What rules have left out is not missed: each says what has to import without it."""
    shown = subject.calls(*_SLIM, "--sm", subject.cell.slim_sm or "", "--check")
    return shown.strip().rpartition(": ")[2]


def shows_help(subject: Subject) -> str:
    """The server tells its options."""
    text = subject.calls(*subject.recipe.help, **subject.recipe.help_env)
    if "usage" not in text.lower():
        raise BuildError("the help shows no usage", tail=text.splitlines()[-LOG_TAIL:])
    return f"{len(text.splitlines())} lines of the server's own --help"


def nvidia_smi(subject: Subject) -> str:
    """It sees the host's GPUs."""
    if not host.has_gpu():
        raise Skip("no GPU")
    if not subject.gpus:
        raise Skip(f"{subject.cell.id} is not for GPUs")
    query = ("--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    return subject.calls("nvidia-smi", *query).strip()


def serve(subject: Subject, on_check: OnCheck) -> Iterator[Check]:
    """Start, wait for health, compare the answers, stop; each a check of its own."""
    if subject.cannot_serve:
        detail = f"{subject.cannot_serve}; --static leaves this check out"
        yield Check(name="serve", status=Status.FAILED, detail=detail, seconds=0.0)
        return
    on_check("start")
    try:
        container = subject.start()
    except BuildError as error:
        yield Check(name="start", status=Status.FAILED, detail=told(error), seconds=0.0)
        return
    probes: tuple[tuple[str, Probe], ...] = (
        ("health", lambda: subject.healthy(container)),
        ("tokens", lambda: _compare(container)),
        ("stop", lambda: _stop(container)),
    )
    try:
        for name, probe in probes:
            on_check(name)
            check = checked(name, probe)
            yield check
            if check.status is Status.FAILED:
                return
    finally:
        container.remove()


def _compare(container: Container) -> str:
    client = (sys.executable, "-I", "-B", str(RUNTIME / "client.py"))
    result = proc.capture(
        Command(
            args=(*client, "--url", container.url, "--golden", str(golden())),
            timeout=600,
        ),
        check=False,
    )
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    wrong = [
        f"{a['prompt']!r} gives {a['got']!r}, wanted {a['wanted']!r}"
        for a in answers
        if not a["same"]
    ]
    if result.code or wrong or not answers:
        tail = [*wrong, *result.stderr.splitlines(), *last_words(container)]
        raise BuildError("the answers are not the golden ones", tail=tail)
    tokens = sum(len(a["wanted"]) for a in answers)  # a byte-level tokenizer: one a character
    lines = [f"{tokens} tokens of {len(answers)} answers are the computed ones"]
    lines += [f"{a['prompt']!r} -> {a['got']!r}" for a in answers]
    return "\n".join(lines)


def _stop(container: Container) -> str:
    start = time.monotonic()
    code = container.stop(STOP_SECONDS)
    if code:
        raise BuildError(f"exit code {code} after SIGTERM", tail=last_words(container))
    return f"SIGTERM: exit code 0 after {time.monotonic() - start:.1f} s"

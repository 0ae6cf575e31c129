"""Smoke an image: as its own user, with the tiny model, until its server has stopped again."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from builder import proc
from builder.engines import host
from builder.engines.base import Container, Engine, Run, UnsupportedError
from builder.errors import BuildError
from builder.facts import Accelerator, SmokeRun
from builder.model import Cell
from builder.proc import Command
from builder.project import PACKAGE
from builder.smoke.report import Check, SmokeReport, Status

RUNTIME = PACKAGE / "runtime"
MODEL_PATH = "/model"
STOP_SECONDS = 30.0
LOG_TAIL = 15  # lines of the server's log that a failure shows
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# Before 2.11 torch answers nothing where no GPU is; what it was compiled for it knows all the same.
_ARCH_LIST = (
    "import torch; print(*(torch.cuda.get_arch_list() or torch._C._cuda_getArchFlags().split()))"
)

# A check returns what it saw; it fails by raising BuildError.
Probe = Callable[[], str]
OnCheck = Callable[[str], None]


class Skip(Exception):  # noqa: N818 - not an error
    """A check that cannot run here, with the reason."""


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
    subject = Subject(cell, engine, image)
    probes: list[tuple[str, Probe]] = [
        ("user", subject.user),
        ("import", subject.imports),
        ("help", subject.help),
        ("nvidia-smi", subject.nvidia_smi),
    ]
    if cell.stack.accelerator is Accelerator.CUDA and not cell.build.wrap:
        probes.insert(2, ("gpu-code", subject.gpu_code))
    checks = []
    for name, probe in probes:
        on_check(name)
        checks.append(checked(name, probe))
    if not static:
        checks += subject.serve(on_check, timeout)
    return SmokeReport(cell_id=cell.id, image=image, engine=engine.name, checks=tuple(checks))


def checked(name: str, probe: Probe) -> Check:
    """Try one thing, and time it."""
    start = time.monotonic()
    try:
        status, detail = Status.PASSED, probe()
    except (Skip, UnsupportedError) as reason:
        status, detail = Status.SKIPPED, str(reason)
    except BuildError as error:
        status, detail = Status.FAILED, _said(error)
    seconds = round(time.monotonic() - start, 2)
    return Check(name=name, status=status, detail=detail, seconds=seconds)


def _said(error: BuildError) -> str:
    return "\n".join([str(error), *error.tail])


class Subject:
    """The image under test, and one probe a method."""

    def __init__(self, cell: Cell, engine: Engine, image: str) -> None:
        self._cell = cell
        self._engine = engine
        self._image = image
        self._recipe = cell.framework.smoke[cell.stack.accelerator]
        self._for_gpus = cell.stack.accelerator is Accelerator.CUDA
        self._missing = missing_device(cell.stack.accelerator)
        self._gpu = self._for_gpus and not self._missing

    @property
    def cannot_serve(self) -> str:
        """Why its server cannot run on this host; "" where it can."""
        if self._missing and self._recipe.cpu_env is None:
            return f"needs {self._missing}, and there is none"
        return ""

    def user(self) -> str:
        uid = self._call("id", "-u").strip()
        if self._engine.name == "apptainer":
            return f"uid {uid}, the caller's: Apptainer has no user of its own"
        if uid == "0":
            raise BuildError("the image runs as root")
        return f"uid {uid}"

    def imports(self) -> str:
        module = self._recipe.module
        if module is None:
            raise Skip("it is upstream's image, whose modules are its own affair")
        version = self._call("python3", "-c", f"import {module}; print({module}.__version__)")
        found = version.strip().splitlines()[-1]
        if not found.startswith(self._cell.release.version):
            raise BuildError(f"{module} is {found}, not {self._cell.release.version}")
        return f"{module} {found}"

    def gpu_code(self) -> str:
        shown = self._call("python3", "-c", _ARCH_LIST)
        found = {arch for arch in shown.split() if arch.startswith("sm_")}
        claimed = {f"sm_{sm.replace('.', '')}" for sm in self._cell.build.sms}
        if found != claimed:
            have, want = ", ".join(sorted(found)), ", ".join(sorted(claimed))
            raise BuildError(f"torch has {have}; matrix.yaml claims {want}")
        return ", ".join(sorted(found))

    def help(self) -> str:
        text = self._call(*self._recipe.help, env=self._recipe.help_env)
        if "usage" not in text.lower():
            raise BuildError("the help shows no usage", tail=text.splitlines()[-LOG_TAIL:])
        return f"{len(text.splitlines())} lines of the server's own --help"

    def nvidia_smi(self) -> str:
        if not host.has_gpu():
            raise Skip("no GPU")
        if not self._for_gpus:
            raise Skip(f"{self._cell.id} is not for GPUs")
        query = ("--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
        return self._call("nvidia-smi", *query).strip()

    def serve(self, on_check: OnCheck, timeout: float) -> Iterator[Check]:
        """Start, wait for health, compare the answers, stop; each a check of its own."""
        if self.cannot_serve:
            detail = f"{self.cannot_serve}; --static leaves this check out"
            yield Check(name="serve", status=Status.FAILED, detail=detail, seconds=0.0)
            return
        on_check("start")
        try:
            container = self.start()
        except BuildError as error:
            yield Check(name="start", status=Status.FAILED, detail=_said(error), seconds=0.0)
            return
        try:
            for name, probe in (
                ("health", lambda: self.healthy(container, timeout)),
                ("tokens", lambda: _compare(container)),
                ("stop", lambda: _stop(container)),
            ):
                on_check(name)
                check = checked(name, probe)
                yield check
                if check.status is Status.FAILED:
                    return
        finally:
            container.remove()

    def start(self) -> Container:
        """The server, with the tiny model."""
        return self._engine.start(
            Run(
                image=self._image,
                args=(
                    *self._cell.framework.server.flags.arguments(MODEL_PATH, "{host}", "{port}"),
                    *self._recipe.args,
                ),
                port=self._cell.framework.server.port,
                env={**self._recipe.env, **self._cpu_env()},
                mounts={tiny_model(): MODEL_PATH},
                shm_mb=self._recipe.shm_mb,
                gpus=self._gpu,
            )
        )

    def _cpu_env(self) -> dict[str, str]:
        return without_device(self._recipe, self._missing)

    def healthy(self, container: Container, timeout: float) -> str:
        """Wait until it is, and no longer than `timeout` seconds."""
        start = time.monotonic()
        url = container.url + self._cell.framework.server.health
        while (waited := time.monotonic() - start) < timeout:
            try:
                with _OPENER.open(url, timeout=5):
                    where = f", on the CPU: {self._missing} is not here" if self._missing else ""
                    return f"200 after {waited:.1f} s{where}"
            except (OSError, ValueError, http.client.HTTPException):
                pass
            if (code := container.exit_code()) is not None:
                raise BuildError(
                    f"the server ended with exit code {code}", tail=last_words(container)
                )
            time.sleep(0.5)
        raise BuildError(f"not healthy after {timeout:g} s", tail=last_words(container))

    def _call(self, *args: str, env: dict[str, str] | None = None) -> str:
        result = self._engine.call(
            self._image, args, {**self._cpu_env(), **(env or {})}, gpus=self._gpu
        )
        if result.code:
            tail = (result.stderr or result.stdout).splitlines()[-LOG_TAIL:]
            raise BuildError(f"`{' '.join(args)}` exits {result.code}", tail=tail)
        return result.stdout


def without_device(recipe: SmokeRun, missing: str | None) -> dict[str, str]:
    """What makes a server use the CPU, and its image start, where its own device is missing."""
    return {"IMGBUILD_PREFLIGHT": "warn", **(recipe.cpu_env or {})} if missing else {}


def missing_device(accelerator: Accelerator) -> str | None:
    """What a server of that kind computes on and this host has not."""
    if accelerator is Accelerator.CUDA and not host.has_gpu():
        return "an NVIDIA GPU"
    if accelerator is Accelerator.TPU and not host.has_tpu():
        return "a TPU"
    return None


def _compare(container: Container) -> str:
    golden = _tiny_folder() / "golden.json"
    client = (sys.executable, "-I", "-B", str(RUNTIME / "client.py"))
    result = proc.capture(
        Command(args=(*client, "--url", container.url, "--golden", str(golden)), timeout=600),
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


def last_words(container: Container) -> list[str]:
    """The end of its log."""
    return container.log().splitlines()[-LOG_TAIL:]


def _tiny_folder() -> Path:
    return host.cache_dir() / "tiny-llama"


def tiny_model() -> Path:
    """The tiny model's folder, written by its own script where it is not there yet."""
    folder = _tiny_folder()
    folder.mkdir(parents=True, exist_ok=True)
    script = (sys.executable, "-I", "-B", str(RUNTIME / "tinymodel.py"))
    golden = proc.capture(Command(args=(*script, str(folder / "model"), "--json"), timeout=300))
    aside = folder / f"golden.json.{os.getpid()}"
    aside.write_text(golden.stdout, encoding="utf-8")
    aside.replace(folder / "golden.json")
    return folder / "model"

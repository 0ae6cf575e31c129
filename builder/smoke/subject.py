"""The image under test, and how it is run on this host."""

from __future__ import annotations

import http.client
import re
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from builder import proc
from builder.engines import host
from builder.engines.base import Config, Container, Engine, Run
from builder.errors import BuildError, brief
from builder.facts import Accelerator, SmokeRun
from builder.model import Cell
from builder.proc import Command, Result
from builder.project import PACKAGE

RUNTIME = PACKAGE / "runtime"
MODEL_PATH = "/model"
LOG_TAIL = 15  # lines of the server's log that a failure shows
_VERSION = re.compile(r"(?<![\w.])\d+(?:\.\d+)*(?:[\w.+-]*\w)?")
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An image, the cell that it is of, and the engine that has it."""

    cell: Cell
    engine: Engine
    image: str
    static: bool = False  # do not start its server
    timeout: float = 600.0  # seconds until its server must be healthy

    @property
    def is_sif(self) -> bool:
        """Whether Apptainer runs it: as the caller, on a read-only root."""
        return self.engine.name == "apptainer"

    @property
    def python(self) -> str:
        """The image's own."""
        wrap = self.cell.build.wrap
        return wrap.python if wrap else "python3"

    @property
    def recipe(self) -> SmokeRun:
        """What matrix.yaml says of serving the tiny model."""
        return self.cell.framework.smoke[self.cell.stack.accelerator]

    @property
    def module(self) -> str:
        """What the framework is imported as; "" where that is upstream's affair."""
        return self.recipe.module or ""

    @cached_property
    def config(self) -> Config:
        """What the image says of itself."""
        return self.engine.config(self.image)

    @cached_property
    def missing(self) -> str:
        """What its server computes on and this host has not; "" where nothing is missing."""
        if self.cell.stack.accelerator is Accelerator.CUDA and not host.has_gpu():
            return "an NVIDIA GPU"
        if self.cell.stack.accelerator is Accelerator.TPU and not host.has_tpu():
            return "a TPU"
        return ""

    @property
    def cannot_serve(self) -> str:
        """Why its server cannot run on this host; "" where it can."""
        if self.missing and self.recipe.cpu_env is None:
            return f"needs {self.missing}, and there is none"
        return ""

    @property
    def gpus(self) -> bool:
        """Whether it is given the host's GPUs."""
        return self.cell.stack.accelerator is Accelerator.CUDA and not self.missing

    @property
    def env(self) -> dict[str, str]:
        """What has its image start, and its server use the CPU, where its device is missing."""
        return {"IMGBUILD_PREFLIGHT": "warn", **(self.recipe.cpu_env or {})} if self.missing else {}

    def start(self) -> Container:
        """Its server, with the tiny model."""
        server, recipe = self.cell.framework.server, self.recipe
        arguments = server.flags.arguments(MODEL_PATH, "{host}", "{port}")
        return self.engine.start(
            Run(
                image=self.image,
                args=(*arguments, *recipe.args),
                port=server.port,
                env={**recipe.env, **self.env},
                mounts={tiny_model(): MODEL_PATH},
                shm_mb=recipe.shm_mb,
                gpus=self.gpus,
            )
        )

    def healthy(self, container: Container) -> str:
        """Wait until its server is, and no longer than `timeout` seconds."""
        start = time.monotonic()
        url = container.url + self.cell.framework.server.health
        while (waited := time.monotonic() - start) < self.timeout:
            try:
                with _OPENER.open(url, timeout=5):
                    where = f", on the CPU: {self.missing} is not here" if self.missing else ""
                    return f"200 after {waited:.1f} s{where}"
            except (OSError, ValueError, http.client.HTTPException):
                pass
            if (code := container.exit_code()) is not None:
                raise BuildError(
                    f"the server ended with exit code {code}", tail=last_words(container)
                )
            time.sleep(0.5)
        raise BuildError(f"not healthy after {self.timeout:g} s", tail=last_words(container))

    def version(self, run: Callable[..., str]) -> str:
        """The module that `run` has Python import is the cell's release."""
        code = f"import {self.module}; print({self.module}.__version__)"
        return self.confirms(self.module, run(self.python, "-c", code))

    def container(self, *args: str, **how: Any) -> Run:
        """A command for the image's own start, or with `entrypoint` for that program."""
        env = {**self.env, **how.pop("env", {})}
        return Run(image=self.image, args=args, env=env, gpus=self.gpus, **how)

    def says(self, *args: str, **how: Any) -> str:
        """What a user's command prints; raises BuildError for its exit code."""
        result = self.engine.run(self.container(*args, **how))
        return _printed(result, how.get("entrypoint", args[0]))

    def calls(self, *args: str, **env: str) -> str:
        """What a program prints without the image's own start; raises BuildError likewise."""
        result = self.engine.call(self.image, args, {**self.env, **env}, gpus=self.gpus)
        return _printed(result, " ".join(args))

    def confirms(self, name: str, printed: str) -> str:
        """What something prints names the cell's release; raises BuildError where it does not."""
        versions = _VERSION.findall(printed)
        release = self.cell.release.version
        for found in versions:
            if _public(found) == release:
                return f"{name} is {found}"
        said = versions[-1] if versions else brief(printed.strip()) or "without a version"
        raise BuildError(f"{name} is {said}, not {release}")


def _public(version: str) -> str:
    """A version without what a builder adds, as "+cpu"."""
    return version.partition("+")[0]


def _printed(result: Result, command: str) -> str:
    if result.code:
        tail = (result.stderr or result.stdout).splitlines()[-LOG_TAIL:]
        raise BuildError(f"`{command}` exits {result.code} in it", tail=tail)
    return result.stdout


def last_words(container: Container) -> list[str]:
    """The end of its log."""
    return container.log().splitlines()[-LOG_TAIL:]


def golden() -> Path:
    """The file of the tiny model's answers, which `tiny_model` writes."""
    return host.cache_dir() / "tiny-llama" / "golden.json"


def tiny_model() -> Path:
    """The tiny model's folder, written by its own script where it is not there yet."""
    file = golden()
    file.parent.mkdir(parents=True, exist_ok=True)
    model = file.parent / "model"
    script = (sys.executable, "-I", "-B", str(RUNTIME / "tinymodel.py"))
    answers = proc.capture(Command(args=(*script, str(model), "--json"), timeout=300))
    aside = host.aside(file)
    try:
        aside.write_text(answers.stdout, encoding="utf-8")
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
    return model

"""Real engines, installed and started as a user would do it.

On a host where that takes an administrator the tests fail, and say which command to type. With
IMGBUILD_TEST_ENGINES=skip in the environment they are skipped instead: a choice, not an accident.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.registryserver import RegistryServer, serve

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDS_ADMINISTRATOR = 3  # exit code of scripts/engines.sh


@dataclass(frozen=True)
class Imgbuild:
    """The installed command, run from a folder."""

    folder: Path
    env: dict[str, str]

    def __call__(self, *args: str, code: int = 0, timeout: float = 1500) -> Finished:
        """Run it and insist on its exit code."""
        program = Path(sys.executable).with_name("imgbuild")
        done = subprocess.run(
            [program, *args],
            cwd=self.folder,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Finished(done.stdout, done.stderr)


@dataclass(frozen=True)
class Finished:
    stdout: str
    stderr: str

    def json(self) -> Any:
        return json.loads(self.stdout)


@functools.cache
def engine(name: str) -> None:
    """Install and start an engine once."""
    steps = [("install", "buildah" if name == "buildah" else name)]
    steps += [("start", "docker")] if name == "docker" else []
    # Every engine bootstraps its base with mmdebstrap, which comes with buildah.
    steps += (
        [("install", "buildah")] if name != "buildah" and not shutil.which("mmdebstrap") else []
    )
    for step in steps:
        done = subprocess.run(
            [REPOSITORY / "scripts" / "engines.sh", *step],
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if done.returncode == NEEDS_ADMINISTRATOR:
            why = f"{name} needs an administrator: {done.stdout.strip()}"
            if os.environ.get("IMGBUILD_TEST_ENGINES") == "skip":
                pytest.skip(why)
            pytest.fail(f"{why} (or set IMGBUILD_TEST_ENGINES=skip)", pytrace=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the small project beside this file."""
    target = tmp_path / "project"
    shutil.copytree(Path(__file__).parent / "project", target)
    return target


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A registry with TLS, whose CA this host does not know, and a login."""
    engine("registry")
    with serve(tmp_path_factory.mktemp("registry"), tls=True) as server:
        yield server


@pytest.fixture(scope="module")
def plain_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A registry that speaks plain HTTP to anybody."""
    engine("registry")
    with serve(tmp_path_factory.mktemp("plain-registry"), tls=False) as server:
        yield server


@pytest.fixture
def imgbuild() -> Callable[..., Imgbuild]:
    """Make the command for a folder: imgbuild(folder, NAME="value")."""

    def make(folder: Path, **env: str) -> Imgbuild:
        return Imgbuild(folder, env)

    return make

"""Unit tests start no process and open no connection: whoever tries is told so."""

from __future__ import annotations

import _posixsubprocess
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from builder import matrix as matrices
from builder.facts import Matrix
from builder.project import Project
from tests.unit.support import ROOT, Forbidden

# Time-outs of single examples would be noise on a busy machine. A fixture's folder is written anew
# by each example.
hypothesis.settings.register_profile(
    "unit",
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("unit")

# Their subject is what a fresh interpreter does.
_WITH_PYTHON = {"test_tinymodel.py"}
_STARTERS = sorted(
    name
    for name in dir(os)
    if name.startswith(("exec", "spawn", "posix_spawn", "fork", "popen", "system"))
)
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "loopback: may talk to a server on 127.0.0.1")
    config.addinivalue_line("markers", "python: may start this Python, and no other program")


def _is_this_python(program: str) -> bool:
    """Also by a script of its own; a program that is not there starts nothing."""
    file = shutil.which(program)
    if file is None or file == sys.executable:
        return True
    with Path(file).open("rb") as opened:
        return opened.readline().split()[:1] == [b"#!" + os.fsencode(sys.executable)]


@pytest.fixture(autouse=True)
def no_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process fails the test; `@pytest.mark.python` allows this interpreter."""
    python = bool(request.node.get_closest_marker("python")) or request.path.name in _WITH_PYTHON
    popen = subprocess.Popen.__init__

    def start(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        program = args if isinstance(args, str) else os.fsdecode(args[0])
        if not (python and program == sys.executable):
            raise Forbidden(f"a unit test started a process: {program}")
        popen(self, args, *rest, **options)

    def refuse(name: str) -> Any:
        def call(*args: Any, **_options: Any) -> None:
            raise Forbidden(f"a unit test started a process: {name}{args}")

        return call

    spawn = os.posix_spawnp

    def spawnp(program: str, *args: Any, **options: Any) -> int:
        if not (python and _is_this_python(program)):
            raise Forbidden(f"a unit test started a process: {program}")
        return spawn(program, *args, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", start)
    for name in _STARTERS:
        monkeypatch.setattr(os, name, refuse(f"os.{name}"))
    monkeypatch.setattr(os, "posix_spawnp", spawnp)
    if not python:
        monkeypatch.setattr(_posixsubprocess, "fork_exec", refuse("fork_exec"))


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection fails the test; `@pytest.mark.loopback` allows 127.0.0.1."""
    loopback = bool(request.node.get_closest_marker("loopback"))

    def guarded(name: str, host_of: Any, original: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            host = host_of(*args)
            if not (loopback and host in _LOOPBACK):
                raise Forbidden(f"a unit test used the network: {name} {host!r}")
            return original(*args, **options)

        return call

    def host_of_address(_self: Any, *args: Any) -> Any:
        address = args[-1]  # the last of sendto's arguments too
        return address[0] if isinstance(address, tuple) else address

    for name in ("connect", "connect_ex", "sendto"):
        original = getattr(socket.socket, name)
        monkeypatch.setattr(socket.socket, name, guarded(name, host_of_address, original))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
        original = getattr(socket, name)
        monkeypatch.setattr(socket, name, guarded(name, lambda host, *_: host, original))


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    """File modes are asserted: the umask of who runs the tests does not count."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def project() -> Project:
    """The repository as a project, wherever pytest was started."""
    return Project.find(ROOT / "matrix.yaml")


@pytest.fixture(scope="session")
def matrix(project: Project) -> Matrix:
    """The committed matrix."""
    return matrices.load(project.matrix_file)

"""The guards of conftest.py: without them, a forgotten fake would go unnoticed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable

import pytest

from tests.unit.support import Forbidden

PROCESSES: dict[str, Callable[[], object]] = {
    "Popen": lambda: subprocess.Popen(["true"]),
    "run": lambda: subprocess.run(["true"], check=False),
    "run of python": lambda: subprocess.run([sys.executable, "-c", ""], check=False),
    "shell": lambda: subprocess.run("true", shell=True, check=False),
    "os.system": lambda: os.system("true"),
    "os.popen": lambda: os.popen("true"),
    "os.execvp": lambda: os.execvp("true", ["true"]),
    "os.execve": lambda: os.execve("/bin/true", ["true"], {}),
    "os.posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "os.posix_spawnp": lambda: os.posix_spawnp("true", ["true"], {}),
    "os.spawnlp": lambda: os.spawnlp(os.P_WAIT, "true", "true"),
    "os.fork": lambda: os.fork(),  # noqa: PLW0108 - looked up when the guard stands
}
CONNECTIONS: dict[str, Callable[[], object]] = {
    "connect": lambda: socket.socket().connect(("127.0.0.1", 9)),
    "connect_ex": lambda: socket.socket().connect_ex(("127.0.0.1", 9)),
    "create_connection": lambda: socket.create_connection(("192.0.2.1", 80)),
    "getaddrinfo": lambda: socket.getaddrinfo("example.org", 80),
    "gethostbyname": lambda: socket.gethostbyname("example.org"),
    "unix": lambda: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock"),
    "sendto": lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 53)),
    "urlopen": lambda: urllib.request.urlopen("http://192.0.2.1/"),
}


@pytest.mark.parametrize("start", PROCESSES.values(), ids=PROCESSES.keys())
def test_a_process_is_refused(start: Callable[[], object]) -> None:
    with pytest.raises(Forbidden, match="a unit test started a process"):
        start()


@pytest.mark.parametrize("connect", CONNECTIONS.values(), ids=CONNECTIONS.keys())
def test_a_connection_is_refused(connect: Callable[[], object]) -> None:
    with pytest.raises(Forbidden, match="a unit test used the network"):
        connect()


@pytest.mark.python
def test_the_python_mark_admits_this_python_only() -> None:
    done = subprocess.run([sys.executable, "-c", "print(1)"], check=True, capture_output=True)
    assert done.stdout == b"1\n"
    with pytest.raises(Forbidden, match="started a process: true"):
        subprocess.run(["true"], check=False)
    with pytest.raises(Forbidden, match="started a process: true"):
        os.posix_spawnp("true", ["true"], {})


@pytest.mark.loopback
def test_the_loopback_mark_admits_this_machine_only() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    with pytest.raises(Forbidden, match="used the network"):
        socket.create_connection(("192.0.2.1", 80))

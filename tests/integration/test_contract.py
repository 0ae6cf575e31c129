"""`imgbuild smoke --contract` on images that every engine built, and on images that break it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.smoke.contract import ALL, INSTALLED
from tests.integration.conftest import Imgbuild, engine

pytestmark = pytest.mark.engine
ENGINES = ("buildah", "docker", "apptainer")

# Everything but the start that imgbuild gives an image: no init, no runtime, a framework that asks
# the network as it is imported (a datagram socket: nothing is sent).
WITHOUT_RUNTIME = """
USER 0
RUN echo 'import socket; socket.socket(type=socket.SOCK_DGRAM).connect(("192.0.2.1", 9))' \
    >> /opt/venv/lib/python3.11/site-packages/packaging/__init__.py
USER 1000:0
ENTRYPOINT ["/usr/bin/env"]
"""
# And everything but that.
CARELESS = """
USER 0
RUN cp /usr/bin/id /usr/local/bin/id && chmod 4755 /usr/local/bin/id \
    && printf '[global]\\nindex-url = https://index.invalid\\n' > /etc/pip.conf \
    && mkdir -m 0777 /data \
    && echo '-----BEGIN PRIVATE KEY-----' > /etc/ssl/host.key
ENV https_proxy=http://proxy.invalid:3128
HEALTHCHECK CMD true
"""
# A server that does not heed SIGTERM, and a setting that stayed: as a framework's own commands.
DEAF = """
deaf='"http.server" in sys.orig_argv and signal.signal(signal.SIGTERM, signal.SIG_IGN)'
echo "import signal, sys; $deaf" > /opt/venv/lib/python3.11/site-packages/deaf.pth
touch /etc/pip.conf
"""


def failed(report: dict[str, Any]) -> dict[str, str]:
    return {c["name"]: c["detail"] for c in report["checks"] if c["status"] == "failed"}


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    engine(request.param)
    return str(request.param)


def test_a_built_image_keeps_it(
    name: str, project: Path, imgbuild: Callable[..., Imgbuild]
) -> None:
    run = imgbuild(project)
    try:
        run("build", "--engine", name)
        (report,) = run("smoke", "--contract", "--engine", name, "--json").json()
    finally:
        run("clean", "--all", "--engine", name)
    assert [check["name"] for check in report["checks"]] == [own for own, _ in (*ALL, *INSTALLED)]
    skipped = {c["name"]: c["detail"] for c in report["checks"] if c["status"] == "skipped"}
    # Only Apptainer may have to leave something out, and only what takes privileges.
    assert set(skipped) <= ({"any-uid", "no-network"} if name == "apptainer" else set())
    assert all(why.startswith("Apptainer") for why in skipped.values())
    assert failed(report) == {}


@pytest.fixture
def broken(
    project: Path, imgbuild: Callable[..., Imgbuild]
) -> Iterator[Callable[[str], dict[str, str]]]:
    """Build an image upon the project's own; which checks it fails, and what they say."""
    engine("docker")
    run = imgbuild(project)
    image = "imgbuild-broken:test"

    def fails(lines: str) -> dict[str, str]:
        built = run("build", "--engine", "docker", "--json").json()[0]["image"]["reference"]
        docker("build", "--tag", image, "-", text=f"FROM {built}\n{lines}")
        smoke = ("smoke", "--contract", "--engine", "docker", "--image", image, "--json")
        (report,) = run(*smoke, code=1).json()
        return failed(report)

    yield fails
    docker("rmi", "--force", image)
    run("clean", "--all", "--engine", "docker")


def docker(*args: str, text: str = "") -> None:
    done = subprocess.run(
        ["docker", *args], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_the_runtime_does_is_missed_without_it(
    broken: Callable[[str], dict[str, str]],
) -> None:
    found = broken(WITHOUT_RUNTIME)
    runtimes = ["any-uid", "read-only", "no-home", "no-network", "sigterm", "zombies", "tmpdir"]
    assert list(found) == runtimes
    assert "not writable for 123456:0: XDG_CACHE_HOME" in found["any-uid"]
    assert "Network is unreachable" in found["no-network"]
    assert "a command ignored SIGTERM for 10 s" in found["sigterm"]
    assert found["zombies"].startswith("nobody reaps: ")
    assert "AF_UNIX path too long" in found["tmpdir"]


def test_a_careless_image_is_told_all_of_it(broken: Callable[[str], dict[str, str]]) -> None:
    found = broken(CARELESS)
    assert list(found) == ["user", "contents", "metadata"]
    assert found["user"] == "the image runs as root"
    assert found["contents"].splitlines()[1:] == [
        "environment: the variable https_proxy is set",
        "world-writable: /data",
        "site setting: /etc/pip.conf",
        "private key: /etc/ssl/host.key",
        "setuid: /usr/local/bin/id",
    ]
    assert found["metadata"] == "the health check goes through a shell"


def test_a_deaf_server_and_a_setting_are_found_in_a_sif(
    project: Path, imgbuild: Callable[..., Imgbuild]
) -> None:
    engine("docker")
    engine("apptainer")
    (project / "templates/frameworks/files.j2").write_text(DEAF.lstrip())
    run = imgbuild(project)
    try:
        run("build", "--engine", "docker")
        run("sif", "--engine", "docker")
    finally:
        run("clean", "--all", "--engine", "docker")
    smoke = ("smoke", "--contract", "--engine", "apptainer", "--json")
    (report,) = run(*smoke, code=1).json()
    found = failed(report)
    assert list(found) == ["sigterm", "contents"]
    assert found["sigterm"].startswith("the server ignored SIGTERM for 10 s")
    assert "site setting: /etc/pip.conf" in found["contents"]

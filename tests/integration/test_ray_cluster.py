"""Three containers of the Ray image are one cluster, by exactly what `deploy ray` prints.

It serves the tiny model through Ray Serve; a worker is killed, and answers still come.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import REPOSITORY, Imgbuild, engine

pytestmark = pytest.mark.engine
# Prints the name of the host that each of some tasks ran on; the head has no CPUs to give.
_TASKS = """
import json, socket, ray
ray.init(address="auto", logging_level="error")

@ray.remote(num_cpus=0)
def where():
    return socket.gethostname()

ids = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
pin = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
on = lambda node: where.options(scheduling_strategy=pin(node, soft=False))
print(json.dumps(ray.get([on(node).remote() for node in ids])))
"""
# Prints how many of Serve's replicas this node has.
_REPLICAS = """
import pathlib
files = pathlib.Path("/proc").glob("[0-9]*/cmdline")
print(sum(file.read_bytes().startswith(b"ray::ServeReplica") for file in files))
"""
# Asks for as many seconds as the argument says, and prints of each answer whether it came.
_ASKING = """
import json, sys, time, urllib.error, urllib.request
body = json.dumps({"model": "/model", "prompt": "a", "max_tokens": 4, "temperature": 0}).encode()
url = "http://127.0.0.1:8000/v1/completions"
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        print(urllib.request.urlopen(asked, timeout=30).status, flush=True)
    except OSError as error:
        print(error, flush=True)
    time.sleep(0.5)
"""
# Prints the status of an answer to somebody without the token.
_STRANGER = """
import urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:8265/api/serve/applications/").status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
# Those that the killed worker was computing, and those that were sent to it before that was known.
_LOST = 5
_CLIENT = [
    "/opt/venv/bin/python3",
    "/opt/imgbuild/runtime/client.py",
    "--golden",
    "/model/golden.json",
]


@dataclass(frozen=True)
class Cluster:
    """A script of `imgbuild deploy ray`, and the containers that it starts."""

    script: Path
    name: str

    @property
    def nodes(self) -> list[str]:
        return [f"{self.name}-{role}" for role in ("head", "worker-1", "worker-2")]

    def part(self, part: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(self.script), part], capture_output=True, text=True, timeout=300, check=False
        )

    def inside(self, node: str, *command: str) -> subprocess.CompletedProcess[str]:
        return docker("exec", node, *command, check=False)

    def told(self) -> list[str]:
        """For who asks why it failed."""
        status = self.inside(self.nodes[0], "serve", "status")
        logs = (docker("logs", "--tail", "40", node, check=False) for node in self.nodes)
        return [status.stdout, status.stderr, *(log.stdout + log.stderr for log in logs)]

    def until(self, what: Callable[[], bool], seconds: float) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.told()
            time.sleep(2)

    def answers(self, node: str | None = None, host: str = "127.0.0.1") -> bool:
        """Whether all 128 tokens of eight answers to a node are the computed ones."""
        url = ["--url", f"http://{host}:8000"]
        return self.inside(node or self.nodes[0], *_CLIENT, *url).returncode == 0

    def replicas(self) -> list[int]:
        """Of each node, how many of Serve's replicas it has."""
        found = (self.inside(node, "python3", "-c", _REPLICAS) for node in self.nodes)
        return [int(done.stdout.strip() or 0) for done in found]

    def asked(self, seconds: int, meanwhile: Callable[[], object]) -> list[bool]:
        """Which answers came, of those that were asked for one after another for so long."""
        command = ["docker", "exec", self.nodes[0], "python3", "-c", _ASKING, str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
            time.sleep(seconds / 4)
            meanwhile()
            told, _ = asking.communicate(timeout=seconds + 60)
        return [line == "200" for line in told.splitlines()]


def docker(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["docker", *args], capture_output=True, text=True, timeout=300, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture
def cluster(imgbuild: Callable[..., Imgbuild], tmp_path: Path) -> Iterator[Cluster]:
    """A script for a head that computes nothing and two workers, on one network of Docker's."""
    engine("docker")
    run = imgbuild(REPOSITORY)
    (built,) = run("build", "--matrix", "cpu-ray", "--engine", "docker", "--json").json()
    model = tmp_path / "model"
    made = subprocess.run(
        [sys.executable, "-I", "-B", REPOSITORY / "builder/runtime/tinymodel.py", model, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    (model / "golden.json").write_text(made.stdout)
    cluster = Cluster(tmp_path / "ray.sh", f"imgbuild-ray-{secrets.token_hex(4)}")
    command = ["deploy", "ray", "cpu-ray", "--image", built["image"]["reference"]]
    command += ["--model", str(model), "--name", cluster.name, "--network", cluster.name]
    command += ["--hosts", "3", "--head-only", "--cpus", "2", "-o", str(cluster.script)]
    command += ["--token-folder", str(tmp_path / "token"), "--env", "VLLM_CPU_KVCACHE_SPACE=1"]
    engine_options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256"]
    run(*command, "--", *engine_options, "--max-num-seqs", "8")
    docker("network", "create", cluster.name)
    try:
        yield cluster
    finally:
        for node in cluster.nodes:
            cluster.part(f"stop-{node.removeprefix(f'{cluster.name}-')}")
        docker("network", "rm", cluster.name, check=False)


def test_a_worker_is_killed_and_answers_still_come(cluster: Cluster) -> None:
    head, *workers = cluster.nodes
    for part in ("token", "head", "worker-1", "worker-2"):
        done = cluster.part(part)
        assert done.returncode == 0, (part, done.stderr)

    def joined() -> bool:
        done = cluster.inside(head, "python3", "-c", _TASKS)
        hosts = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else []
        return sorted(hosts) == sorted(cluster.nodes)

    cluster.until(joined, 300)
    assert cluster.part("status").returncode == 0
    cluster.until(lambda: cluster.part("server").returncode == 0, 120)  # the dashboard comes last
    assert cluster.inside(head, "python3", "-c", _STRANGER).stdout.strip() == "401"
    cluster.until(cluster.answers, 900)  # vLLM twice, on the same cores
    cluster.until(lambda: cluster.replicas() == [0, 1, 1], 300)
    assert cluster.answers(workers[0], head)  # clients are containers on the network
    statuses = docker("ps", "--filter", f"name={cluster.name}-", "--format", "{{.Status}}").stdout
    assert "unhealthy" not in statuses

    came = cluster.asked(40, lambda: docker("kill", workers[0]))
    assert came.count(False) <= _LOST, cluster.told()
    assert all(came[-10:]), cluster.told()
    assert cluster.answers()

    for part in ("stop-worker-1", "worker-1"):
        assert cluster.part(part).returncode == 0
    cluster.until(
        lambda: cluster.replicas() == [0, 1, 1], 600
    )  # where it was, not beside the other
    assert cluster.answers()

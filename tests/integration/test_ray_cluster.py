"""Two containers of the Ray image are one cluster: a task runs on each node."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.integration.conftest import REPOSITORY, Imgbuild, engine

# Builds cpu-ray, seven minutes: make test-full.
pytestmark = [pytest.mark.engine, pytest.mark.slow]
# Prints the name of the host that each of some tasks ran on.
_TASKS = """
import collections, json, socket, ray
ray.init(address="auto", logging_level="error")

@ray.remote(num_cpus=1)
def where():
    import time; time.sleep(0.5)
    return socket.gethostname()

ids = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
pin = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
on = lambda node: where.options(scheduling_strategy=pin(node, soft=False))
print(json.dumps(ray.get([on(node).remote() for node in ids])))
"""


def docker(*args: str, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", *args], capture_output=True, text=True, timeout=300, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def cluster(imgbuild: Callable[..., Imgbuild]) -> Iterator[list[str]]:
    """A head and a worker, which share a token; the names of their containers."""
    engine("docker")
    run = imgbuild(REPOSITORY)
    (built,) = run("build", "--matrix", "cpu-ray", "--engine", "docker", "--json").json()
    image = built["image"]["reference"]
    name = f"imgbuild-ray-{secrets.token_hex(4)}"
    nodes = [f"{name}-head", f"{name}-worker"]
    common = ["--detach", "--network", name, "--shm-size", "1g", "--env", "RAY_AUTH_MODE=token"]
    common += ["--env", f"RAY_AUTH_TOKEN={secrets.token_hex(16)}"]
    start = ["ray", "start", "--block", "--num-cpus", "1", "--object-store-memory", "100000000"]
    docker("network", "create", name)
    try:
        head = ["--name", nodes[0], "--hostname", nodes[0]]
        docker("run", *common, *head, image, *start, "--head", "--include-dashboard", "false")
        worker = ["--name", nodes[1], "--hostname", nodes[1]]
        docker("run", *common, *worker, image, *start, "--address", f"{nodes[0]}:6379")
        yield nodes
    finally:
        docker("rm", "--force", "--volumes", *nodes, check=False)
        docker("network", "rm", name, check=False)


def test_a_task_runs_on_both_nodes(cluster: list[str]) -> None:
    deadline = time.monotonic() + 180
    ran: list[str] = []
    while sorted(ran) != sorted(cluster):
        assert time.monotonic() < deadline, [ran, *(docker("logs", node) for node in cluster)]
        shown = docker("exec", cluster[0], "python3", "-c", _TASKS, check=False)
        ran = json.loads(shown.splitlines()[-1]) if shown else []
        time.sleep(2)

"""Commands of a Ray cluster on hosts: what is typed is what was meant, in any shell."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given

from builder import deploy
from builder.cli.deploy import command
from builder.deploy import rayapp, rayhosts, rayscript
from builder.errors import UserError
from tests.unit.deployed import matrix_of, served, texts
from tests.unit.support import ROOT

GOLDEN = ROOT / "tests/golden/deploy"
IMAGE = "registry.example.org/llm/ray@sha256:" + "0123456789abcdef" * 4
# Name -> cell, wishes.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "replicas": (
        "cuda13.0-ray",
        {
            "head": "10.0.0.1",
            "count": 3,
            "gpus": 8,
            "arguments": ("--max-model-len", "8192", "--served-model-name", "it's"),
            "env": ("PRICE=5$ or $(HOME)",),
        },
    ),
    "spread": ("cuda13.0-ray-h100", {"head": "gpu-1.example.org", "gpus": 4, "spread": True}),
    "one-host": (
        "cpu-ray",
        {"network": "ray", "count": 3, "head_only": True, "cpus": "2", "token_folder": "/srv/ray"},
    ),
    "apptainer": (
        "cuda12.8-ray",
        {"head": "10.0.0.1", "engine": "apptainer", "image": "/images/cuda12.8-ray.sif"},
    ),
    "podman": ("cuda13.0-ray", {"head": "10.0.0.1", "engine": "podman", "head_only": True}),
}


def wanted(cell_id: str = "cuda13.0-ray", **wishes: Any) -> deploy.Hosts:
    wishes = {"model": "/models/mine", "image": IMAGE, "head": "10.0.0.1", **wishes}
    return deploy.hosts(served(cell_id), **wishes)


def case(name: str) -> tuple[deploy.Served, deploy.Hosts]:
    cell_id, wishes = CASES[name]
    wishes = {"model": "/models/mine", "image": IMAGE, **wishes}
    return served(cell_id), deploy.hosts(served(cell_id), **wishes)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["sh", "json"])
def test_golden(name: str, form: str, request: pytest.FixtureRequest) -> None:
    if form == "sh":
        text = deploy.ray_script(*case(name))
    else:
        text = json.dumps(deploy.ray_commands(*case(name)), indent=1) + "\n"
    file = GOLDEN / f"{name}.ray.{form}"
    if request.config.getoption("--update-golden"):
        file.write_text(text)
    assert file.read_text() == text


def commands(text: str) -> dict[str, list[list[str]]]:
    """Part -> its commands, as a shell would split them."""
    body = text[text.index("\nset -eu\n") :]
    made: dict[str, list[list[str]]] = {}
    part, words = "", list[str]()
    for word in _words(body):
        if word == "\n":
            if len(words) == 1 and words[0].endswith(")") and part == "":
                part = words[0][:-1]
                made[part] = []
            elif words == [";;"]:
                part = ""
            elif words and part:
                made[part].append(words)
            words = []
        else:
            words.append(word)
    return made


def _words(text: str) -> list[str]:
    """Words and ends of lines of a script without variables: quotes, and what is behind them."""
    made: list[str] = []
    word: str | None = None
    at = 0
    while at < len(text):
        sign = text[at]
        if text.startswith("\\\n", at):
            at += 1
        elif sign in "'\"":
            end = text.index(sign, at + 1)
            word = (word or "") + text[at + 1 : end]
            at = end
        elif sign in " \n":
            if word is not None:
                made.append(word)
            word = None
            made += ["\n"] if sign == "\n" else []
        else:
            word = (word or "") + sign
        at += 1
    return made


@pytest.mark.parametrize("name", CASES)
def test_the_script_has_the_commands(name: str) -> None:
    made = deploy.ray_commands(*case(name))
    parts = commands(deploy.ray_script(*case(name)))
    if case(name)[1].engine == "apptainer":  # in the foreground, where signals go to the shell
        for role in ("head", "worker-1"):
            assert parts[role][0].pop(0) == "exec"
    assert parts["head"] == [made["head"]]
    assert parts["server"] == [made["server"]]
    assert parts["status"] == [made["status"]]
    workers = [parts[f"worker-{number}"] for number in range(1, len(made["workers"]) + 1)]
    assert workers == [[command] for command in made["workers"]]
    for role, command_ in made["stop"].items():
        assert parts.get(f"stop-{role}", [[]]) == [command_]


@given(texts, texts)
def test_nothing_of_a_users_is_a_shells(argument: str, value: str) -> None:
    image = served("cuda13.0-ray")
    for more in ({}, {"spread": True}, {"engine": "apptainer", "image": "a.sif"}):
        try:
            hosts = wanted(arguments=("--x", argument), env=(f"A={value}",), **more)
        except UserError:
            return
        parts = commands(deploy.ray_script(image, hosts))
        ((*_, last),) = parts["server"]
        told = [last] if hosts.spread else shlex.split(last.removeprefix("arguments="))
        assert told[-1] == argument
        (head,) = parts["head"]
        assert f"{'APPTAINERENV_' * (hosts.engine == 'apptainer')}A={value}" in head
        assert set(parts) >= {"token", "head", "worker-1", "status", "server"}


@given(texts)
def test_a_folder_is_one_field_of_a_mount(folder: str) -> None:
    try:
        hosts = wanted(model=f"/{folder}", token_folder=f"/{folder}")
    except UserError:
        return
    head = rayhosts.head(served("cuda13.0-ray"), hosts)
    mounts = [head[at + 1] for at, word in enumerate(head) if word == "--mount"]
    quoted = re.compile(r'^type=bind,(?:"source=([^"]+)"|source=([^",]+)),target=(\S+),readonly$')
    found = [quoted.match(mount) for mount in mounts]
    assert [match and (match[1] or match[2]) for match in found] == [hosts.model, hosts.token]


@pytest.mark.parametrize("name", CASES)
def test_every_port_is_fixed_and_listed(name: str) -> None:
    """`ray start --help` of 2.59.0: what is not given is any port."""
    image, hosts = case(name)
    listed = " ".join(port.number for port in rayhosts.ports(image, hosts))
    named = {"--port", "--dashboard-port", "--ray-client-server-port"}
    every = {
        "--node-manager-port",
        "--object-manager-port",
        "--runtime-env-agent-port",
        "--dashboard-agent-grpc-port",
        "--dashboard-agent-listen-port",
        "--metrics-export-port",
        "--min-worker-port",
        "--max-worker-port",
    }
    for command_, options in (
        (rayhosts.head(image, hosts), every | named),
        (rayhosts.worker(image, hosts, 1), every),
    ):
        given_ = {
            word: command_[at + 1] for at, word in enumerate(command_) if word in every | named
        }
        assert set(given_) == options
        assert all(number in listed for number in given_.values())
        assert len(set(given_.values())) == len(given_)


@pytest.mark.parametrize("name", CASES)
def test_nodes_know_the_token_and_show_it_nobody(name: str) -> None:
    image, hosts = case(name)
    for command_ in (rayhosts.head(image, hosts), rayhosts.worker(image, hosts, 1)):
        text = " ".join(command_)
        assert "RAY_AUTH_MODE=token" in text
        assert f"RAY_AUTH_TOKEN_PATH={rayhosts.TOKEN}" in text
        assert "RAY_AUTH_TOKEN=" not in text
        assert "--dashboard-host 0.0.0.0" not in text


@pytest.mark.parametrize("name", CASES)
def test_no_limit_is_asked_for_that_an_engine_may_not_give(name: str) -> None:
    """An engine with a lower one of its own starts no container with `--ulimit nofile`."""
    image, hosts = case(name)
    for command_ in (rayhosts.head(image, hosts), rayhosts.worker(image, hosts, 1)):
        assert not any(word.startswith("nofile") for word in command_)
        at = command_.index("ray", command_.index("sh"))
        shell, option, raised, _ = command_[at - 4 : at]
        assert (shell, option) == ("sh", "-c")
        assert raised.startswith("ulimit -S -n 65536 ")
        assert raised.endswith('; exec "$@"')
        assert command_[at : at + 3] == ["ray", "start", "--block"]


def test_a_head_that_computes_nothing_has_no_gpu() -> None:
    image, hosts = case("podman")
    head = rayhosts.head(image, hosts)
    assert "nvidia.com/gpu=all" not in head
    assert head[head.index("--num-gpus") + 1] == "0"
    assert head[head.index("--num-cpus") + 1] == "0"
    assert "nvidia.com/gpu=all" in rayhosts.worker(image, hosts, 1)
    assert "--replicas 1 --replicas-per-node 1" in rayhosts.server(image, hosts)[-1]


def test_nodes_of_one_host_have_gpus_of_their_own() -> None:
    """`docker run --gpus 2` is the first two, for whoever asks."""
    image = served("cuda13.0-ray")

    def given_(engine: str, *, head_only: bool) -> list[str]:
        wishes: dict[str, Any] = {"network": "ray", "head": None, "gpus": 2, "count": 3}
        hosts = wanted(**wishes, engine=engine, head_only=head_only)
        nodes = [rayhosts.head(image, hosts)]
        nodes += [rayhosts.worker(image, hosts, number) for number in (1, 2)]
        options = ("--gpus", "--device")
        return [
            " ".join(node[at + 1] for at, word in enumerate(node) if word in options)
            for node in nodes
        ]

    assert given_("docker", head_only=False) == ['"device=0,1"', '"device=2,3"', '"device=4,5"']
    assert given_("docker", head_only=True) == ["", '"device=0,1"', '"device=2,3"']
    cdi = [f"nvidia.com/gpu={a} nvidia.com/gpu={a + 1}" for a in (0, 2)]
    assert given_("podman", head_only=True) == ["", *cdi]
    alone = wanted(network="ray", head=None, count=2, head_only=True)
    assert "device=0" in rayhosts.worker(image, alone, 1)


@pytest.mark.parametrize("name", CASES)
def test_a_container_is_as_well_as_its_node(name: str) -> None:
    """The image's own check asks a server, which is not on each node."""
    image, hosts = case(name)
    for command_ in (rayhosts.head(image, hosts), rayhosts.worker(image, hosts, 1)):
        if hosts.engine != "apptainer":
            check = shlex.split(command_[command_.index("--health-cmd") + 1])
            assert check[-2:] == ["52365", "/api/healthz"]
            assert check[-2] == command_[command_.index("--dashboard-agent-listen-port") + 1]


def test_a_model_is_spread_over_hosts_by_stages() -> None:
    image, hosts = case("spread")
    told = " ".join(rayhosts.server(image, hosts))
    assert "vllm serve /model" in told
    assert "--tensor-parallel-size 4 --pipeline-parallel-size 2" in told
    assert "--distributed-executor-backend ray" in told


def test_cells_with_ray_are_those_that_have_it_locked() -> None:
    """vLLM's own closure has no Ray, so that its image has no `ray start`."""
    names = {cell.partition("-")[2].partition("-")[0] for cell in matrix_of().cells}
    for framework in names - {"tpu"}:
        locks = sorted((ROOT / "images/locks").glob(f"{framework}-*"))
        for lock in locks:
            if "-tpu-" in lock.name:
                continue
            has = any(
                re.search(r"^ray==", file.read_text(), re.MULTILINE) for file in lock.glob("*.txt")
            )
            assert has == (framework == rayapp.FRAMEWORK), lock


@pytest.mark.parametrize("cell_id", ["cuda13.0-vllm-h100", "cuda13.0-sglang"])
def test_images_without_ray_are_refused(cell_id: str) -> None:
    with pytest.raises(UserError, match=r"image has no Ray; vLLM and Ray are in cuda13\.0-ray,"):
        wanted(cell_id)


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"head": None}, "--head says at which address"),
        ({"head": "10.0.0.1:6379"}, "is no address of a host"),
        ({"head": "a b"}, "is no address of a host"),
        ({"head": "-x"}, "is no address of a host"),
        ({"head": "10.0.0.999"}, "is no address of a host; an IPv4 address, or a name, without"),
        ({"head": "a..b"}, "is no address of a host"),
        ({"head": "a-.b"}, "is no address of a host"),
        ({"head": "a.b."}, "is no address of a host"),
        ({"head": f"{'a' * 64}.b"}, "is no address of a host"),
        ({"head": "fd00::1"}, "is no address of a host; an IPv4 address"),
        ({"head": "localhost"}, "is no address of a host"),
        ({"head": "127.0.0.1"}, "--head: at 127.0.0.1 no other host finds it"),
        ({"head": "0.0.0.0", "count": 1}, "--head: at 0.0.0.0 no other host finds it"),
        ({"head": "255.255.255.255"}, "no other host finds it"),
        ({"count": 0}, "--hosts: 0 is no number of hosts; 1 to 1000, the head's among them"),
        ({"count": 1, "head_only": True}, "--hosts: 1 is no number of hosts; 2 to 1000"),
        ({"gpus": 0}, "needs a GPU"),
        ({"spread": True, "head_only": True}, "--spread with --head-only"),
        ({"model": "org/model"}, "no folder that can be mounted"),
        ({"token_folder": "x"}, "--token-folder: 'x' is no folder"),
        ({"network": "a;b"}, "is no network's name"),
        (
            {"network": "bridge"},
            "on bridge containers do not find one another by name; one of your",
        ),
        ({"network": "host", "engine": "podman"}, "as by `podman network create ray`"),
        ({"engine": "apptainer"}, "is no SIF"),
        ({"engine": "apptainer", "image": "a.sif", "shm": "1Gi"}, "--shm with apptainer"),
        ({"engine": "apptainer", "image": "a.sif", "network": "a"}, "--network with apptainer"),
        ({"image": "ray"}, "names no version"),
        ({"name": "A"}, "did you mean 'a'"),
        ({"env": ("PYTHONPATH=/x",)}, "PYTHONPATH is set already"),
        ({"env": ("HF_TOKEN=x",)}, "would stand in the open"),
        ({"arguments": ("--tensor-parallel-size", "2")}, "is for the cluster to say"),
        ({"arguments": ("--distributed_executor_backend=mp",)}, "is for the cluster to say"),
        ({"arguments": ("-tp2",)}, "-tp is for the cluster to say"),
        ({"arguments": ("--model", "/x")}, "is set already"),
    ],
)
def test_mistakes_are_told_in_one_line(wishes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as raised:
        wanted(**wishes)
    assert told in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_cpu_build_spreads_nothing() -> None:
    with pytest.raises(UserError, match="spreads no model over hosts"):
        wanted("cpu-ray", spread=True)


def test_lines_break_between_options_alone() -> None:
    made = rayscript.lines(["run", *(["--option", "x" * 40] * 4), "a b"])
    assert len(made) > 1
    assert all(line.endswith(" \\") for line in made[:-1])
    assert all(line.lstrip().startswith("--option") for line in made[1:])


def test_the_command_writes_the_same(tmp_path: Path) -> None:
    line = ["ray", "cuda13.0-ray-h100", "-f", str(ROOT / "matrix.yaml"), "--model", "/models/mine"]
    line += ["--image", IMAGE, "--head", "gpu-1.example.org", "--gpus", "4", "--spread"]
    run = CliRunner()
    told = run.invoke(command, line)
    assert told.output == (GOLDEN / "spread.ray.sh").read_text()
    assert run.invoke(command, [*line, "--json"]).output == (GOLDEN / "spread.ray.json").read_text()
    file = tmp_path / "folder/ray.sh"
    assert run.invoke(command, [*line, "-o", str(file)]).output == f"{file}\n"
    assert file.read_text() == told.output

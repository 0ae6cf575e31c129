"""Compose files: one server on one host, with the image's own health check and user."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given

from builder import deploy
from builder.cli.deploy import command
from builder.errors import UserError
from tests.unit.crds import COMPOSE
from tests.unit.deployed import IMAGE, served, texts
from tests.unit.support import ROOT

GOLDEN = ROOT / "tests/golden/deploy"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "hub": ("cuda13.0-vllm-h100", {"model": "org/model", "passed": ("HF_TOKEN",)}),
    "folder": (
        "cuda12.8-sglang",
        {
            "model": "/models/mine",
            "devices": ("2", "3"),
            "cpus": "8",
            "memory": "64Gi",
            "listen": "0.0.0.0",
            "port": 80,
            "env": ("PRICE=5$ or ${HOME}",),
            "arguments": ("--context-length", "8192"),
        },
    ),
    "cpu": ("cpu-vllm", {"model": "org/model"}),
}


def made(name: str) -> dict[str, Any]:
    cell_id, wishes = CASES[name]
    image = served(cell_id)
    read = yaml.safe_load(deploy.compose(image, deploy.stack(image, image=IMAGE, **wishes)))
    assert isinstance(read, dict)
    return read


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_composes(name: str) -> None:
    jsonschema.Draft202012Validator(COMPOSE).validate(made(name))


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    cell_id, wishes = CASES[name]
    image = served(cell_id)
    text = deploy.compose(image, deploy.stack(image, image=IMAGE, **wishes))
    file = GOLDEN / f"{name}.compose"
    if request.config.getoption("--update-golden"):
        file.write_text(text)
    assert file.read_text() == text


def interpolated(text: str) -> str:
    """As Compose does, in an environment that has every variable."""
    return re.sub(r"\$(\$|\w+|\{[^}]*\})", lambda found: "$" if found[1] == "$" else "X", text)


@given(texts, texts)
def test_the_server_is_told_what_the_user_wrote(argument: str, value: str) -> None:
    image = served("cpu-vllm")
    try:
        wanted = deploy.stack(
            image, image=IMAGE, model="a/b", arguments=("--x", argument), env=(f"A={value}",)
        )
    except UserError:
        return
    server = yaml.safe_load(deploy.compose(image, wanted))["services"]["server"]
    assert interpolated(server["command"][-1]) == argument
    assert interpolated(server["environment"]["A"]) == value


def test_a_servers_key_is_compose_to_fill_in() -> None:
    image = served("cuda12.8-sglang")
    told = ("--api-key", "${KEY}", "--x", "${HOME}")
    wanted = deploy.stack(image, image=IMAGE, model="a/b", arguments=told, passed=("KEY",))
    server = yaml.safe_load(deploy.compose(image, wanted))["services"]["server"]
    assert server["command"][-3:] == ["${KEY:?}", "--x", "$${HOME}"]


def test_what_a_start_writes_is_a_volume_of_the_images_owner() -> None:
    """A named volume takes over owner and contents of the folder that it is mounted at."""
    for name in CASES:
        server = made(name)["services"]["server"]
        homes = [mount for mount in server["volumes"] if mount["source"] == "home"]
        assert [mount["target"] for mount in homes] == ["/home/imgbuild"]
        assert server["read_only"]
        # As the images' own checks have it: Docker's default is noexec.
        assert server["tmpfs"] == ["/tmp:exec,mode=1777"]


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"model": "./x"}, "no folder that can be mounted; an absolute path"),
        ({"model": "/a:b"}, "an absolute path, without a colon"),
        ({"model": "/a/../b"}, "no folder that can be mounted"),
        ({"model": "pvc://a/b"}, "known are names on the hub and /models/mine"),
        ({"model": "a b"}, "as org/name, or /models/mine"),
        ({"env": ("HF_TOKEN=x",)}, "--pass-env HF_TOKEN takes it from the shell or from .env"),
        ({"arguments": ("--api-key", "x")}, "'${NAME}' stands for it here"),
        ({"env": ("HTTPS_PROXY=http://me:pass@proxy:3128",)}, "--pass-env HTTPS_PROXY takes it"),
        ({"passed": ("A",), "env": ("A=1",)}, "A is given twice"),
        ({"passed": ("CUDA_VISIBLE_DEVICES",)}, "is for who hands out GPUs to set"),
        ({"devices": ("0", "1"), "gpus": 3}, "--gpus 3 with 2 times --device"),
        ({"devices": ("all",)}, "'all' is no GPU; a number or a UUID"),
        ({"devices": ("MIG-1a", "MIG-2b")}, "NCCL does not talk between 2 devices of which"),
        ({"cpus": "0.5"}, "'0.5' is no number of CPUs; a whole number"),
        ({"listen": "localhost"}, "--listen: 'localhost' is no address"),
        ({"listen": "999.1.1.1"}, "is no address"),
        ({"listen": "[::1"}, "is no address"),
        ({"listen": ":::::"}, "is no address"),
        ({"listen": "[127.0.0.1]"}, "is no address"),
        ({"listen": ""}, "is no address"),
        ({"devices": ("0", "0")}, "--device: 0 is given twice"),
        ({"gpus": 65}, "--gpus: no host has 65"),
        ({"memory": "1Gi"}, "--shm: 1Gi of 1Gi of memory"),
        ({"port": 0}, "--port: 0 is no port"),
        ({"image": "vllm"}, "names no version"),
    ],
)
def test_mistakes_are_told_in_one_line(wishes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as raised:
        deploy.stack(
            served("cuda13.0-vllm-h100"), **{"image": IMAGE, "model": "org/model", **wishes}
        )
    assert told in str(raised.value)
    assert "kubelet" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("cell_id", "wishes"),
    [
        ("cuda13.0-deepspeed", {"gpus": 2}),
        ("cpu-vllm", {"devices": ("0",)}),
        ("cpu-vllm", {"arguments": ("--port", "1")}),
    ],
)
def test_hints_are_of_what_a_compose_file_has(cell_id: str, wishes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as raised:
        deploy.stack(served(cell_id), image=IMAGE, model="/models/mine", **wishes)
    assert not re.search(r"--(replicas|autoscale|mig|gpu-product)|Service", str(raised.value))


def test_our_own_servers_read_folders() -> None:
    image = served("cpu-deepspeed")
    with pytest.raises(UserError, match="does not fetch 'a/b'; as /models/mine"):
        deploy.stack(image, image=IMAGE, model="a/b")
    assert deploy.stack(image, image=IMAGE, model="/models/mine").folder == "/models/mine"


@pytest.mark.parametrize(("text", "bare"), [("::1", "::1"), ("[::]", "::"), ("10.0.0.1",) * 2])
def test_addresses_of_both_kinds(text: str, bare: str) -> None:
    image = served("cpu-vllm")
    wanted = deploy.stack(image, image=IMAGE, model="a/b", listen=text)
    server = yaml.safe_load(deploy.compose(image, wanted))["services"]["server"]
    assert server["ports"][0]["host_ip"] == bare


def test_an_empty_name_is_no_file() -> None:
    line = ["compose", "cpu-vllm", "-f", str(ROOT / "matrix.yaml"), "--model", "org/model"]
    told = CliRunner().invoke(command, [*line, "--image", IMAGE, "-o", ""])
    assert "--output: '' is no file" in str(told.exception)


def test_the_command_writes_the_same(tmp_path: Path) -> None:
    line = ["compose", "cpu-vllm", "-f", str(ROOT / "matrix.yaml"), "--model", "org/model"]
    line += ["--image", IMAGE]
    run = CliRunner()
    told = run.invoke(command, line)
    assert told.output == (GOLDEN / "cpu.compose").read_text()
    file = tmp_path / "folder/compose.yaml"
    assert run.invoke(command, [*line, "-o", str(file)]).output == f"{file}\n"
    assert file.read_text() == told.output

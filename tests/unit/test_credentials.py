"""Logins, where docker, podman, apptainer and their helpers keep them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from builder import proc
from builder.errors import BuildError
from builder.proc import Command, Result
from builder.registry import credentials
from builder.registry.credentials import Login

HOST = "registry.example.org:5000"


def keep(file: Path, **content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def basic(user: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:pass:word".encode()).decode()}


def test_the_first_that_knows_wins_in_the_order_of_the_tools(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    env["REGISTRY_AUTH_FILE"] = str(tmp_path / "own.json")
    files = {
        "apptainer": tmp_path / ".apptainer/docker-config.json",
        "docker": tmp_path / ".docker/config.json",
        "podman": tmp_path / ".config/containers/auth.json",
        "session": tmp_path / "run/containers/auth.json",
        "own": tmp_path / "own.json",
    }
    assert credentials.find(HOST, "lab/vllm", env) is None
    for user, file in files.items():
        keep(file, auths={HOST: basic(user), "other.example.org": basic("other")})
        assert credentials.find(HOST, "lab/vllm", env) == Login(user=user, password="pass:word")
    files["own"].write_text("no JSON")
    files["session"].write_text('["no table"]')
    found = credentials.find(HOST, "lab/vllm", env)
    assert found == Login(user="podman", password="pass:word")


def test_the_most_particular_wins_within_a_file(tmp_path: Path) -> None:
    names = (f"{HOST}/lab/vllm", f"{HOST}/lab", HOST)
    users = dict(zip(reversed(names), ("host", "lab", "vllm"), strict=True))
    auths = {name: basic(user) for name, user in users.items()}
    keep(tmp_path / ".docker/config.json", auths=auths)
    for repository, user in (("lab/vllm", "vllm"), ("lab/sglang", "lab"), ("labs/vllm", "host")):
        found = credentials.find(HOST, repository, {"HOME": str(tmp_path)})
        assert found == Login(user=user, password="pass:word")


@pytest.mark.parametrize(
    ("host", "name"),
    [("docker.io", "https://index.docker.io/v1/"), (HOST, f"https://{HOST}"), (HOST, HOST)],
)
def test_names_that_docker_login_writes(host: str, name: str, tmp_path: Path) -> None:
    keep(tmp_path / "config.json", auths={name: {"username": "lab", "password": "p"}})
    found = credentials.find(host, "me/vllm", {"DOCKER_CONFIG": str(tmp_path)})
    assert found == Login(user="lab", password="p")


def test_an_identity_token_and_what_is_no_login(tmp_path: Path) -> None:
    env = {"DOCKER_CONFIG": str(tmp_path)}
    for entry, login in (
        ({"identitytoken": "t"}, Login(identity_token="t")),
        ({}, None),
        ({"auth": "%%%"}, None),
    ):
        keep(tmp_path / "config.json", auths={HOST: entry})
        assert credentials.find(HOST, "x", env) == login


@pytest.mark.parametrize(
    ("answer", "login"),
    [
        ({"Username": "lab", "Secret": "p"}, Login(user="lab", password="p")),
        ({"Username": "<token>", "Secret": "t"}, Login(identity_token="t")),
    ],
)
@pytest.mark.parametrize("kept", [{"credHelpers": {HOST: "own"}}, {"credsStore": "own"}])
def test_helpers_are_asked(
    kept: dict[str, object],
    answer: dict[str, str],
    login: Login,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Command] = []

    def capture(command: Command, *, check: bool) -> Result:
        asked.append(command)
        return Result(code=0, stdout=json.dumps(answer), stderr="")

    monkeypatch.setattr(proc, "capture", capture)
    keep(tmp_path / "config.json", auths={HOST: {}}, **kept)
    assert credentials.find(HOST, "x", {"DOCKER_CONFIG": str(tmp_path)}) == login
    ((args, stdin),) = {(command.args, command.stdin) for command in asked}
    assert args == ("docker-credential-own", "get")
    assert stdin == HOST


def test_a_helper_that_fails_is_told_without_what_it_said_on_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path / "config.json", credHelpers={HOST: "own"})
    env = {"DOCKER_CONFIG": str(tmp_path)}
    answers = iter(
        [
            Result(code=1, stdout="credentials not found in native keychain", stderr=""),
            Result(code=1, stdout="a-secret", stderr="locked"),
            Result(code=0, stdout="a-secret", stderr=""),
        ]
    )
    monkeypatch.setattr(proc, "capture", lambda _command, *, check: next(answers))
    assert credentials.find(HOST, "x", env) is None
    for told in ("gives no login for registry", "but something else"):
        with pytest.raises(BuildError, match=told) as error:
            credentials.find(HOST, "x", env)
        assert "a-secret" not in str(error.value) + "".join(error.value.tail)

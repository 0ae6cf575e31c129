"""What `imgbuild deploy` writes, read by the programs that it is written for; nothing is started.

Where a program is not on PATH its tests are skipped: it is no engine of imgbuild's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from builder import deploy
from tests.unit.deployed import CASES, IMAGE, NASTY, case, served
from tests.unit.test_deploy_compose import CASES as STACKS


def told(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """What a program says, which reaches neither a cluster nor a daemon."""
    return subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **env}
    )


@pytest.fixture(scope="module")
def kustomize() -> tuple[str, ...]:
    for words in (("kustomize", "build"), ("kubectl", "kustomize")):
        if shutil.which(words[0]):
            return words
    pytest.skip("neither kustomize nor kubectl is here")


@pytest.mark.parametrize("name", CASES)
def test_a_base_builds_to_the_plain_objects(
    name: str, kustomize: tuple[str, ...], tmp_path: Path
) -> None:
    for path, text in deploy.files(*case(name), deploy.Format.KUSTOMIZE).items():
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    done = told(*kustomize, str(tmp_path / "base"))
    assert done.returncode == 0, done.stderr
    built, plain = (
        {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text)}
        for text in (done.stdout, deploy.stream(*case(name)))
    )
    assert built == plain


@pytest.fixture(scope="module")
def compose() -> tuple[str, ...]:
    """Docker Compose 2, as a plugin or alone."""
    for words in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(words[0]):
            version = told(*words, "version", "--short").stdout.strip().removeprefix("v")
            if version[:1].isdigit() and not version.startswith("1."):
                return words
    pytest.skip("no Docker Compose 2 is here")


@pytest.mark.parametrize("name", STACKS)
def test_compose_takes_the_file(name: str, compose: tuple[str, ...], tmp_path: Path) -> None:
    cell_id, wishes = STACKS[name]
    image = served(cell_id)
    file = tmp_path / "compose.yaml"
    file.write_text(deploy.compose(image, deploy.stack(image, image=IMAGE, **wishes)))
    done = told(*compose, "-f", str(file), "config", "--quiet")
    assert done.returncode == 0, done.stderr


def test_compose_tells_the_server_what_the_user_wrote(
    compose: tuple[str, ...], tmp_path: Path
) -> None:
    image = served("cuda12.8-sglang")
    words = [word for word in NASTY if word and not word.startswith("--model")]
    words.append("$HOME ${A:-b} $$")
    stack = deploy.stack(
        image,
        image=IMAGE,
        model="a/b",
        arguments=("--api-key", "${KEY}", "--x", *words),
        env=("A=$HOME ${B}", "B=a: b # c"),
        passed=("KEY",),
    )
    file = tmp_path / "compose.yaml"
    file.write_text(deploy.compose(image, stack))
    config = (*compose, "-f", str(file), "config", "--format", "json")
    without = told(*config, KEY="")
    assert without.returncode != 0
    assert "KEY" in without.stderr
    done = told(*config, KEY='s$ec"ret')
    assert done.returncode == 0, done.stderr
    server = json.loads(done.stdout)["services"]["server"]
    # Written out again, each `$` is doubled.
    command = [word.replace("$$", "$") for word in server["command"]]
    assert command[command.index("--api-key") :] == ["--api-key", 's$ec"ret', "--x", *words]
    assert server["environment"]["A"] == "$$HOME $${B}"

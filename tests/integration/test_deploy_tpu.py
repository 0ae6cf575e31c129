"""What `imgbuild deploy tpu-vm` and `gke-tpu` write, run by a real shell against stand-ins.

A stand-in of gcloud runs `ssh --command` with a shell, as a worker would; those of sudo and curl
pass on, that of docker runs the words behind the image, where they are a shell's, and notes them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builder.deploy.tpu import outputs
from builder.deploy.tpu import pool as pools
from builder.deploy.tpu import vm as vms
from builder.deploy.tpu.steps import script
from tests.unit.deployed import IMAGE
from tests.unit.test_deploy_tpu import VMS, WHERE, gke_of, served

_STORE = f"--object-store-memory={8 << 30}"
_NOTE = f"""\
#!{sys.executable}
import json, os, subprocess, sys
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(os.environ["NOTED"], "a") as file:
    print(json.dumps([name, *words]), file=file)
"""
_STANDINS = {
    "gcloud": """\
if words[:3] == ["secrets", "versions", "access"]:
    print("hf_secret")
if "--format=value(state.state)" in words:
    count = sum(1 for line in open(os.environ["NOTED"]) if "value(state.state)" in line)
    if count <= int(os.environ.get("MISSED", "0")):
        sys.exit(1)
    print(os.environ.get("STATE") or ("ACTIVE" if count > 1 else "WAITING_FOR_RESOURCES"))
elif "describe" in words:
    sys.exit("FOUND" not in os.environ)
remote = [word for word in words if word.startswith("--command=")]
if remote:
    sys.exit(subprocess.run(["sh", "-c", remote[0].removeprefix("--command=")]).returncode)
""",
    "sudo": """\
keep = words[0].startswith("--preserve-env")
sys.exit(subprocess.run(words[keep:]).returncode)
""",
    "curl": 'print("a:b:10.0.0.7,a:b:10.0.0.8")\n',
    "docker": """\
if words[0] == "run" and "sh" in words:
    sys.exit(subprocess.run(words[words.index("sh"):]).returncode)
if words[0] == "run":
    with open(os.environ["NOTED"], "a") as file:
        print(json.dumps(["token", os.environ.get("HF_TOKEN", "")]), file=file)
""",
    "ray": "",
    "vllm": "",
    "sleep": "",
    "kubectl": "",
}


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where stand-ins note what they were called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in _STANDINS.items():
        (folder / name).write_text(_NOTE + text)
        (folder / name).chmod(0o755)
    # Ray as the head's script asks it: three of four nodes, then all.
    (tmp_path / "ray.py").write_text(
        "asked = 0\n"
        "def init(address): assert address == 'auto'\n"
        "def nodes():\n"
        "    global asked\n"
        "    asked += 1\n"
        "    return [{'Alive': True}] * min(4, 2 + asked)\n"
    )
    (folder / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("NOTED", str(tmp_path / "noted"))
    return tmp_path / "noted"


def run(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", text], capture_output=True, text=True, timeout=60, check=False
    )


def calls(noted: Path, name: str) -> list[list[str]]:
    made = [json.loads(line) for line in noted.read_text().splitlines()]
    return [words[1:] for words in made if words[0] == name]


def vm_of(name: str, **more: Any) -> vms.Vm:
    cell_id, wishes = VMS[name]
    return vms.vm(served(cell_id), **{"image": IMAGE, **WHERE, **wishes, **more})


def test_a_server_on_one_host(noted: Path) -> None:
    wanted = vm_of("tpu-vm-one", env=('A=it\'s "$HOME" `id`\n$(id)',), arguments=("--x", "$(id) '"))
    told = run(outputs.script(served(), wanted))
    assert told.returncode == 0, told.stderr
    (started,) = [words for words in calls(noted, "docker") if words[0] == "run"]
    assert started[-2:] == ["--x", "$(id) '"]
    assert '--env=A=it\'s "$HOME" `id`\n$(id)' in started
    assert calls(noted, "token") == [["hf_secret"]]
    states = [words for words in calls(noted, "gcloud") if "--format=value(state.state)" in words]
    assert len(states) == 2
    verbs = [words[3] for words in calls(noted, "gcloud") if words[:2] == ["compute", "tpus"]]
    assert "delete" not in verbs


def test_a_request_that_has_failed_ends_the_script(
    noted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE", "FAILED")
    told = run(outputs.script(served(), vm_of("tpu-vm-one")))
    assert (told.returncode, told.stderr) == (1, "it is FAILED\n")
    assert calls(noted, "docker") == []


def verbs(noted: Path) -> list[str]:
    return [words[3] for words in calls(noted, "gcloud") if words[:2] == ["compute", "tpus"]]


@pytest.mark.parametrize("name", ["tpu-vm-one", "tpu-vm-jax"])
def test_who_runs_it_again_asks_for_no_second_vm(
    name: str, noted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_ = outputs.script(served(VMS[name][0]), vm_of(name))
    assert run(script_).returncode == 0
    assert verbs(noted)[:2] == ["describe", "create"]
    noted.unlink()
    monkeypatch.setenv("FOUND", "1")
    assert run(script_).returncode == 0
    assert verbs(noted)[0] == "describe"
    assert "create" not in verbs(noted)
    assert [words[0] for words in calls(noted, "docker")] == ["pull", "run"]


def test_a_wait_of_days_stands_a_bad_minute(noted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISSED", "19")
    told = run(outputs.script(served(), vm_of("tpu-vm-one")))
    assert told.returncode == 0, told.stderr
    assert len(calls(noted, "token")) == 1


def test_who_is_not_let_in_does_not_wait_for_ever(
    noted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISSED", "1000")
    told = run(outputs.script(served(), vm_of("tpu-vm-one")))
    assert told.returncode == 1
    assert verbs(noted).count("describe") == 21
    assert calls(noted, "docker") == []


def test_a_server_on_several_hosts(noted: Path) -> None:
    told = run(outputs.script(served(), vm_of("tpu-vm-several")))
    assert told.returncode == 0, told.stderr
    assert calls(noted, "ray") == [
        ["start", _STORE, "--head", "--port=6379"],
        ["health-check", "--address", "10.0.0.7:6379"],
        ["start", _STORE, "--address", "10.0.0.7:6379", "--block"],
    ]
    (server,) = calls(noted, "vllm")
    assert server[:3] == ["serve", "--model", "/model"]
    assert server[-2:] == ["--served-model-name", "it's $HOME"]


def test_hosts_of_a_slice_read_rays_token(noted: Path) -> None:
    wanted = vm_of("tpu-vm-several", ray_token="ray", hf_token="hub")
    told = run(outputs.script(served(), wanted))
    assert told.returncode == 0, told.stderr
    secrets = [words[-2] for words in calls(noted, "gcloud") if words[0] == "secrets"]
    assert secrets == ["--secret=hub", "--secret=ray"] * 2
    assert len(calls(noted, "vllm")) == 1
    assert calls(noted, "ray")[-1] == ["start", _STORE, "--address", "10.0.0.7:6379", "--block"]


def test_node_pools(noted: Path) -> None:
    image, wanted, pool = gke_of("gke-tpu-ironwood")
    told = run(script(pools.steps(wanted, pool), pools.says(image, wanted)))
    assert told.returncode == 0, told.stderr
    policy, nodes = calls(noted, "gcloud")
    assert policy[:4] == ["compute", "resource-policies", "create", "workload-policy"]
    assert nodes[:4] == ["container", "node-pools", "create", "vllm-0"]
    assert calls(noted, "kubectl") == []

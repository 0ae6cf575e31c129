"""The main job: cpu-vllm is built, and serves the computed tokens, in every form it comes in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.engines import host
from tests.integration.conftest import REPOSITORY, Imgbuild, engine

pytestmark = pytest.mark.engine
SERVED = ("health", "tokens", "stop")


def statuses(report: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in report["checks"]}


@pytest.mark.parametrize("name", ["buildah", pytest.param("docker", marks=pytest.mark.slow)])
def test_image_serves(name: str, imgbuild: Callable[..., Imgbuild]) -> None:
    engine(name)
    run = imgbuild(REPOSITORY)
    run("build", "--matrix", "cpu-vllm", "--engine", name)
    report = run("smoke", "--matrix", "cpu-vllm", "--engine", name, "--json").json()[0]
    found = statuses(report)
    assert report["passed"]
    assert [found[name] for name in SERVED] == ["passed"] * 3
    smi = next(check for check in report["checks"] if check["name"] == "nvidia-smi")
    assert smi["status"] != "skipped" or smi["detail"] in {"no GPU", "cpu-vllm is not for GPUs"}


def test_sif_from_definition_serves(imgbuild: Callable[..., Imgbuild], tmp_path: Path) -> None:
    engine("apptainer")
    run = imgbuild(REPOSITORY)
    run("build", "--matrix", "cpu-vllm", "--engine", "apptainer", "--output", str(tmp_path))
    sif = tmp_path / "cpu-vllm.sif"
    report = run("smoke", "--matrix", "cpu-vllm", "--image", str(sif), "--json").json()[0]
    assert [statuses(report)[name] for name in SERVED] == ["passed"] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="already runs as an ordinary user")
def test_sif_from_image_serves_an_ordinary_user(imgbuild: Callable[..., Imgbuild]) -> None:
    """As on a cluster: somebody without rights types the command, with nothing but the file."""
    engine("buildah")
    engine("apptainer")
    run = imgbuild(REPOSITORY)
    run("build", "--matrix", "cpu-vllm", "--engine", "buildah")
    # nobody (65534): Apptainer insists on a passwd entry. pytest's own folders are closed to it.
    folder = Path(tempfile.mkdtemp(prefix="imgbuild-user-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        run("sif", "--matrix", "cpu-vllm", "--engine", "buildah", "--output", str(folder))
        golden = folder / "golden.json"
        runtime = REPOSITORY / "builder/runtime"
        script = [sys.executable, str(runtime / "tinymodel.py"), str(folder / "model"), "--json"]
        golden.write_text(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
        port = host.free_port()
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        command = ["apptainer", "run", "--containall", "--no-home"]
        command += ["--env", "VLLM_CPU_KVCACHE_SPACE=1", "--bind", f"{folder}/model:/model:ro"]
        command += [str(folder / "cpu-vllm.sif"), "--model", "/model", "--dtype", "float32"]
        command += ["--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "8"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*user, *command, "--port", str(port)],
                cwd="/",
                env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for_health(f"{url}/health", process, folder / "log")
            client = [sys.executable, str(runtime / "client.py"), "--url", url]
            subprocess.run([*client, "--golden", str(golden)], check=True)
            process.terminate()
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    finally:
        shutil.rmtree(folder)


def wait_for_health(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 400
    while True:
        try:
            if opener.open(url, timeout=5).status == 200:
                return
        except OSError:
            pass
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)

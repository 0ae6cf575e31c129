"""Wrapped images, over stand-ins: a registry on 127.0.0.1 serves small images under the vendors'
names, through the site's mirrors. What is shown is how they are wrapped, and nothing of theirs."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import engines
from builder.engines.apptainer import Apptainer
from builder.engines.base import Run
from builder.smoke import contract
from tests.integration.conftest import REPOSITORY, Imgbuild, engine
from tests.integration.registryserver import RegistryServer

pytestmark = pytest.mark.engine
STANDIN = Path(__file__).parent / "standins" / "server.py"
# Upstream's reference -> commands that make of a Debian with Python what imgbuild counts on there.
IMAGES = {
    "ghcr.io/huggingface/text-generation-inference:3.3.7": (
        "mkdir -p /usr/src/.venv/bin && ln -s /usr/bin/python3 /usr/src/.venv/bin/python3 &&"
        " install -m 755 /server.py /usr/local/bin/text-generation-launcher &&"
        " printf '#!/bin/sh\\nexec text-generation-launcher \"$@\"\\n' > /tgi-entrypoint.sh &&"
        " chmod 755 /tgi-entrypoint.sh"
    ),
    # As Ubuntu 24.04, which it stands on, it has given uid 1000 away.
    "nvcr.io/nvidia/tensorrt-llm/release:1.2.1": (
        "install -m 755 /server.py /usr/local/bin/trtllm-serve &&"
        " useradd --uid 1000 --create-home ubuntu"
    ),
    "nvcr.io/nvidia/pytorch:25.12-py3": (
        "rm -r /opt/venv && folder=/usr/local/lib/python3.11/dist-packages/torch &&"
        " mkdir -p $folder && echo '__version__ = \"2.10.0a0+standin\"' > $folder/__init__.py &&"
        " mkdir /etc/pip && echo uv==0.0.1 > /etc/pip/constraint.txt"
    ),
}
# What makes of the small project one whose cell goes onto the image above.
VENDOR = (
    (
        "stacks:\n",
        """  ngc25.12:
    title: a stand-in for NGC PyTorch
    family: debian
    python: "3.11"
    packages: [ca-certificates, python3]
    compiler: {packages: []}
    init: tini
    glibc: "2.36"
    image: nvcr.io/nvidia/pytorch:25.12-py3
    brings: [torch]
    end_of_life: 2029-05-31
    source: none
stacks:
""",
    ),
    ("cells: [cpu-files]", "cells: [cpu-files-ngc25.12]"),
    (
        "            accelerator: cpu\n",
        "            accelerator: cpu\n            torch_of: ngc25.12\n",
    ),
    ("        module: packaging\n", "        module: torch\n"),
)
# Cell -> the options that its server knows, and one that it does not.
CELLS = {
    "cuda12.4-tgi": (
        ("--model-id", "/model", "--hostname", "{host}", "--port", "{port}"),
        ("--model", "/model"),
    ),
    "cuda13.0-tensorrt-llm": (
        ("/model", "--host", "{host}", "--port", "{port}"),
        ("/model", "--max-seq-len", "1"),
    ),
}
# Checks of the contract that ask for what no stand-in has: here the distribution `tensorrt_llm`.
LACKING = {"cuda13.0-tensorrt-llm": {"version"}}


@pytest.fixture(scope="module")
def mirrored(
    tmp_path_factory: pytest.TempPathFactory, plain_registry: RegistryServer
) -> dict[str, str]:
    """The environment of a site that has copies of the vendors' images: stand-ins."""
    engine("buildah")
    folder = tmp_path_factory.mktemp("standins")
    project = folder / "project"
    shutil.copytree(Path(__file__).parent / "project", project)
    run = Imgbuild(project, {})
    (built,) = run("build", "--engine", "buildah", "--json").json()

    def buildah(*args: str) -> str:
        done = subprocess.run(
            ["buildah", *args], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    lines = []
    for reference, commands in IMAGES.items():
        host, _, rest = reference.partition("/")
        container = buildah("from", "--pull=never", built["image"]["reference"])
        tree = Path(buildah("mount", container))
        shutil.copy(STANDIN, tree / "server.py")
        for command in ("userdel --remove imgbuild; true", commands):
            subprocess.run(["chroot", tree, "sh", "-c", command], check=True, capture_output=True)
        buildah("umount", container)
        held = ("--env", "PIP_CONSTRAINT=/etc/pip/constraint.txt") if "pytorch" in rest else ()
        buildah("config", "--user", "0:0", "--entrypoint", "[]", *held, container)
        buildah("commit", "--rm", container, f"localhost/standin/{rest}")
        target = f"docker://{plain_registry.host}/{rest}"
        buildah("push", "--tls-verify=false", f"localhost/standin/{rest}", target)
        buildah("rmi", f"localhost/standin/{rest}")
        lines.append(
            f'[[registry]]\nprefix = "{host}"\nlocation = "{host}"\n'
            f'[[registry.mirror]]\nlocation = "{plain_registry.host}"\ninsecure = true\n'
        )
    conf = folder / "registries.conf"
    conf.write_text("\n".join(lines))
    return {"CONTAINERS_REGISTRIES_CONF": str(conf)}


@pytest.fixture(params=["buildah", "docker", "apptainer"])
def name(request: pytest.FixtureRequest) -> str:
    engine(request.param)
    return str(request.param)


@pytest.mark.parametrize("cell", CELLS)
def test_a_wrapped_cell_is_built_and_starts(
    cell: str,
    name: str,
    mirrored: dict[str, str],
    imgbuild: Callable[..., Imgbuild],
    tmp_path: Path,
) -> None:
    run = imgbuild(REPOSITORY, **mirrored)
    known, unknown = CELLS[cell]
    output = ("--output", str(tmp_path)) if name == "apptainer" else ()
    options = ("--matrix", cell, "--engine", name)
    (built,) = run("build", *options, *output, "--refresh-base", "--json").json()
    image = built["image"]["reference"]
    try:
        asked = ("smoke", *options, "--image", image, "--static", "--json")
        (report,) = run(*asked).json()
        found = {check["name"]: check["status"] for check in report["checks"]}
        assert (found["user"], found["import"], found["help"]) == ("passed", "skipped", "passed")
        lacking = LACKING.get(cell, set())
        (report,) = run(*asked, "--contract", code=bool(lacking)).json()
        held = {check["name"] for check in report["checks"] if check["status"] == "passed"}
        assert held == {check["name"] for check in report["checks"]} - lacking
        assert held >= {of_all for of_all, _ in contract.ALL}
        made = Apptainer(tmp_path) if name == "apptainer" else engines.choose(name)
        here = {"IMGBUILD_PREFLIGHT": "off"}  # it has no GPU
        refused = made.start(Run(image=image, args=unknown, port=8000, env=here))
        try:
            assert ended(refused) == 2
            assert "unrecognized arguments" in refused.log()
        finally:
            refused.remove()
        serving = made.start(Run(image=image, args=known, port=8000, env=here))
        try:
            assert answers(f"{serving.url}/health")
        finally:
            serving.remove()
    finally:
        run("clean", *options, *output, "--all")


def test_a_server_that_is_told_no_host_is_reached_through_a_published_port(
    mirrored: dict[str, str], imgbuild: Callable[..., Imgbuild]
) -> None:
    """trtllm-serve's own default, and the stand-in's, is loopback."""
    engine("docker")
    run = imgbuild(REPOSITORY, **mirrored)
    options = ("--matrix", "cuda13.0-tensorrt-llm", "--engine", "docker")
    (built,) = run("build", *options, "--refresh-base", "--json").json()
    made = engines.choose("docker")
    serving = made.start(
        Run(
            image=built["image"]["reference"],
            args=("/model", "--port", "{port}"),
            port=8000,
            env={"IMGBUILD_PREFLIGHT": "off"},  # it has no GPU
        )
    )
    try:
        assert answers(f"{serving.url}/health")
    finally:
        serving.remove()
        run("clean", *options, "--all")


def test_a_vendors_pytorch_is_what_the_image_has(
    name: str,
    project: Path,
    mirrored: dict[str, str],
    imgbuild: Callable[..., Imgbuild],
) -> None:
    file = project / "matrix.yaml"
    text = file.read_text()
    for old, new in VENDOR:
        assert old in text
        text = text.replace(old, new, 1)
    file.write_text(text)
    run = imgbuild(project, **mirrored)
    run("lock")
    (built,) = run("build", "--engine", name, "--refresh-base", "--json").json()
    reference = built["image"]["reference"]
    made = Apptainer(project / "dist") if name == "apptainer" else engines.choose(name)
    if name == "apptainer":
        reference = str(project / reference)
    code = "import packaging, torch; print(packaging.__file__, torch.__version__)"
    told = made.call(reference, ("python3", "-c", code), {}, gpus=False).stdout
    assert told.startswith("/opt/venv/")
    assert told.endswith("2.10.0a0+standin\n")
    run("clean", "--all", "--engine", name)


def ended(container: engines.base.Container) -> int | None:
    deadline = time.monotonic() + 60
    while container.exit_code() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return container.exit_code()


def answers(url: str) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            time.sleep(0.2)
    return False

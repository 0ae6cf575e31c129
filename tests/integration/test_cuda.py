"""Whole CUDA images with both engines, proven as far as a host without a GPU can."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from tests.integration.conftest import REPOSITORY, Imgbuild, engine

pytestmark = [pytest.mark.engine, pytest.mark.slow]
FREE_GB = 30  # one image, its build cache and uv's cache


@pytest.mark.parametrize("name", ["buildah", "docker"])
@pytest.mark.parametrize("cell", ["cuda12.2-vllm", "cuda13.0-vllm"])
def test_image_builds_and_imports(name: str, cell: str, imgbuild: Callable[..., Imgbuild]) -> None:
    engine(name)
    free = shutil.disk_usage("/var").free / 1e9
    assert free > FREE_GB, f"{free:.0f} GB free; a CUDA image takes {FREE_GB} GB while it builds"
    run = imgbuild(REPOSITORY)
    run("build", "--matrix", cell, "--engine", name)
    report = run("smoke", "--matrix", cell, "--engine", name, "--static", "--json").json()[0]
    found = {check["name"]: check["status"] for check in report["checks"]}
    assert [found[check] for check in ("user", "import", "gpu-code", "help")] == ["passed"] * 4
    # A GPU check that cannot run must not look like one that passed.
    assert found["nvidia-smi"] in {"passed", "skipped"}
    run("clean", "--all", "--matrix", cell, "--engine", name)

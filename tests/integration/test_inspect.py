"""`imgbuild inspect` of what real engines hand out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Imgbuild, engine
from tests.unit.elves import CUBIN, Library, container, entry

pytestmark = pytest.mark.engine
CODE = Library([container(entry(CUBIN, 90, 300_000))]).made()
DOCKERFILE = "FROM scratch\nCOPY old /lib/kernels.so\nCOPY new /lib/kernels.so\nCOPY new /copy.so\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """Three layers: the second hides the first's file, the third has it once more."""
    (tmp_path / "old").write_bytes(b"old" * 1000)
    (tmp_path / "new").write_bytes(CODE)
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    return tmp_path


def run(*args: str | Path) -> None:
    subprocess.run(args, check=True, capture_output=True, timeout=120)


def check(found: dict[str, Any]) -> None:
    assert found["size"] == 2 * len(CODE)
    assert [row["hidden"] for row in found["layers"]] == [3000, 0, 0]
    assert [row["size"] for row in found["layers"]] == [3000, len(CODE), len(CODE)]
    assert found["duplicates"][0]["wasted"] == len(CODE)
    assert found["gpu"]["failing"] == {"90": []}


@pytest.mark.parametrize("name", ["docker", "buildah"])
def test_an_image_of_an_engine(
    name: str, context: Path, tmp_path: Path, imgbuild: Callable[..., Imgbuild]
) -> None:
    engine(name)
    reference = f"localhost/imgbuild-inspect:{os.getpid()}"
    client = "docker" if name == "docker" else "podman"
    build = (name, "build", *(["--layers"] if name == "buildah" else []))
    run(*build, "--tag", reference, context)
    try:
        command = imgbuild(tmp_path)
        found = command("inspect", reference, "--engine", name, "--sm", "90", "--json").json()
        check(found)
        if name == "docker":
            assert "COPY old" in found["layers"][0]["created_by"]
        told = command("inspect", reference, "--engine", name, "--sm", "120", code=1)
        assert "no code for sm_120 in copy.so, lib/kernels.so" in told.stderr
        archive = tmp_path / "saved.tar"
        run(client, "save", "--output", archive, reference)
        check(command("inspect", str(archive), "--sm", "90", "--json").json())
    finally:
        run(client, "rmi", reference)


def test_a_sif_is_read_without_being_unpacked(
    tmp_path: Path, imgbuild: Callable[..., Imgbuild]
) -> None:
    engine("apptainer")
    root = tmp_path / "root"
    (root / "lib").mkdir(parents=True)
    (root / "lib/kernels one.so").write_bytes(CODE)
    (root / "link").symlink_to("lib")
    sif = tmp_path / "made.sif"
    run("apptainer", "build", sif, root)
    found = imgbuild(tmp_path)("inspect", str(sif), "--sm", "90", "--json").json()
    (library,) = found["gpu"]["libraries"]
    assert library["path"] == "lib/kernels one.so"
    assert library["cubins"] == ["sm_90"]
    assert 0 < found["compressed"]["stored"] < sif.stat().st_size

"""An installed wheel works from any folder, with nothing of the repository in sight."""

from __future__ import annotations

import filecmp
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.integration.conftest import REPOSITORY


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel, as an installer would leave it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    target = folder / "site"
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    return target


def run(installed: Path, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    # -S leaves out the editable install; its dependencies come back by PYTHONPATH.
    packages = [path for path in sys.path if path.endswith("site-packages")]
    paths = os.pathsep.join([str(installed), *packages])
    return subprocess.run(
        [sys.executable, "-S", "-m", "builder.cli", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def test_renders_the_shipped_cells_anywhere(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "render")
    assert done.returncode == 0, done.stderr
    for folder in (tmp_path / "images").iterdir():
        same = filecmp.dircmp(folder, REPOSITORY / "images" / folder.name)
        assert not same.diff_files
        assert not same.left_only
    assert run(installed, tmp_path, "lock", "--check").returncode == 0


def test_it_brings_the_script_that_installs_engines(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "doctor")
    assert done.returncode == 0, done.stderr
    for command in re.findall(r"bash (\S+) (?:install|start) \w+", done.stdout):
        assert Path(command) == installed / "builder/_data/scripts/engines.sh"
    script = installed / "builder/_data/scripts/engines.sh"
    shown = subprocess.run(["bash", script, "status"], capture_output=True, text=True, check=True)
    assert "buildah" in shown.stdout


def test_a_projects_own_files_hide_the_shipped(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    shipped = (REPOSITORY / "templates/Dockerfile.j2").read_text()
    (tmp_path / "templates/Dockerfile.j2").write_text(shipped + "# ours\n")
    assert run(installed, tmp_path, "render", "--matrix", "cpu-vllm").returncode == 0
    assert (tmp_path / "images/cpu-vllm/Dockerfile").read_text().endswith("# ours\n")
    (tmp_path / "matrix.yaml").write_text("schema: 1\n")
    done = run(installed, tmp_path, "render")
    assert done.returncode == 2
    assert done.stderr.startswith("imgbuild: matrix.yaml:1: the file lacks the key")

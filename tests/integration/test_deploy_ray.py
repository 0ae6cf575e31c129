"""The script of `imgbuild deploy ray`, as far as it runs without containers, by a real shell."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from builder import deploy
from tests.unit.deployed import IMAGE, served


def token(folder: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    wishes: dict[str, Any] = {"model": "/models/mine", "image": IMAGE, "head": "10.0.0.1"}
    image = served("cuda13.0-ray")
    script = tmp_path / "ray.sh"
    script.write_text(
        deploy.ray_script(image, deploy.hosts(image, token_folder=str(folder), **wishes))
    )
    return subprocess.run(
        ["sh", str(script), "token"], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_token_is_made_once_in_a_folder_that_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "a/to ken"
    for _ in range(2):
        assert token(folder, tmp_path).returncode == 0
    made = (folder / "token").read_text()
    assert len(made) == 64
    assert int(made, 16)
    assert token(folder, tmp_path).returncode == 0
    assert (folder / "token").read_text() == made
    modes = [path.stat().st_mode & 0o777 for path in (folder, folder / "token")]
    assert modes == [0o700, 0o444]


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_a_folder_that_is_open_stays_as_it_is(tmp_path: Path, mode: int) -> None:
    """It may be /etc: a mode of somebody else's is not ours to change."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    done = token(folder, tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"{folder} is open to others; take one for the token alone (--token-folder), or close it\n"
    )
    assert folder.stat().st_mode & 0o777 == mode
    assert not [*folder.iterdir()]


def test_a_part_that_is_none_is_told(tmp_path: Path) -> None:
    assert token(tmp_path / "a", tmp_path).returncode == 0
    done = subprocess.run(
        ["sh", str(tmp_path / "ray.sh"), "x"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("one of: token head worker-1 status server")

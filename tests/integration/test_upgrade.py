"""A release of a framework moves its own layers, and none below."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import Imgbuild, engine

pytestmark = pytest.mark.engine
INSPECT = {
    "docker": ("docker", "image", "inspect"),
    "buildah": ("buildah", "inspect", "--type", "image"),
}


@pytest.mark.parametrize("name", INSPECT)
def test_what_two_releases_have_in_common_is_the_same_layer(
    name: str, project: Path, imgbuild: Callable[..., Imgbuild]
) -> None:
    """Each is installed anew, at another time: the locks are other files."""
    engine(name)
    run = imgbuild(project)

    def layers() -> list[str]:
        run("lock")
        (built,) = run("build", "--engine", name, "--json").json()
        command = [*INSPECT[name], built["image"]["reference"]]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        about = json.loads(shown.stdout)
        if name == "docker":
            return list(about[0]["RootFS"]["Layers"])
        return list(about["OCIv1"]["rootfs"]["diff_ids"])

    try:
        old = layers()
        file = project / "matrix.yaml"
        text = file.read_text()
        assert text.count("packaging==25.0") == text.count('version: "25.0"') == 1
        text = text.replace("packaging==25.0", "packaging==24.2")
        file.write_text(text.replace('version: "25.0"', 'version: "24.2"'))
        new = layers()
    finally:
        run("clean", "--all", "--engine", name)
    assert len(old) == len(new)
    same = [before == after for before, after in zip(old, new, strict=True)]
    # The base, packages of the distribution, and the wheel that both want; then `packaging`.
    assert same[:4] == [True, True, True, False]

"""Libraries of the index, slimmed, serve GPUs that are not here, as cuobjdump reads them too."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench import slim_static
from builder.runtime.slim import one
from tests.integration.test_gpu_code import CLOSURES, downloaded
from tests.oracle.unchanged import Library

# A wheel of 150 MB: make test-full.
pytestmark = pytest.mark.slow
SMS = [80, 89, 90]
# The one has a __nv_relfatbin, the other a section that cuobjdump does not look into.
WHEELS = {"nvidia-nvshmem-cu13": "libnvshmem_host", "nvidia-cusparselt-cu13": "libcusparseLt"}


@pytest.fixture(scope="session")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cuobjdump."""
    folder = tmp_path_factory.mktemp("cuobjdump")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:",
         f"--target={folder}", "nvidia-cuda-cuobjdump==13.5.37"],
        check=True,
        timeout=300,
    )  # fmt: skip
    (found,) = folder.rglob("bin/cuobjdump")
    return found


@pytest.mark.parametrize("distribution", WHEELS)
def test_what_each_gpu_takes_is_unchanged(distribution: str, tool: Path, tmp_path: Path) -> None:
    closure = next(one for name, one in CLOSURES.items() if name.startswith("vllm-cu130-"))
    wheel = downloaded(closure, distribution, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if f"/{WHEELS[distribution]}.so" in name]
        library = Path(archive.extract(name, tmp_path))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    told = slim_static.proven(library, tool, SMS, scratch)
    for total in told.values():
        assert total["differing"] == total["refused"] == []
        assert total["libraries"] == total["readelf"] == total["loads"] == 1
        assert sum(total["agreed"].values()) == total["containers"] > 20
        assert total["agreed"]["cubin"] > 20
    assert not list(scratch.iterdir())
    # The proof can fail: what was slimmed for one GPU does not serve another.
    other = scratch / library.name
    slim_static.linked(library, other)
    one.slim(str(other), one.Options((90,), uncovered=one.EMPTY))
    whole = Library(tool, library, scratch)
    assert whole.compared(other, 90).differing == []
    assert len(whole.compared(other, 80).differing) > 20

"""The SMs that matrix.yaml claims are those that the locked wheels hold machine code for."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from builder import lock, matrix
from builder.facts import Accelerator
from builder.matrix.rules import runs_on
from builder.model import BaseKind, Closure
from builder.project import Project
from tests.integration.conftest import REPOSITORY
from tests.oracle import fatbin

# A whole torch wheel each: make test-full.
pytestmark = pytest.mark.slow
PROJECT = Project.find(REPOSITORY / "matrix.yaml")
MATRIX = matrix.load(PROJECT.matrix_file)
CLOSURES: dict[str, Closure] = {
    f"{closure.framework_name}-{closure.build.name}-{closure.release.version}": closure
    for cell in matrix.select(MATRIX, None)
    if cell.stack.accelerator is Accelerator.CUDA
    for closure in [cell.closure(BaseKind.REGISTRY)]
    if closure and not closure.build.torch_of  # its PyTorch is in an image, not in a wheel
}
# Wheel -> its libraries, and the key of matrix.yaml that speaks of their code.
LIBRARIES = {
    "torch": ("sms", r"torch/lib/libtorch_cuda\.so"),
    "vllm": ("kernel_sms", r"vllm/(_C|_moe_C)(_stable_libtorch)?\.abi3\.so"),
    "sgl-kernel": ("kernel_sms", r"sgl_kernel/sm\d+/common_ops\.abi3\.so"),
    "sglang-kernel": ("kernel_sms", r"sgl_kernel/sm\d+/common_ops\.abi3\.so"),
}


@pytest.mark.parametrize("name", CLOSURES)
def test_claims_are_what_the_wheels_hold(name: str, tmp_path: Path) -> None:
    """As far as any GPU of the matrix can tell: wheels may hold some code for one more SM."""
    closure = CLOSURES[name]
    pins = lock.read(PROJECT, MATRIX, closure).pins
    found: dict[str, list[set[str]]] = {"sms": [], "kernel_sms": []}
    for distribution in LIBRARIES.keys() & pins.keys():
        key, pattern = LIBRARIES[distribution]
        wheel = downloaded(closure, distribution, tmp_path)
        with zipfile.ZipFile(wheel) as archive:
            libraries = [name for name in archive.namelist() if re.fullmatch(pattern, name)]
            found[key] += [fatbin.sms(Path(archive.extract(one, tmp_path))) for one in libraries]
        wheel.unlink()
    if "sglang" in pins:  # one library a family of GPUs: what the first lacks, the next has
        found["kernel_sms"] = [set().union(*found["kernel_sms"])]
    assert found["sms"]
    assert bool(found["kernel_sms"]) == bool(closure.build.kernel_sms)
    for key, libraries_sms in found.items():
        claimed = getattr(closure.build, key)
        for sms in libraries_sms:
            differ = [
                gpu
                for gpu, facts in MATRIX.gpus.items()
                if runs_on(claimed, facts.sm) != runs_on(sms, facts.sm)
            ]
            assert not differ, f"{name} has {sorted(sms)}, {key} says {claimed}"


def downloaded(closure: Closure, distribution: str, folder: Path) -> Path:
    """The wheel that the lock pins, hash and all."""
    for layer in lock.read(PROJECT, MATRIX, closure).layers:
        block = re.search(rf"^{distribution}==.*\n(?:    .*\n)+", layer.text, re.MULTILINE)
        if block:
            (folder / "one.txt").write_text(block[0])
            break
    else:
        raise AssertionError(f"{closure.id} does not pin {distribution}")
    major, minor = closure.glibc.split(".")
    floors = [f"manylinux_{major}_{floor}" for floor in range(17, int(minor) + 1)]
    # pip does not know that manylinux2014 is 2.17 under its first name.
    platforms = [f"--platform={tag}_{closure.machine}" for tag in ("manylinux2014", *floors)]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
         "--only-binary=:all:", "--implementation=cp", f"--python-version={closure.python}",
         *platforms, f"--dest={folder}", f"--requirement={folder / 'one.txt'}"],
        check=True,
        capture_output=True,
        timeout=900,
    )  # fmt: skip
    (wheel,) = folder.glob(f"{distribution.replace('-', '_')}-*.whl")
    return wheel

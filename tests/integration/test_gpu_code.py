"""The SMs that matrix.yaml claims are those that the locked wheels hold machine code for."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from builder import lock, matrix
from builder.matrix.rules import runs_on
from builder.model import Accelerator, BaseKind, Closure
from builder.project import Project
from tests.integration.conftest import REPOSITORY
from tests.oracle import fatbin

# A whole torch wheel each: make test-full.
pytestmark = pytest.mark.slow
PROJECT = Project.find(REPOSITORY / "matrix.yaml")
MATRIX = matrix.load(PROJECT.matrix_file)
BUILDS: dict[str, Closure] = {
    closure.build.name: closure
    for cell in matrix.select(MATRIX, None)
    if cell.stack.accelerator is Accelerator.CUDA
    for closure in [cell.closure(BaseKind.BOOTSTRAP)]
}
# Library -> the key of matrix.yaml that speaks of it.
LIBRARIES = {
    "torch/lib/libtorch_cuda.so": "sms",
    "vllm/_C.abi3.so": "kernel_sms",
    "vllm/_C_stable_libtorch.abi3.so": "kernel_sms",
    "vllm/_moe_C.abi3.so": "kernel_sms",
    "vllm/_moe_C_stable_libtorch.abi3.so": "kernel_sms",
}


@pytest.mark.parametrize("name", BUILDS)
def test_claims_are_what_the_wheels_hold(name: str, tmp_path: Path) -> None:
    """As far as any GPU of the matrix can tell: wheels may hold some code for one more SM."""
    closure = BUILDS[name]
    seen = set()
    for distribution in ("torch", "vllm"):
        with zipfile.ZipFile(downloaded(closure, distribution, tmp_path)) as wheel:
            for library in LIBRARIES.keys() & set(wheel.namelist()):
                found = fatbin.sms(Path(wheel.extract(library, tmp_path)))
                key = LIBRARIES[library]
                claimed = getattr(closure.build, key)
                differ = [
                    gpu
                    for gpu, facts in MATRIX.gpus.items()
                    if runs_on(claimed, facts.sm) != runs_on(found, facts.sm)
                ]
                assert not differ, f"{library} has {sorted(found)}, {key} says {claimed}"
                seen.add(key)
    assert seen == {"sms", "kernel_sms"}


def downloaded(closure: Closure, distribution: str, folder: Path) -> Path:
    """The wheel that the lock pins, hash and all."""
    for layer in lock.read(PROJECT, MATRIX, closure).layers:
        block = re.search(rf"^{distribution}==.*\n(?:    .*\n)+", layer.text, re.MULTILINE)
        if block:
            (folder / "one.txt").write_text(block[0])
            break
    else:
        raise AssertionError(f"{closure.id} does not pin {distribution}")
    major, minor = closure.release.glibc.split(".")
    platforms = [
        f"--platform=manylinux_{major}_{floor}_x86_64" for floor in range(17, int(minor) + 1)
    ]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
         "--only-binary=:all:", "--implementation=cp", f"--python-version={closure.python}",
         *platforms, f"--dest={folder}", f"--requirement={folder / 'one.txt'}"],
        check=True,
        capture_output=True,
        timeout=900,
    )  # fmt: skip
    (wheel,) = folder.glob(f"{distribution}-*.whl")
    return wheel

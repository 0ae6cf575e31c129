"""What a server's first start would compile, compiled while the image is built.

    ready.py --sm 9.0 MODULE [MODULE ...]

Runs with the environment's Python. FlashInfer's sampler goes where FlashInfer's own ahead-of-time
builds put it (flashinfer/jit/env.py, FLASHINFER_AOT_DIR): it took 108 s of a start on an H100 host
of 16 cores. Bytecode is made of what these modules import, and no more: a sixth of a closure's
modules. It goes by the source's content and is never looked at again (PEP 552, unchecked), so that
the same source gives the same bytes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Sequence


def main(arguments: Sequence[str]) -> int:
    """Compile; returns the exit code. An error of what is imported or compiled ends it."""
    parser = argparse.ArgumentParser(prog="ready", description=__doc__.partition("\n")[0])
    parser.add_argument("--sm", required=True, help="the GPU's compute capability, as 9.0")
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    given = parser.parse_args(arguments)
    # The environment's programs, as ninja, are on the path of who starts the image, not of builds.
    os.environ["PATH"] = os.pathsep.join((os.path.join(sys.prefix, "bin"), os.environ["PATH"]))
    if importlib.util.find_spec("flashinfer"):
        sampler(given.sm)
    bytecode(imported(given.modules))
    return 0


def sampler(sm: str) -> None:
    """Compile FlashInfer's sampler for a GPU."""
    with tempfile.TemporaryDirectory() as work:
        os.environ.update(FLASHINFER_CUDA_ARCH_LIST=sm, FLASHINFER_WORKSPACE_BASE=work)
        env = importlib.import_module("flashinfer.jit.env")
        made = importlib.import_module("flashinfer.jit.sampling").gen_sampling_module()
        made.build(False)
        place = os.path.join(str(env.FLASHINFER_AOT_DIR), made.name)
        os.makedirs(place, exist_ok=True)
        shutil.copy(str(made.jit_library_path), place)


def imported(modules: Sequence[str]) -> List[str]:
    """Source files below the environment that these modules import, and their own."""
    for name in modules:
        importlib.import_module(name)
    files = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
    below = sys.prefix + os.sep
    return sorted({file for file in files if file.endswith(".py") and file.startswith(below)})


def bytecode(files: Sequence[str]) -> None:
    """Compile them in a process of its own, in which nothing else was imported."""
    flags = ("-q", "--invalidation-mode", "unchecked-hash", "-i", "-")
    subprocess.run(
        [sys.executable, "-ES", "-m", "compileall", *flags],
        input="\n".join(files), text=True, check=True,
    )  # fmt: skip


if __name__ == "__main__":
    del sys.path[0]  # this folder: what is imported means its own modules of these names
    sys.exit(main(sys.argv[1:]))

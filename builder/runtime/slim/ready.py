"""What a server's first start would compile, compiled while the image is built.

    ready.py --sm 9.0 --seeds FOLDER MODULE [MODULE ...]

Runs with the environment's Python. FlashInfer's sampler goes where FlashInfer's own ahead-of-time
builds put it (flashinfer/jit/env.py, FLASHINFER_AOT_DIR): it took 108 s of a start on an H100 host
of 16 cores. Bytecode is made of what these modules import, and no more: a sixth of a closure's
modules. It goes by the source's content and is never looked at again (PEP 552, unchecked), so that
the same source gives the same bytes. What vLLM asks each model's class it caches in files, which
starts copy from FOLDER (builder/runtime/seeds.py): with none it starts a process that imports the
model, 13 s on that host.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import logging
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
    parser.add_argument("--seeds", required=True, help="where caches go that starts copy")
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    given = parser.parse_args(arguments)
    # The environment's programs, as ninja, are on the path of who starts the image, not of builds.
    # What other processes import meanwhile they would write as they see it then.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["PATH"] = os.pathsep.join((os.path.join(sys.prefix, "bin"), os.environ["PATH"]))
    if importlib.util.find_spec("flashinfer"):
        sampler(given.sm)
    bytecode(imported(given.modules))
    if importlib.util.find_spec("vllm"):
        models(os.path.join(given.seeds, "vllm"))
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


def models(folder: str) -> None:
    """Have vLLM write what it caches of each model's class (ModelRegistry's `modelinfos`).

    A model that does not import, since it needs a package or a GPU, is left to the start.
    """
    registry = importlib.import_module("vllm.model_executor.models.registry")
    # Else it starts a process for each of 390 models.
    setattr(registry, "_run_in_subprocess", lambda asked: asked())  # noqa: B010 - it is a module
    with tempfile.TemporaryDirectory() as work:
        os.environ["VLLM_CACHE_ROOT"] = work
        logging.disable(logging.CRITICAL)  # of models that say what they lack
        for one in registry.ModelRegistry.models.values():
            with contextlib.suppress(Exception):
                one.inspect_model_cls()
        made = os.path.join(work, "modelinfos")
        names = sorted(os.listdir(made))
        digest = hashlib.sha256()
        for name in names:
            with open(os.path.join(made, name), "rb") as file:
                digest.update(file.read())
        target = os.path.join(folder, f"modelinfos.{digest.hexdigest()[:12]}")
        os.makedirs(target)
        for name in names:
            shutil.copyfile(os.path.join(made, name), os.path.join(target, name))


def imported(modules: Sequence[str]) -> List[str]:
    """Source files below the environment that these modules import, and their own."""
    for name in modules:
        importlib.import_module(name)
    files = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
    below = sys.prefix + os.sep
    return sorted({file for file in files if file.endswith(".py") and file.startswith(below)})


def bytecode(files: Sequence[str]) -> None:
    """Compile them anew in a process of its own, in which nothing else was imported."""
    flags = ("-q", "-f", "--invalidation-mode", "unchecked-hash", "-i", "-")
    subprocess.run(
        [sys.executable, "-ES", "-m", "compileall", *flags],
        input="\n".join(files), text=True, check=True,
    )  # fmt: skip


if __name__ == "__main__":
    del sys.path[0]  # this folder: what is imported means its own modules of these names
    sys.exit(main(sys.argv[1:]))

"""Files that are neither programs nor shared objects: what each is, so that who named it knows."""

from __future__ import annotations

from . import elf, fatbin, frames, rewrite

_LINKED = "which is read where programs are linked and not where they run"
_ALONE = "GPU code in a file of its own"


def why(path: str) -> str:
    """Why a file that `one.is_ours` does not know stays. Raises OSError."""
    with open(path, "rb") as file:
        head = file.read(elf.HEADER)
    machine = int.from_bytes(head[18:20], "little")
    cases = (
        (head.startswith(b"!<arch>\n"), f"a static library, {_LINKED}"),
        (head.startswith(fatbin.MAGIC), f"{_ALONE}: what takes it may look for any of it"),
        (not elf.is_elf(head), "no program and no shared object of a 64-bit system"),
        (machine == frames.CUDA, f"{_ALONE}, for one GPU"),
        (elf.kind_of(head) == elf.REL, f"an object file, {_LINKED}"),
        (machine not in rewrite.PAGES, f"machine {machine}: the size of its pages is not known"),
        (True, "neither a program nor a shared object"),
    )
    return next(text for holds, text in cases if holds)

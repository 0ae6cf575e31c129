"""Which image it is that was proven: labels, sizes, hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.gpu.containers import output

CONTENT = "io.imgbuild.content"  # builder.engines.base has it, and needs packages
LABELS = (  # of an image's own, those that a proof keeps
    "io.imgbuild.",
    "org.opencontainers.image.base.digest",
    "org.opencontainers.image.created",
    "org.opencontainers.image.version",
)
CONTENT_SECONDS = 180.0  # 5 GB from a disk of 30 MB/s


def identity(image: str, engine: str, file: Path | None, seconds: float) -> dict[str, Any]:
    """Size, digest and labels; of a folder the hash of what is in it, beside that of its file."""
    own = labels(image, engine)
    told: dict[str, Any] = {"content": own.get(CONTENT)}
    told["labels"] = {name: own[name] for name in sorted(own) if name.startswith(LABELS)}
    path = Path(image)
    try:
        if file:
            told.update(file=file.name, file_bytes=file.stat().st_size, file_sha256=hashed(file))
        if path.is_file():
            told.update(bytes=path.stat().st_size, sha256=hashed(path))
        elif path.is_dir():
            told.update(tree(path, seconds))
        elif engine == "docker":
            form = "--format={{json .}}"
            shown = json.loads(output("docker", "image", "inspect", form, image))
            told.update(bytes=shown["Size"], id=shown["Id"], digests=shown.get("RepoDigests"))
            told["digests"] = [d.rpartition("@")[2] for d in told["digests"] or ()]
    except (OSError, ValueError, LookupError, subprocess.TimeoutExpired) as error:
        told["identity"] = f"not known: {brief(error)}"
    return told


def hashed(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def labels(image: str, engine: str) -> dict[str, str]:
    """An image's; none where it has none or nobody tells them."""
    told: Any = {}
    with contextlib.suppress(OSError, ValueError, LookupError, subprocess.TimeoutExpired):
        if Path(image).is_dir():
            told = json.loads(Path(image, ".singularity.d", "labels.json").read_text())
        elif engine == "docker":
            form = "--format={{json .Config.Labels}}"
            told = json.loads(output("docker", "image", "inspect", form, image))
        elif engine == "apptainer":
            shown = output("apptainer", "inspect", "--labels", "--json", image)
            told = json.loads(shown)["data"]["attributes"]["labels"]
    return {str(name): str(value) for name, value in told.items()} if told else {}


def tree(folder: Path, seconds: float) -> dict[str, Any]:
    """A folder's regular files, their bytes, and a hash: of contents, or without time of sizes.

    A file with several names counts once, as `imgbuild inspect` has it, and all its names are in
    the hash; of a symbolic link its target is.
    """
    deadline = time.monotonic() + seconds
    found, sizes = hashlib.sha256(), dict[tuple[int, int], int]()
    regular: list[tuple[str, tuple[int, int]]] = []
    for at, folders, files in os.walk(folder):
        folders.sort()
        if time.monotonic() > deadline:
            return {"identity": "not known: no time left"}
        links = [name for name in folders if Path(at, name).is_symlink()]
        for name in sorted([*files, *links]):
            path = os.path.join(at, name)  # noqa: PTH118 - twice as fast
            status = os.lstat(path)
            told = str(Path(path).readlink()) if stat.S_ISLNK(status.st_mode) else status.st_size
            place = os.path.relpath(path, folder)
            found.update(f"{place}\0{told}\n".encode(errors="surrogateescape"))
            if stat.S_ISREG(status.st_mode):
                inode = (status.st_dev, status.st_ino)
                sizes[inode] = status.st_size
                regular.append((path, inode))
    figures = {
        "bytes": sum(sizes.values()),
        "files": len(sizes),
        "sha256_of_names_and_sizes": found.hexdigest(),
    }
    deadline = min(deadline, time.monotonic() + CONTENT_SECONDS)
    hashes: dict[tuple[int, int], str] = {}
    for path, inode in regular:
        if time.monotonic() > deadline:
            return {**figures, "hashed": "names and sizes: no time for contents"}
        try:
            hashes[inode] = hashes.get(inode) or hashed(Path(path))
        except OSError as error:
            return {**figures, "hashed": f"names and sizes: {brief(error)}"}
        place = os.path.relpath(path, folder)
        found.update(f"{place}\0{hashes[inode]}\n".encode(errors="surrogateescape"))
    return {**figures, "hashed": "contents", "sha256_of_contents": found.hexdigest()}


def brief(error: BaseException) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

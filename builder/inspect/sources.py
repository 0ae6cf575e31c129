"""What a path is, and an image of an engine: all of them become layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from builder import zstd
from builder.errors import BuildError, UserError
from builder.inspect import archive, squashfs, trees
from builder.inspect.damage import damaged, explained
from builder.inspect.examine import Examiner
from builder.inspect.squeeze import Squeeze
from builder.inspect.stored import Layer, OnFile

_ZIP = b"PK\x03\x04"
_ELF = b"\x7fELF"
_XZ, _BZIP2 = b"\xfd7zXZ", b"BZh"
_KNOWN = "a folder, a wheel, a library, an OCI archive or layout, a docker archive or a SIF is"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything that is known of an image once its bytes have gone by."""

    name: str
    kind: str  # for people, as "a SIF"
    layers: list[Layer]  # the lowest first
    squeeze: Squeeze


def read_image(name: str, stream: IO[bytes], names: Mapping[str, str], told: OnFile) -> Contents:
    """An image that an engine saves as a tar; nothing of it touches a disk but large libraries.

    `names` has imgbuild's layers by the digest of their locks. Raises UserError, BuildError.
    """
    examiner = Examiner(told)
    with explained(name):
        layers = archive.read(archive.of_stream(stream), examiner, names, name)
    return Contents(name=name, kind="an image", layers=layers, squeeze=examiner.squeeze)


def read_path(path: Path, told: OnFile) -> Contents:
    """A folder, wheel, library, OCI archive, OCI layout or SIF; raises UserError for others.

    Raises OSError for what cannot be read.
    """
    examiner = Examiner(told)
    with explained(str(path)):
        kind, layers = _of_path(path, examiner)
    return Contents(name=str(path), kind=kind, layers=layers, squeeze=examiner.squeeze)


def _of_path(path: Path, examiner: Examiner) -> tuple[str, list[Layer]]:
    if path.is_dir():
        if (path / "oci-layout").is_file():
            layers = archive.read(archive.of_layout(path), examiner, {}, str(path))
            return "an OCI layout", layers
        return "a folder", [Layer(tree=examiner.tree(trees.of_folder(path)))]
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path}: neither a file nor a folder", hint=_KNOWN)
    with path.open("rb") as file:
        head = file.read(512)
    size = path.stat().st_size
    sif = head[squashfs.SIF_MAGIC_AT :].startswith(squashfs.SIF_MAGIC)
    if sif or head.startswith(squashfs.MAGIC):
        offset, length = squashfs.partition(path)
        try:
            tree = examiner.tree(squashfs.of_file(path, offset))
        except BuildError as error:
            said = [line for line in error.tail if line.strip()]
            raise damaged(str(path), f"unsquashfs: {said[-1]}" if said else error) from None
        layer = Layer(tree=tree, created_by="squashfs", stored=length, compressed=True)
        return "a SIF" if sif else "a squashfs", [layer]
    if head.startswith(_ZIP):
        tree = examiner.tree(trees.of_wheel(path))
        return "a wheel", [Layer(tree=tree, created_by="zip", stored=size, compressed=True)]
    if head.startswith(_ELF):
        return "a file", [Layer(tree=examiner.tree(trees.of_folder(path)))]
    packed = head.startswith((archive.GZIP, zstd.MAGIC, _XZ, _BZIP2))
    if packed or head[archive.TAR_AT :].startswith(archive.TAR):
        with path.open("rb") as file:
            # tarfile itself reads zstd from Python 3.14 on.
            source = zstd.reader(file) if head.startswith(zstd.MAGIC) else file
            layers = archive.read(archive.of_stream(source), examiner, {}, str(path))
        return "an archive", layers
    raise UserError(f"{path}: nothing that is known", hint=_KNOWN)

"""images/: write what was rendered, or say how what stands there differs."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from builder.render.text import RenderedImage

# Folders below images/ that are no cell's.
_OTHERS = {"locks", "proofs", "sizes", "wheels"}


def write(images: Path, rendered: Iterable[RenderedImage]) -> list[Path]:
    """Write each file that differs, whole or not at all; returns those."""
    changed = []
    for image in rendered:
        folder = images / image.cell_id
        if new := not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
        for name, text in image.files.items():
            file = folder / name
            if new or _text(file) != text:
                _replace(file, text)
                changed.append(file)
    return changed


def remove(folder: Path, paths: Iterable[str]) -> list[Path]:
    """Remove those files below a folder that are there; returns them."""
    there = [file for path in paths if (file := folder / path).is_file() or file.is_symlink()]
    for file in there:
        file.unlink()
    return there


def check(
    images: Path, rendered: Iterable[RenderedImage], *, orphans: bool, gone: Iterable[str] = ()
) -> str:
    """Unified diff from what stands in `images` to what was rendered; "" when nothing differs.

    With `orphans`, files that no rendered image owns count as drift too; so do those of `gone`.
    """
    parts: list[str] = []
    owned: set[Path] = set()
    for image in rendered:
        for name, text in image.files.items():
            file = images / image.cell_id / name
            owned.add(file)
            parts += _diff(_text(file), text, file)
    left = [file for path in gone if (file := images / path).is_file()]
    left += [file for file in _files(images) if file not in owned] if orphans else []
    for file in left:  # empty ones and those that are no text have no diff
        parts += list(_diff(_text(file), None, file)) or [f"--- a/{file}\n+++ /dev/null\n"]
    return "".join(parts)


def _files(images: Path) -> Iterator[Path]:
    for folder in sorted(images.iterdir()) if images.is_dir() else ():
        if folder.is_dir() and folder.name not in _OTHERS:
            found = folder.rglob("*")
            yield from sorted(file for file in found if file.is_file() or file.is_symlink())


def _diff(old: str | None, new: str | None, file: Path) -> Iterator[str]:
    return difflib.unified_diff(
        _lines(old or ""),
        _lines(new or ""),
        "/dev/null" if old is None else f"a/{file}",
        "/dev/null" if new is None else f"b/{file}",
    )


def _lines(text: str) -> list[str]:
    lines = re.findall(r"[^\n]*\n|[^\n]+\Z", text)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n\\ No newline at end of file\n"
    return lines


def _text(file: Path) -> str | None:
    try:
        return file.read_bytes().decode("utf-8")  # read_text() would hide CRLF
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        return None


def _replace(file: Path, text: str) -> None:
    aside = f"{file.parent}/.{file.name}-{os.urandom(8).hex()}"
    output = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        try:
            os.fchmod(output, 0o644)  # whatever the umask
            left = memoryview(text.encode())
            while left:
                left = left[os.write(output, left) :]
        finally:
            os.close(output)
        os.replace(aside, file)  # noqa: PTH105 - thousands of Path objects take their time
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise

"""The files of a host, live or recorded; nothing here raises, whatever is missing or garbled.

A recorded host is a folder with the same files below it, and what `nvidia-smi -q -x` printed in
`nvidia-smi.xml` at its top. `save` writes one: exactly the files that were read, and of large ones
the lines that counted.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path

SMI = "nvidia-smi.xml"
_READ = 1 << 20  # bytes of a file at most
_BIG = 64 << 20  # bytes of one that is searched for some lines
_NUMBER = re.compile(r"-?\d{1,18}")
_VERSION = re.compile(r"\d{1,6}(\.\d{1,6}){0,4}")


class Host:
    """A host's files; each is read once, so that all facts are of one moment."""

    def __init__(self, folder: Path = Path("/")) -> None:
        self._inside = os.path.realpath(folder).rstrip("/")
        self.live = not self._inside  # "/", however it is spelled
        self._folder = "" if self.live else str(folder.absolute())
        self._read: dict[str, bytes | None] = {}
        self._kept: dict[str, bytes] = {}  # path -> the lines that were asked for
        self._named: set[str] = set()

    def content(self, path: str) -> bytes:
        """A file's content, b"" where it cannot be read."""
        if path not in self._read:
            self._read[path] = self._load(path, _READ)
        return self._read[path] or b""

    def _load(self, path: str, most: int) -> bytes | None:
        try:
            file = self._folder + path
            # A pipe would wait for somebody to write.
            if not self._is_inside(file) or not stat.S_ISREG(Path(file).stat().st_mode):
                return None
            with Path(file).open("rb") as opened:
                return opened.read(most)
        except (OSError, ValueError):
            return None

    def _is_inside(self, file: str) -> bool:
        """Whether it is of this host: a recorded one may have links that lead out of it."""
        return not self._inside or f"{os.path.realpath(file)}/".startswith(f"{self._inside}/")

    def is_empty(self) -> bool:
        """Whether a recorded host's folder has none of the places that are looked at."""
        places = (f"/{SMI}", "/proc", "/sys", "/etc", "/usr", "/var", "/dev", "/run")
        return not any(map(self.has, places))

    def text(self, path: str) -> str:
        """A file's text, "" where it cannot be read."""
        return self.content(path).decode("utf-8", "replace")

    def line(self, path: str) -> str:
        """A file's first line, without space around it."""
        return self.text(path).partition("\n")[0].strip()

    def number(self, path: str) -> int | None:
        """A file's only number."""
        line = self.line(path)
        return int(line) if _NUMBER.fullmatch(line) else None

    def has(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self.names(glob.escape(path)))

    def names(self, pattern: str) -> list[str]:
        """Paths that match, as this host knows them."""
        try:
            found = glob.glob(glob.escape(self._folder) + pattern)  # noqa: PTH207 - of any depth
        except (OSError, ValueError, RecursionError):  # a NUL in a garbled name
            return []
        # A link is there, wherever it leads; what lies in a folder that it leads to may not be.
        found = [path for path in found if self._is_inside(os.path.dirname(path))]  # noqa: PTH120
        names = sorted(path[len(self._folder) :] for path in found)
        self._named.update(names)
        return names

    def lines(self, path: str, part: str, most: int = 100) -> list[str]:
        """The first of a file's lines that hold `part`; of others a recording knows nothing."""
        content = (self._load(path, _BIG) or b"").decode("utf-8", "replace")
        found = [line for line in content.splitlines() if part in line][:most]
        self._keep(path, "".join(f"{line}\n" for line in found))
        return found

    def words(self, path: str, names: Collection[str]) -> tuple[str, ...]:
        """Those of a file's words that are NAME or NAME=VALUE; others may be private."""
        words = (self._load(path, _READ) or b"").decode("utf-8", "replace").split()
        found = tuple(word for word in words if word.partition("=")[0] in names)
        if self.has(path):
            self._keep(path, f"{' '.join(found)}\n")
        return found

    def paragraph(self, path: str, first: str) -> dict[str, str]:
        """The fields of that paragraph whose first line it is, as in dpkg's database."""
        content = (self._load(path, _BIG) or b"").decode("utf-8", "replace")
        for part in content.split("\n\n"):
            if part.lstrip("\n").split("\n", 1)[0] == first:
                self._keep(path, f"{part.strip()}\n\n")
                pairs = (line.partition(":") for line in part.splitlines())
                return {name: value.strip() for name, _, value in pairs}
        return {}

    def _keep(self, path: str, text: str) -> None:
        self._kept[path] = self._kept.get(path, b"") + text.encode("utf-8", "replace")

    def save(self, folder: Path, smi: str | None) -> int:
        """Write what was read into a new folder; how many files that are."""
        files = {path: content for path, content in self._read.items() if content is not None}
        files.update(self._kept)
        # Of what was only named the name counts; a folder is there by what is in it.
        above = {parent for path in (*files, *self._named) for parent in _parents(path)}
        files.update(dict.fromkeys(self._named - set(files) - above, b""))
        for path, content in files.items():
            file = folder / path.lstrip("/")
            if path not in above:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        if smi is not None:
            (folder / SMI).write_text(smi, encoding="utf-8")
        return len(files) + (smi is not None)


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(2, len(parts))]


def version(text: str) -> tuple[int, ...] | None:
    """A dotted version as numbers, None for any other text."""
    match = _VERSION.match(text.strip())
    return tuple(map(int, match[0].split("."))) if match else None


def numbers(text: str) -> set[int]:
    """ "0-3,8" -> {0, 1, 2, 3, 8}, as the kernel writes lists of CPUs; empty for what is none."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if match is None:
            return set()
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found

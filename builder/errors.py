"""Errors that reach the user as one line, each with its exit code.

Exit codes: 0 done, 1 a build or a smoke failed, 2 the user's mistake, 130 interrupted.
Anything that escapes as another exception is a defect of imgbuild.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where the user should look: a file and, where it is known, a line (1-based)."""

    file: Path
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else str(self.file)


class ImgbuildError(Exception):
    """A failure told in one line: place, what is wrong, the nearest right answer."""

    exit_code = 1

    def __init__(self, what: str, *, place: Place | None = None, hint: str = "") -> None:
        self.what = what
        self.place = place
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{where}{self.what}{hint}"


class UserError(ImgbuildError):
    """What the user gave cannot be used."""

    exit_code = 2


class BuildError(ImgbuildError):
    """An engine failed to build, load or run; `tail` holds the end of its log."""

    def __init__(self, what: str, *, tail: Iterable[str] = (), hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.tail = tuple(tail)

    def redacted(self, redact: Callable[[str], str]) -> BuildError:
        """The same failure without what only a site may know."""
        tail = [redact(line) for line in self.tail]
        return BuildError(redact(self.what), tail=tail, hint=redact(self.hint))


class DriftError(ImgbuildError):
    """Committed files differ from what would be written; `diff` is unified."""

    def __init__(self, what: str, *, diff: str = "", hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.diff = diff


def not_utf8(file: Path, error: UnicodeDecodeError, hint: str = "") -> UserError:
    """What to say of a file that is no text, with the line of the first such byte."""
    line = error.object.count(b"\n", 0, error.start) + 1
    return UserError("is not UTF-8", place=Place(file, line), hint=hint)


def text_of(file: Path, hint: str) -> str:
    """A file of a project; raises UserError with the hint for one that is no text."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(file, error, hint) from None


_SHOWN = 60  # characters of what somebody wrote, enough to find it


def brief(text: str) -> str:
    """What somebody wrote, as it is shown in one line: lines become spaces, and the end goes."""
    line = " ".join(text.splitlines())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def quoted(value: object) -> str:
    """The same as Python spells it."""
    return repr(brief(value)) if isinstance(value, str) else brief(repr(value))


def nearest(word: str, known: Iterable[str]) -> str:
    """Phrase the best match for `word` among `known`, or list what exists when nothing is near."""
    names = sorted(known)
    if close := difflib.get_close_matches(word, names, n=1, cutoff=0.5):
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else ""

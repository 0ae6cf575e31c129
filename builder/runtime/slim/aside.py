"""A new file beside the one whose name it gets: whole there, or not there at all."""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Iterator

ENDING = ".imgbuild-aside"  # of the name of a file that is not whole yet


@contextlib.contextmanager
def replacing(path: str, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file that becomes `path` where the block ends well, and goes where it does not.

    `mode` is less the umask. Raises OSError.
    """
    new = _name(path)
    try:
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(handle, "wb") as out:
            yield out
        os.replace(new, path)
    except BaseException:
        _remove(new)
        raise


def link(path: str, name: str) -> None:
    """Make `name` one more name of the file `path`, in place of what it named. Raises OSError."""
    new = _name(name)
    try:
        os.link(path, new)
        os.replace(new, name)
    finally:  # also where both are one file already: then it is left by rename(2)
        _remove(new)


def is_one(name: str) -> bool:
    """Whether a file's last name is that of one that is not whole yet."""
    return name.startswith(".") and name.endswith(ENDING)


def _name(path: str) -> str:
    """One that nobody else has, and that is short however long the file's is.

    A process's number alone would not do: in containers it is mostly 1.
    """
    unique = f".{os.getpid():x}-{os.urandom(6).hex()}{ENDING}"
    return os.path.join(os.path.dirname(path), unique)


def _remove(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name)

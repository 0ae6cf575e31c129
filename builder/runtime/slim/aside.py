"""A new file beside the one whose name it gets: whole there, or not there at all.

It is locked (flock) as long as it stands aside, so that one that is not locked was left by somebody
who was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Iterator, Tuple

ENDING = ".imgbuild-aside"  # of the name of a file that is not whole yet


@contextlib.contextmanager
def replacing(path: str, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file that becomes `path` where the block ends well, and goes where it does not.

    `mode` is less the umask. Raises OSError.
    """
    new, handle = _created(path, mode)
    try:
        with contextlib.ExitStack() as whole:
            # As long as it has this name it is locked, and what closing writes may not fail later.
            with open(handle, "wb") as out:
                whole.callback(os.close, os.dup(handle))
                yield out
            os.replace(new, path)
    except BaseException:
        _remove(new)
        raise


def link(path: str, name: str) -> None:
    """Make `name` one more name of the file `path`, in place of what it named. Raises OSError."""
    new = _name(name)
    with _held(path):
        try:
            os.link(path, new)
            os.replace(new, name)
        finally:  # also where both are one file already: then it is left by rename(2)
            _remove(new)


def clear(path: str) -> None:
    """Remove what a killed one left; not what somebody is about to give its name.

    Where the file system has no locks, it stays.
    """
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(handle)


def is_one(name: str) -> bool:
    """Whether a file's last name is that of one that is not whole yet."""
    return name.startswith(".") and name.endswith(ENDING)


def _created(path: str, mode: int) -> Tuple[str, int]:
    """A new file's name, and the handle by which it is locked."""
    while True:
        new = _name(path)
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.lexists(new):
                return new, handle
        except BlockingIOError:  # who clears away was between the two
            pass
        except OSError:  # a file system without locks: nobody clears away there
            return new, handle
        os.close(handle)
        _remove(new)


@contextlib.contextmanager
def _held(path: str) -> Iterator[None]:
    """Keep a file's names from those who clear away; others may hold it, too."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _name(path: str) -> str:
    """One that nobody else has, and that is short however long the file's is.

    A process's number alone would not do: in containers it is mostly 1.
    """
    unique = f".{os.getpid():x}-{os.urandom(6).hex()}{ENDING}"
    return os.path.join(os.path.dirname(path), unique)


def _remove(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name)

"""Calls in processes beside this one: a Python process computes on one CPU at a time."""

from __future__ import annotations

import errno
import os
import pickle
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence

_MOST = 8  # each has a library in its address space, and writes another


def at_once() -> int:
    """How many are worth it: 0 on one CPU, and where the system does not tell."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return min(cpus, _MOST) if cpus > 1 else 0


class Call:
    """A function that has begun; it comes to its end whatever becomes of this process.

    Raises OSError where no process can be had.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._read, write = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._read)
            os.close(write)
            raise
        if not self._pid:
            try:
                os.close(self._read)
                _do(function, write)
            finally:
                os._exit(1)  # nothing of what this process had begun is ended twice
        os.close(write)

    def fileno(self) -> int:
        """What can be read once its result is there."""
        return self._read

    def ended(self) -> bool:
        """Whether its result is there."""
        return bool(select.select([self], [], [], 0)[0])

    def result(self) -> Any:
        """Wait for it, once. Raises what it raised, and OSError where it was killed."""
        with os.fdopen(self._read, "rb") as pipe:
            told = pipe.read()
        os.waitpid(self._pid, 0)
        if not told:
            raise OSError(errno.ECHILD, "the process that worked on it was killed")
        value, error = pickle.loads(told)
        if error:
            raise error
        return value


def wait(calls: Sequence[Call]) -> None:
    """Until the result of one is there."""
    select.select(calls, [], [])


def _do(function: Callable[[], Any], write: int) -> None:
    # A terminal sends them to all; who began this waits for it, and begins no other.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        told = pickle.dumps((function(), None))
    except BaseException as error:  # it is raised where the result is asked for
        told = pickle.dumps((None, error))
    while told:
        told = told[os.write(write, told) :]

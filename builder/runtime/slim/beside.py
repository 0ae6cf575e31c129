"""Calls in processes beside this one: a Python process computes on one CPU at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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
        self._told: bytes | None = None
        self._read, write = os.pipe()
        # A handler of this process's may not run in the other one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            self._pid = os.fork()
            if not self._pid:
                try:
                    os.close(self._read)
                    _do(function, write)
                finally:
                    os._exit(1)  # nothing of what this process had begun is ended twice
        except OSError:
            os.close(self._read)
            raise
        finally:
            os.close(write)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def ended(self, seconds: float | None = 0) -> bool:
        """Whether its result is there within that time; None: wait for it."""
        if self._told is None and _ready([self], seconds):
            with os.fdopen(self._read, "rb") as pipe:
                self._told = pipe.read()
            with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored
                os.waitpid(self._pid, 0)
        return self._told is not None

    def result(self) -> Any:
        """Wait for it. Raises what it raised, and OSError where it was killed."""
        self.ended(None)
        if not self._told:
            raise OSError(errno.ECHILD, "the process that worked on it was killed")
        value, error = pickle.loads(self._told)
        if error:
            raise error
        return value

    def fileno(self) -> int:
        """What can be read once its result is there."""
        return self._read


def wait(calls: Sequence[Call]) -> None:
    """Until the result of one is there, of some that have not ended."""
    _ready(calls, None)


def _ready(calls: Sequence[Call], seconds: float | None) -> bool:
    poll = select.poll()
    for call in calls:
        poll.register(call, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _do(function: Callable[[], Any], write: int) -> None:
    # A terminal sends them to all; who began this waits for it, and begins no other.
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    try:
        told = pickle.dumps((function(), None))
    except BaseException as error:  # it is raised where the result is asked for
        told = pickle.dumps((None, error))
    while told:
        told = told[os.write(write, told) :]

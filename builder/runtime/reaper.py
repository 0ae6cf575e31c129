"""A smallest init, for images whose distribution has no tini: forwards signals, reaps, returns."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

_FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)


def _to_the_front() -> None:
    """A group of its own, the terminal's: else Ctrl-C would reach it twice, from there and us."""
    os.setpgid(0, 0)
    with suppress(OSError):
        os.tcsetpgrp(0, os.getpgrp())


def supervise(start: Callable[[], int]) -> int:
    """Run `start` in a child, which mostly ends in exec, and be its init; returns its exit code.

    128 and the number of the signal that ended it, as shells say it.
    """
    # A signal between the fork and the handlers would be lost: PID 1 has no default actions.
    signal.pthread_sigmask(signal.SIG_BLOCK, (*_FORWARDED, signal.SIGTTOU))
    child = os.fork()
    if child == 0:
        _to_the_front()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_FORWARDED, signal.SIGTTOU))
        try:
            code = start()
        except BaseException:  # this copy of the init must not go on as one
            sys.excepthook(*sys.exc_info())
            code = 1
        os._exit(code)

    def forward(number: int, _: Any) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    while True:
        pid, status = os.wait()
        if pid == child:
            break
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

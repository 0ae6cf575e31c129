"""A smallest init, for images whose distribution has no tini: forwards signals, reaps, returns.

As tini does it: signals are blocked and waited for one by one, so that none is lost between two of
Python's instructions, and none reaches a process that has been reaped.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Set

# A fault of this process itself: blocked, it would repeat for ever.
_OWN = (
    *(signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGBUS),
    *(signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS),
)
# Writing to a terminal from the background stops a process: an init must not.
_TERMINAL = (signal.SIGTTIN, signal.SIGTTOU)
_AWAITED = signal.valid_signals() - {*_OWN, *_TERMINAL, signal.SIGKILL, signal.SIGSTOP}


def _to_the_front() -> None:
    """A group of its own, the terminal's: else Ctrl-C would reach it twice, from there and us."""
    os.setpgid(0, 0)
    with suppress(OSError):
        os.tcsetpgrp(0, os.getpgrp())


def supervise(start: Callable[[], int], mask: Set[int] | None = None) -> int:
    """Run `start` in a child, which mostly ends in exec, and be its init; returns its exit code.

    128 and the number of the signal that ended it, as shells say it. `mask` is what was blocked
    when this process began, where somebody has blocked more since.
    """
    now = signal.pthread_sigmask(signal.SIG_SETMASK, _AWAITED)
    mask = now if mask is None else mask
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, children would end without a status
    actions = [(number, signal.signal(number, signal.SIG_IGN)) for number in _TERMINAL]
    child = os.fork()
    if child == 0:
        _to_the_front()
        for number, action in actions:
            signal.signal(number, action)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            code = start()
        except BaseException:  # this copy of the init must not go on as one
            sys.excepthook(*sys.exc_info())
            code = 1
        os._exit(code)
    while True:
        came = signal.sigwait(_AWAITED)
        if came != signal.SIGCHLD:
            with suppress(ProcessLookupError):
                os.kill(child, came)
        elif (status := _reaped(child)) is not None:
            break
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _reaped(child: int) -> int | None:
    """Reap all that have ended, orphans too; returns the child's status if it is among them.

    One SIGCHLD may stand for several.
    """
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        if pid == child:
            found = status

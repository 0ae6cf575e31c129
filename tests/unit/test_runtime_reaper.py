"""The smallest init, with real processes: each test's init is a Python of its own."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.support import ROOT

pytestmark = pytest.mark.python

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans come to it, as they come to PID 1
_INIT = f"""
import ctypes, os, signal, sys, time
assert not ctypes.CDLL(None).prctl({_SUBREAPER}, 1, 0, 0, 0)
from builder.runtime import reaper
def start():
    {{start}}
sys.exit(reaper.supervise(start))
"""


def init(start: str, **options: object) -> subprocess.Popen[str]:
    """An init whose server does what `start` says, or execs Python with its text."""
    code = _INIT.format(start=start)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True, **options
    )


def execs(text: str) -> str:
    return f"os.execv(sys.executable, [sys.executable, '-S', '-c', {text!r}])"


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, out


@pytest.mark.parametrize(
    ("start", "code"),
    [
        ("return 0", 0),
        ("return 3", 3),
        (execs("raise SystemExit(0)"), 0),
        (execs("raise SystemExit(3)"), 3),
        (execs("import os; os.kill(os.getpid(), 9)"), 128 + signal.SIGKILL),
        (execs("import os; os.abort()"), 128 + signal.SIGABRT),
        ("raise ValueError", 1),
    ],
)
def test_the_exit_code_comes_back(start: str, code: int) -> None:
    process = init(start, stderr=subprocess.DEVNULL)
    assert ended(process) == (code, "")


SAYS = """
import signal, sys, time
def said(number, _):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(5)
for number in (1, 2, 3, 10, 12, 13, 14, 15, 18, 20, 23, 28):
    signal.signal(number, said)
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""


def test_signals_reach_the_server() -> None:
    process = init(execs(SAYS))
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    names = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH"]
    # As tini: all but those that tell of a fault of its own.
    names += ["SIGCONT", "SIGTSTP", "SIGALRM", "SIGPIPE", "SIGURG", "SIGTERM"]
    for name in names:
        process.send_signal(signal.Signals[name])
        assert process.stdout.readline() == f"{name}\n"
    assert ended(process) == (5, "")


STORM = """
import os, signal, sys, time
count = 0
def said(*_):
    global count
    count += 1
    for _ in range(2):              # children that end while the next signal comes
        if os.fork() == 0:
            os._exit(0)
    print(count, flush=True)
signal.signal(signal.SIGUSR1, said)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(6))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while True:
    time.sleep(0.001)
"""


def test_no_signal_is_lost_among_others() -> None:
    process = init(execs(STORM))
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    for number in range(1, 201):
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == f"{number}\n"
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (6, "")


def test_an_init_that_got_sigchld_ignored_still_knows_the_exit_code() -> None:
    """Whoever started it may have ignored that, and exec keeps it."""
    ignores = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    code = _INIT.format(start=execs("raise SystemExit(3)")).replace(
        "sys.exit(", f"{ignores}\nsys.exit("
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ended(process) == (3, "")


def test_a_server_that_ignores_sigterm_lives_until_it_is_killed() -> None:
    """The engine's SIGKILL ends PID 1, and the kernel all others."""
    ignores = "import signal, time, os; signal.signal(15, signal.SIG_IGN)\n"
    process = init(execs(f"{ignores}print(os.getpid(), flush=True); time.sleep(60)"))
    assert process.stdout
    server = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    os.kill(server, signal.SIGKILL)
    assert ended(process)[0] == 128 + signal.SIGKILL


def test_a_signal_before_the_server_is_there_is_not_lost() -> None:
    process = init("time.sleep(60)")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    # Before exec, Python's own actions hold: SIGTERM ends it.
    assert ended(process)[0] == 128 + signal.SIGTERM


ORPHANS = """
import os, sys, time
for number in range(3):
    if os.fork() == 0:
        if os.fork() == 0:          # the orphan, once its parent has ended
            time.sleep(0.1 * number)
            os._exit(7)
        os._exit(0)
    os.wait()
time.sleep(0.8)
init = os.getppid()
states = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    except OSError:
        continue
    if fields[1] == str(init):
        states.append(fields[0])
print(len(states), "Z" in states, flush=True)
sys.exit(4)
"""


def test_orphans_are_reaped_and_do_not_end_it() -> None:
    assert ended(init(execs(ORPHANS))) == (4, "1 False\n")


MASKS = """
import os, signal
print(os.getpgrp() == os.getpid())
told = dict(line.split(":") for line in open("/proc/self/status"))
print(int(told["SigBlk"], 16), end=" ")
print([n for n in (signal.SIGTTIN, signal.SIGTTOU) if int(told["SigIgn"], 16) & 1 << n - 1])
"""


def test_the_server_has_a_group_of_its_own_and_no_signal_blocked_or_ignored() -> None:
    assert ended(init(execs(MASKS))) == (0, "True\n0 []\n")


# The runtime's own main, while it imports the rest; a `start` that takes itself for PID 1.
_EARLY = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
me = os.getpid()
signal.signal(2, signal.default_int_handler)  # whoever runs these tests may ignore it
os.getpid = lambda: {{pid}}
from builder.runtime import __main__ as runtime
imported = runtime._imported
def comes(name):
    if name.endswith("entrypoint") and {{number}}:
        os.kill(me, {{number}})
    return imported(name)
runtime._imported = comes
sys.exit(runtime.main(["start", "false", "--", *sys.argv[1:]]))
"""


def early(pid: str, number: int, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-ESc", _EARLY.format(pid=pid, number=number), *command],
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_imports_is_not_lost(number: int) -> None:
    """As PID 1 it would be: the kernel drops what an init does not handle."""
    done = early("1", number, "sleep", "20")
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


def test_what_was_held_during_the_imports_is_the_servers_again() -> None:
    done = early("1", 0, sys.executable, "-Sc", MASKS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n0 []\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_below_another_init_a_signal_ends_the_start_in_silence(number: int) -> None:
    done = early("me", number, "true")
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")


def test_an_interrupt_that_was_ignored_stays_so() -> None:
    """Shells start what they put into the background so."""
    text = _EARLY.format(pid="me", number=2)
    ignoring = text.replace("signal.default_int_handler", "signal.SIG_IGN")
    done = subprocess.run([sys.executable, "-ESc", ignoring, "true"], timeout=30, check=False)
    assert done.returncode == 0


def test_the_terminal_is_the_servers(tmp_path: Path) -> None:
    """With both in the terminal's group, one Ctrl-C would reach the server twice."""
    text = """
import os, signal, time
count = 0
def said(*_):
    global count
    count += 1
signal.signal(signal.SIGINT, said)
print("ready", os.tcgetpgrp(0) == os.getpgrp(), flush=True)
end = time.monotonic() + 1
while time.monotonic() < end:
    time.sleep(0.05)
print(count, flush=True)
"""
    ours, theirs = pty.openpty()
    # start_new_session, then a controlling terminal: what `docker run -it` does.
    steals = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    code = steals + _INIT.format(start=execs(text))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.close(theirs)
    assert process.stdout
    assert process.stdout.readline() == "ready True\n"
    os.write(ours, b"\x03")
    assert ended(process) == (0, "1\n")
    os.close(ours)

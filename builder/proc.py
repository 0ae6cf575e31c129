"""The only door to other processes: logs the quoted command, streams, times out, explains.

A command may bring a redactor, which every line that a person may see passes first: what a site
keeps private (its mirrors, its credentials) must not reach a terminal, a log file or an error.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from builder.errors import BuildError, ImgbuildError

LOG = logging.getLogger("imgbuild.proc")
TAIL_LINES = 30

Redactor = Callable[[str], str]
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def unredacted(line: str) -> str:
    """The redactor of a process that sees nothing private."""
    return line


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process to run. `env` is added to ours, without those that it maps to None.

    `timeout` is in seconds.
    """

    args: tuple[str, ...]
    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: Path | None = None
    stdin: str | None = None
    timeout: float | None = None
    redact: Redactor = unredacted

    def __str__(self) -> str:
        return self.redact(shlex.join(self.args))

    @property
    def environment(self) -> dict[str, str]:
        """All variables that the process gets."""
        merged = {**os.environ, **self.env}
        return {name: value for name, value in merged.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a finished process left. `stdout` is data, as it came; `stderr` is redacted."""

    code: int
    stdout: str
    stderr: str


def find(program: str) -> str | None:
    """Absolute path of a program on PATH, or in the places that an unprivileged PATH omits."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")


def capture(command: Command, *, check: bool = True) -> Result:
    """Run to the end and return what was printed.

    Raises BuildError when the program is missing, exceeds its time, or, with `check`, fails.
    An interrupt asks the whole process group to end, so that it can clean up after itself.
    """
    LOG.info("$ %s", command)
    try:
        process = subprocess.Popen(
            command.args,
            env=command.environment,
            cwd=command.cwd,
            stdin=subprocess.DEVNULL if command.stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise _unstartable(command, error) from None
    try:
        stdout, stderr = process.communicate(command.stdin, timeout=command.timeout)
    except BaseException as error:
        end_group(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise BuildError(f"`{command}` took longer than {command.timeout:g} s") from None
        raise
    result = Result(code=process.returncode, stdout=stdout, stderr=command.redact(stderr))
    if check and result.code:
        tail = (result.stderr or command.redact(result.stdout)).splitlines()[-TAIL_LINES:]
        raise BuildError(f"`{command}` failed with exit code {result.code}", tail=tail)
    return result


def stream(command: Command, on_line: Callable[[str], None]) -> None:
    """Run and hand over each line of stdout and stderr as it comes, redacted.

    Raises BuildError with the last lines when the program is missing, exceeds its time or fails.
    The whole process group ends with us: an interrupt leaves no engine running behind.
    """
    LOG.info("$ %s", command)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        process = subprocess.Popen(
            command.args,
            env=command.environment,
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise _unstartable(command, error) from None
    timed_out = threading.Event()

    def end() -> None:
        timed_out.set()
        end_group(process)

    timer = threading.Timer(command.timeout, end) if command.timeout else None
    if timer:
        timer.start()
    try:
        for raw in process.stdout or ():
            line = command.redact(_ESCAPES.sub("", raw).rstrip())
            if line:
                tail.append(line)
                on_line(line)
        code = process.wait()
    except BaseException:
        end_group(process)
        raise
    finally:
        if timer:
            timer.cancel()
    if timed_out.is_set():
        raise BuildError(f"`{command}` took longer than {command.timeout:g} s", tail=tail)
    if code:
        raise BuildError(f"`{command.args[0]}` failed with exit code {code}", tail=tail)


@contextmanager
def piped(command: Command) -> Iterator[IO[bytes]]:
    """What a program prints, as bytes, while it runs; it ends with the `with` block.

    Raises BuildError with its last lines when it is missing or fails, also where what it printed
    was of no use to the caller for that reason.
    """
    LOG.info("$ %s", command)
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command.args,
                env=command.environment,
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            raise _unstartable(command, error) from None
        assert process.stdout  # noqa: S101 - it was asked for
        try:
            yield process.stdout
            while process.stdout.read(1 << 20):  # it must not fail by what nobody reads
                pass
            code = process.wait()
        except Exception:
            with suppress(subprocess.TimeoutExpired):
                if process.wait(timeout=1):
                    raise _failed(command, process.returncode, errors) from None
            raise
        finally:
            process.stdout.close()
            if process.poll() is None:
                end_group(process)
        if code:
            raise _failed(command, code, errors)


def _failed(command: Command, code: int, errors: IO[bytes]) -> BuildError:
    errors.seek(0)
    text = command.redact(errors.read().decode("utf-8", "replace"))
    tail = text.splitlines()[-TAIL_LINES:]
    return BuildError(f"`{command}` failed with exit code {code}", tail=tail)


def spawn(command: Command, log: Path) -> subprocess.Popen[bytes]:
    """Start a process in the background, its output in `log`, in a group of its own."""
    LOG.info("$ %s", command)
    try:
        with log.open("wb") as output:
            return subprocess.Popen(
                command.args,
                env=command.environment,
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise _unstartable(command, error) from None


def _unstartable(command: Command, error: OSError) -> ImgbuildError:
    if command.cwd and not command.cwd.is_dir():
        return BuildError(f"{command.cwd}: no such folder")
    if isinstance(error, FileNotFoundError):
        return BuildError(f"{command.args[0]}: no such program")
    return BuildError(f"{command.args[0]}: {error.strerror}")


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a process that was started in a group of its own, with all its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    # Also after the first of the group is gone: its children may be deaf.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

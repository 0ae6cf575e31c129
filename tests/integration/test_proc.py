"""The door to other processes, with real ones: streaming, redaction, time-outs, whole groups."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from builder import proc
from builder.errors import BuildError
from builder.proc import Command


def shell(script: str, **fields: object) -> Command:
    return Command(args=("sh", "-c", script), **fields)  # type: ignore[arg-type]


def alive(mark: str) -> bool:
    found = subprocess.run(["pgrep", "-fx", f"sleep {mark}"], capture_output=True, check=False)
    return found.returncode == 0


def test_lines_come_as_they_are_printed_redacted_and_without_escapes() -> None:
    lines: list[str] = []
    script = r"printf 'one\n\033[31mtwo secret\033[0m\n90%%\rdone\n' ; echo err >&2"
    proc.stream(shell(script, redact=lambda line: line.replace("secret", "<site>")), lines.append)
    assert lines == ["one", "two <site>", "90%", "done", "err"]


def test_a_failure_has_the_end_of_the_output() -> None:
    with pytest.raises(BuildError, match="failed with exit code 3") as error:
        proc.stream(shell("seq 100; exit 3"), lambda _: None)
    assert error.value.tail[-1] == "100"
    assert len(error.value.tail) == proc.TAIL_LINES


def test_what_is_piped_is_bytes_while_it_runs() -> None:
    with proc.piped(shell(r"printf '\377\0one'; sleep 0.1; printf two")) as stream:
        assert stream.read(5) == b"\xff\0one"
        assert stream.read() == b"two"


def through(command: Command, read: Callable[[IO[bytes]], object]) -> object:
    with proc.piped(command) as stream:
        return read(stream)


def fails(_: IO[bytes]) -> None:
    raise LookupError("nothing of use")


@pytest.mark.parametrize("read", [lambda stream: stream.read(), fails, lambda _: None])
def test_a_pipe_that_fails_says_why_before_what_its_reader_found(
    read: Callable[[IO[bytes]], object],
) -> None:
    script = "echo no such secret >&2; exit 3"
    command = shell(script, redact=lambda text: text.replace("secret", "*"))
    with pytest.raises(BuildError, match="exit code 3") as error:
        through(command, read)
    assert error.value.tail == ("no such *",)


def test_a_reader_that_leaves_ends_the_program() -> None:
    mark = "8642.1"
    with pytest.raises(LookupError):
        through(shell(f"echo one; sleep {mark}"), fails)
    assert not alive(mark)


def test_capture_redacts_what_it_raises() -> None:
    command = shell("echo the secret >&2; exit 1", redact=lambda text: text.replace("secret", "*"))
    with pytest.raises(BuildError) as error:
        proc.capture(command)
    assert "secret" not in str(error.value) + "".join(error.value.tail)


def test_output_is_data_and_errors_are_redacted() -> None:
    """A lock is made from what uv prints: a word that is also a site's host must stay in it."""
    command = shell(
        "echo cachetools==1; echo at cache >&2", redact=lambda t: t.replace("cache", "*")
    )
    result = proc.capture(command)
    assert (result.stdout, result.stderr) == ("cachetools==1\n", "at *\n")


def test_a_variable_can_be_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGBUILD_TEST", "x")
    printed = proc.capture(
        shell('echo "$IMGBUILD_TEST-$OTHER"', env={"IMGBUILD_TEST": None, "OTHER": "y"})
    )
    assert printed.stdout == "-y\n"


def test_too_long_is_said_and_leaves_nothing() -> None:
    with pytest.raises(BuildError, match=r"took longer than 0\.5 s"):
        proc.stream(shell("sleep 4712", timeout=0.5), lambda _: None)
    assert not alive("4712")


def test_a_child_that_ignores_sigterm_ends_with_its_group(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 4713 & exec 2>/dev/null; wait"
    process = proc.spawn(Command(args=("sh", "-c", f"({script}) & wait")), tmp_path / "log")
    for _ in range(50):
        if alive("4713"):
            break
        time.sleep(0.1)
    assert alive("4713")
    proc.end_group(process)
    time.sleep(0.2)
    assert not alive("4713")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (Command(args=("no-such-program-here",)), "no-such-program-here: no such program"),
        (Command(args=("true",), cwd=Path("/no/such/folder")), "/no/such/folder: no such folder"),
        (Command(args=("/etc/passwd",)), "/etc/passwd: Permission denied"),
    ],
)
def test_what_cannot_be_started_is_told(command: Command, says: str) -> None:
    with pytest.raises(BuildError) as error:
        proc.capture(command)
    assert str(error.value) == says

"""What is made of nvidia-smi's answer, and of none."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builder.runtime import gpus, preflight

H100 = (
    "0, GPU-6d74c91a-8f7d-ef10-6beb-a8eb12054133, NVIDIA H100 80GB HBM3, 00000000:1B:00.0, 9.0,"
    " 81559, 580.95.05, Disabled, Enabled"
)
LOST = ", ".join(["1", "GPU-1", *["[GPU is lost]"] * 7])


def test_a_row_becomes_a_device() -> None:
    assert gpus.parse(f"{H100}\n", ok=True) == {
        "driver": "580.95.05",
        "error": None,
        "devices": [
            {
                "index": 0,
                "uuid": "GPU-6d74c91a-8f7d-ef10-6beb-a8eb12054133",
                "name": "NVIDIA H100 80GB HBM3",
                "bus": "00000000:1B:00.0",
                "sm": "9.0",
                "memory_mib": 81559,
                "driver": "580.95.05",
                "mig": False,
                "persistence": True,
            }
        ],
    }


def test_what_is_not_available_is_not_known() -> None:
    row = "3, [N/A], NVIDIA A100, N/A, [N/A], [Insufficient Permissions], 580.1, Enabled, [N/A]"
    (device,) = gpus.parse(row, ok=True)["devices"]
    assert device == {
        **dict.fromkeys(("uuid", "bus", "sm", "memory_mib", "persistence")),
        "index": 3,
        "name": "NVIDIA A100",
        "driver": "580.1",
        "mig": True,
    }


@pytest.mark.parametrize("column", [6, 7, 8], ids=["driver", "mig", "persistence"])
@pytest.mark.parametrize("said", ["[Unknown Error]", "[GPU requires reset]"])
def test_a_gpu_that_does_not_tell_a_mode_is_not_lost(column: int, said: str) -> None:
    row = H100.split(", ")
    row[column] = said
    answer = gpus.parse(", ".join(row), ok=True)
    assert answer["error"] is None
    (found,) = answer["devices"]
    assert (found["index"], found["memory_mib"], found["mig"]) == (0, 81559, False)
    assert found["driver"] == (None if column == 6 else "580.95.05")
    assert found["persistence"] is (None if column == 8 else True)


@pytest.mark.parametrize("column", [1, 2, 3, 4], ids=["uuid", "name", "bus", "sm"])
def test_a_gpu_that_does_not_tell_who_it_is_is_lost(column: int) -> None:
    row = H100.split(", ")
    row[column] = "[Unknown Error]"
    answer = gpus.parse(", ".join(row), ok=True)
    assert answer == {"driver": None, "devices": [], "error": "GPU 0: Unknown Error"}


@pytest.mark.parametrize(
    ("text", "ok", "error"),
    [
        ("", True, "it names no GPU"),
        ("", False, "it names no GPU"),
        ("No devices were found\n", True, "No devices were found"),
        (f"{H100}\n{LOST}\n", True, "GPU 1: GPU is lost"),
        ("a,b\nc\n", False, "a,b"),
        ("x" * 1000, False, "x" * 200),
    ],
)
def test_what_is_no_row_is_the_error(text: str, ok: bool, error: str) -> None:
    assert gpus.parse(text, ok=ok)["error"] == error


# What takes a digit for a number: "²".isdigit(), and int() of more than 4300 digits.
@given(st.text() | st.lists(st.text(max_size=6), min_size=9, max_size=9).map(", ".join))
@example(H100.replace("0, GPU", "², GPU"))
@example(H100.replace("81559", "9" * 5000))
@example(H100.replace("9.0", "٣.²"))
@example(H100.replace(", ", ","))
def test_any_answer_can_be_read(text: str) -> None:
    for ok in (True, False):
        made = gpus.parse(text, ok=ok)
        assert set(made) == {"driver", "devices", "error"}
        assert made["devices"] or made["error"]
        for device in made["devices"]:
            assert device["sm"] is None or len(preflight.numbers(device["sm"])) == 2


def device(index: int, *, mig: bool = False) -> dict[str, Any]:
    return {"index": index, "uuid": f"GPU-{index}{index}-abc", "name": "NVIDIA H100", "mig": mig}


@pytest.mark.parametrize(
    ("wanted", "indexes"),
    [
        (None, [0, 1, 2, 3]),
        ("0", [0]),
        ("2,3", [2, 3]),
        ("3,1", [3, 1]),
        (" 1, 2 ", [1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,-1,2", [0]),  # the CUDA programming guide: what follows an invalid one is hidden
        ("0,9,2", [0]),
        ("GPU-22-abc,GPU-1", [2, 1]),
        ("MIG-5f1e", [3]),
        ("MIG-5f1e,MIG-77aa", [3]),
    ],
)
def test_gpus_that_the_user_hides(wanted: str | None, indexes: list[int]) -> None:
    """nvidia-smi names them all the same."""
    devices = [device(n, mig=n == 3) for n in range(4)]
    answer = {"driver": "1", "error": None, "devices": devices}
    seen = gpus.visible(answer, wanted)
    assert [one["index"] for one in seen["devices"]] == indexes
    assert seen["driver"] == "1"
    assert seen.get("hidden", 0) == len(devices) - len(indexes)
    assert len(devices) == 4


def test_cuda_counts_other_gpus_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest first: index 0 may be any of them, and so all are kept."""
    devices = [device(0), {**device(1), "name": "NVIDIA GeForce GTX 1060"}]
    answer = {"driver": "1", "error": None, "devices": devices}
    assert gpus.visible(answer, "0")["devices"] == devices
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert gpus.visible(answer, "0")["devices"] == devices[:1]


# A program of that name on PATH.


class Smi:
    """Writes a fake nvidia-smi, a Python script."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "nvidia-smi"
        self.pid = folder / "pid"

    def does(self, body: str) -> None:
        head = f"#!{sys.executable} -ES\nimport os, sys, time, signal\n"
        self._file.write_text(f"{head}open({str(self.pid)!r}, 'w').write(str(os.getpid()))\n{body}")
        self._file.chmod(0o755)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smi:
    monkeypatch.setenv("PATH", str(tmp_path))
    return Smi(tmp_path)


def files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def asked() -> tuple[dict[str, Any], float]:
    start, before = time.monotonic(), files()
    answer = gpus.Query().answer()
    seconds = time.monotonic() - start
    assert files() == before
    return answer, seconds


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.python
def test_it_answers(smi: Smi) -> None:
    smi.does(f"print({H100!r})\nassert '--format=csv,noheader,nounits' in sys.argv")
    assert asked()[0] == gpus.parse(H100, ok=True)


@pytest.mark.python
@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(60)",
        f"print({H100!r}, flush=True)\ntime.sleep(60)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)",
    ],
    ids=["silent", "within its answer", "ignores SIGTERM"],
)
def test_it_hangs(smi: Smi, body: str) -> None:
    smi.does(body)
    answer, seconds = asked()
    assert answer == {"driver": None, "devices": [], "error": "no answer in 2 s"}
    assert 1.9 < seconds < 2.5
    assert not is_alive(int(smi.pid.read_text()))


@pytest.mark.python
def test_it_answers_and_does_not_end(smi: Smi) -> None:
    """It hangs in the driver as it closes its files."""
    smi.does(f"print({H100!r}, flush=True)\nos.close(1); os.close(2)\ntime.sleep(60)")
    answer, seconds = asked()
    assert answer == {"driver": None, "devices": [], "error": "no end in 2 s"}
    assert seconds < 2.5
    assert not is_alive(int(smi.pid.read_text()))


@pytest.mark.python
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("sys.stdout.buffer.write(bytes(range(256)) * 4); sys.exit(1)", None),
        ("print('GPU is lost'); sys.exit(15)", "GPU is lost"),
        ("sys.stderr.write('NVIDIA-SMI has failed'); sys.exit(9)", "NVIDIA-SMI has failed"),
        ("sys.exit(9)", "it names no GPU"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "it names no GPU"),
    ],
    ids=["garbage", "lost", "exit 9", "exit 9 in silence", "crash"],
)
def test_it_fails(smi: Smi, body: str, error: str | None) -> None:
    smi.does(body)
    answer, _ = asked()
    assert answer["devices"] == []
    assert answer["error"]
    assert error in (None, answer["error"])


@pytest.mark.python
@pytest.mark.parametrize(
    ("mib", "error"), [(1, "more than 1 MiB of an answer"), (64, "more than 1 MiB of an answer")]
)
def test_it_does_not_stop_talking(smi: Smi, mib: int, error: str) -> None:
    smi.does(f"sys.stdout.write('x' * ({mib} << 20))")
    answer, seconds = asked()
    assert (answer["devices"], answer["error"]) == ([], error)
    assert seconds < 2.5
    assert not is_alive(int(smi.pid.read_text()))


@pytest.mark.python
def test_there_is_none(smi: Smi) -> None:
    assert asked()[0] == {"driver": None, "devices": [], "error": None}


@pytest.mark.python
def test_it_may_not_be_run(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "posix_spawnp", refused)
    assert "Permission denied" in asked()[0]["error"]


@pytest.mark.python
def test_somebody_else_reaps_it(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SIGCHLD ignored, as some launchers leave it, the kernel does."""
    smi.does(f"print({H100!r})")

    def reaped(*_: int) -> tuple[int, int]:
        raise ChildProcessError(10, "No child processes")

    monkeypatch.setattr(os, "waitpid", reaped)
    assert len(asked()[0]["devices"]) == 1

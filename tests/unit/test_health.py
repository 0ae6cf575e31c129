"""The image's health check."""

from __future__ import annotations

import socket
import threading

import pytest

from builder.runtime import health
from tests.unit.fakeserver import serving

pytestmark = pytest.mark.loopback


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((200, ""), 0),
        ((200, "ok"), 0),
        ((503, "loading"), 1),
        ((404, ""), 1),
        ((302, ""), 1),
        (b"SSH-2.0-OpenSSH\r\n", 1),
        (b"", 1),
    ],
    ids=["200", "200 with a body", "503", "404", "302", "not HTTP", "hangs up"],
)
def test_only_200_is_healthy(answer: tuple[int, str] | bytes, code: int) -> None:
    with serving({"/health": answer}) as (port, asked):
        assert health.main([str(port), "/health"]) == code
    assert asked == [("/health", None)]


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with serving({}) as (port, _):
        pass
    assert health.main([str(port), "/health"]) == 1
    assert capsys.readouterr().err.startswith(f"no answer on port {port}: ")


def test_a_server_that_is_silent_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(health, "SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert health.main([str(port), "/health"]) == 1
    assert "timed out" in capsys.readouterr().err
    assert threading.active_count() == 1


def test_its_own_time_out_is_below_the_one_in_the_image() -> None:
    """So that the reason is printed before Docker ends it."""
    assert health.SECONDS < 10

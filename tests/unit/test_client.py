"""The smoke client against a server that is right, wrong, broken or absent."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from builder.runtime import client
from tests.unit.fakeserver import serving

pytestmark = pytest.mark.loopback

PROMPTS = [{"prompt": "Hi", "completion": " there", "tokens": [32, 116]}]
MODELS = (200, {"data": [{"id": "tiny"}]})


def completion(text: str = " there", **more: Any) -> tuple[int, Any]:
    return (200, {"choices": [{"text": text, **more}]})


def ask(
    answers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, list[tuple[str, Any]]]:
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps({"prompts": PROMPTS}))
    with serving(answers) as (port, asked):
        url = f"http://127.0.0.1:{port}/"
        monkeypatch.setattr(sys, "argv", ["client.py", "--url", url, "--golden", str(golden)])
        return client.main(), asked


def test_the_golden_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"/v1/models": MODELS, "/v1/completions": completion(token_ids=[32, 116])}
    code, asked = ask(answers, tmp_path, monkeypatch)
    assert code == 0
    assert asked == [
        ("/v1/models", None),
        (
            "/v1/completions",
            {
                "model": "tiny",
                "prompt": "Hi",
                "max_tokens": 2,
                "temperature": 0,
                "return_token_ids": True,
            },
        ),
    ]
    (line,) = capsys.readouterr().out.splitlines()
    answer = json.loads(line)
    assert answer.pop("seconds") >= 0
    assert answer == {
        "prompt": "Hi",
        "wanted": " there",
        "got": " there",
        "tokens": [32, 116],
        "same": True,
    }


# What the server answers -> the exit code: 0 golden, 1 another answer, 2 no answer.
COMPLETIONS: dict[str, tuple[Any, int]] = {
    "no token_ids": (completion(), 0),
    "token_ids null": (completion(token_ids=None), 0),
    "wrong token": (completion(token_ids=[32, 117]), 1),
    "one token less": (completion(token_ids=[32]), 1),
    "wrong text": (completion(" thera", token_ids=[32, 116]), 1),
    "wrong text, no token_ids": (completion(" thera"), 1),
    "500": ((500, "CUDA error: no kernel image is available"), 2),
    "404": ((404, {"error": "no such model"}), 2),
    "not JSON": ((200, "<html>"), 2),
    "a list": ((200, [1]), 2),
    "no choices": ((200, {}), 2),
    "choices empty": ((200, {"choices": []}), 2),
    "choices null": ((200, {"choices": None}), 2),
    "choices of text": ((200, {"choices": ["x"]}), 2),
    "no text": ((200, {"choices": [{}]}), 2),
    "not UTF-8": (b"HTTP/1.0 200 OK\r\n\r\n\xff\xff", 2),
    "not HTTP": (b"SSH-2.0-OpenSSH\r\n", 2),
    "cut off": (b'HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{"choices"', 2),
    "hangs up": (b"", 2),
}


@pytest.mark.parametrize(("answer", "code"), COMPLETIONS.values(), ids=COMPLETIONS.keys())
def test_each_answer_has_its_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: Any,
    code: int,
) -> None:
    found, _ = ask({"/v1/models": MODELS, "/v1/completions": answer}, tmp_path, monkeypatch)
    assert found == code
    printed = capsys.readouterr()
    if code == 2:
        assert len(printed.err.splitlines()) == 1
        assert "http://127.0.0.1:" in printed.err
    else:
        assert [json.loads(line)["same"] for line in printed.out.splitlines()] == [code == 0]


def test_the_reason_of_an_error_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"/v1/models": MODELS, "/v1/completions": (500, "no kernel image")}
    ask(answers, tmp_path, monkeypatch)
    assert "/v1/completions: 500 b'no kernel image'" in capsys.readouterr().err


@pytest.mark.parametrize("models", [(503, ""), (200, {"data": []}), (200, {"data": None})])
def test_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Any) -> None:
    code, asked = ask({"/v1/models": models}, tmp_path, monkeypatch)
    assert code == 2
    assert len(asked) == 1


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({}) as (port, _):
        pass
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps({"prompts": PROMPTS}))
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(sys, "argv", ["client.py", "--url", url, "--golden", str(golden)])
    assert client.main() == 2


def test_every_prompt_is_asked_after_a_wrong_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(globals(), "PROMPTS", [{**PROMPTS[0], "completion": "no"}, *PROMPTS])
    answers = {"/v1/models": MODELS, "/v1/completions": completion()}
    code, _ = ask(answers, tmp_path, monkeypatch)
    assert code == 1
    same = [json.loads(line)["same"] for line in capsys.readouterr().out.splitlines()]
    assert same == [False, True]


def test_a_proxy_is_not_asked_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    # urllib keeps the opener of its first use, proxies included.
    monkeypatch.setattr(urllib.request, "_opener", None)
    answers = {"/v1/models": MODELS, "/v1/completions": completion()}
    assert ask(answers, tmp_path, monkeypatch)[0] == 0

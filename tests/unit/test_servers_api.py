"""The servers' HTTP side over an engine whose answer is known."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from builder.servers import api
from builder.servers.engine import Sampling
from tests.unit.fakellm import EOS, FakeEngine

HELLO = [*b"Hello, world"]


def client(engine: FakeEngine | None) -> TestClient:
    # Not entered: without a lifespan no thread or event loop outlives a request.
    return TestClient(api.create(engine), raise_server_exceptions=False)


def post(engine: FakeEngine, body: bytes, path: str = "/v1/completions") -> Any:
    """Bytes that are said to be JSON; without that word anything is refused."""
    return client(engine).post(path, content=body, headers={"Content-Type": "application/json"})


def complete(engine: FakeEngine, **body: Any) -> Any:
    return client(engine).post("/v1/completions", json={"prompt": "Hi", **body})


def chat(engine: FakeEngine, **body: Any) -> Any:
    messages = [{"role": "user", "content": "Hi"}]
    return client(engine).post("/v1/chat/completions", json={"messages": messages, **body})


def events(response: Any) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    *data, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in data]


def test_a_completion() -> None:
    engine = FakeEngine(HELLO)
    body = complete(engine, max_tokens=5, temperature=0).json()
    assert body.pop("id").startswith("cmpl-")
    assert body.pop("created") > 0
    assert body == {
        "object": "text_completion",
        "model": "fake",
        "choices": [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7},
    }
    assert engine.asked == [([72, 105], Sampling(temperature=0), 5)]
    assert engine.closed


def test_a_chat() -> None:
    body = chat(FakeEngine([*HELLO, EOS])).json()
    assert body["object"] == "chat.completion"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello, world"}
    assert choice["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == len(HELLO) + 1


def test_defaults() -> None:
    engine = FakeEngine(HELLO)
    complete(engine)
    chat(engine)
    chat(engine, max_completion_tokens=3, max_tokens=9)
    assert [limit for _, _, limit in engine.asked] == [16, 62, 3]
    assert engine.asked[0][1] == Sampling(temperature=1, top_p=1, seed=None)


@pytest.mark.parametrize("prompt", [[72, 105], "Hi", ["Hi"], [[72, 105]]])
def test_a_prompt_is_text_or_ids(prompt: Any) -> None:
    engine = FakeEngine(HELLO)
    assert complete(engine, prompt=prompt).status_code == 200
    assert engine.asked[0][0] == [72, 105]


def test_parts_of_a_message_are_joined() -> None:
    engine = FakeEngine(HELLO)
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    assert chat(engine, messages=[{"role": "user", "content": parts}]).status_code == 200
    assert engine.asked[0][0] == [72, 105]


def test_null_in_a_part_is_nothing() -> None:
    parts = [{"type": "text", "text": "Hi", "lang": None}, {"type": "text", "text": None}]
    messages = [{"role": "user", "content": parts}]
    assert chat(FakeEngine(HELLO), messages=messages).status_code == 200


def test_token_ids_where_asked_for() -> None:
    engine = FakeEngine([*HELLO, EOS])
    (choice,) = complete(engine, return_token_ids=True).json()["choices"]
    assert choice["token_ids"] == [*HELLO, EOS]
    assert "token_ids" not in complete(engine).json()["choices"][0]


@pytest.mark.parametrize("stop", ["lo", ["x", "lo,", "lo"]])
def test_a_stop_string_ends_the_answer(stop: Any) -> None:
    engine = FakeEngine(HELLO)
    (choice,) = complete(engine, stop=stop).json()["choices"]
    assert choice["text"] == "Hel"
    assert choice["finish_reason"] == "stop"
    assert engine.said < len(HELLO)
    assert engine.closed


def test_a_streamed_completion() -> None:
    engine = FakeEngine([*"aé".encode(), EOS])
    options = {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
    *chunks, usage = events(complete(engine, **options))
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["text"] for choice in choices] == ["a", "", "é", ""]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    assert [choice["token_ids"] for choice in choices] == [[97], [0xC3], [0xA9], [EOS]]
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1


def test_a_streamed_chat() -> None:
    first, *chunks = events(chat(FakeEngine([*b"ok", EOS]), stream=True))
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    assert deltas == ["o", "k", ""]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


# Body -> what the refusal says.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "n": ({"n": 2}, "n=2 is not supported"),
    "logprobs": ({"logprobs": 1}, "logprobs=1 is not supported"),
    "echo": ({"echo": True}, "echo=True is not supported"),
    "empty": ({"prompt": ""}, "the prompt is empty"),
    "no ids": ({"prompt": []}, "the prompt is empty"),
    "two prompts": ({"prompt": ["a", "b"]}, "no list of prompts"),
    "two prompts of ids": ({"prompt": [[1], [2]]}, "no list of prompts"),
    "unknown id": ({"prompt": [320]}, "token id 320 is out of the vocabulary"),
    "negative id": ({"prompt": [-1]}, "token id -1 is out of the vocabulary"),
    "too long": ({"max_tokens": 63}, "maximum context length is 64 tokens"),
    "prompt too long": ({"prompt": "x" * 64, "max_tokens": 1}, "64 in the prompt, 1 in the"),
    "unknown stop": ({"stop_token_ids": [320]}, "token id 320 is out of the vocabulary"),
    "no tokens": ({"max_tokens": 0}, "max_tokens: "),
    "temperature": ({"temperature": -1}, "temperature: "),
    "top_p": ({"top_p": 0}, "top_p: "),
    "stop": ({"stop": 3}, "stop."),
}


@pytest.mark.parametrize(("body", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_is_said(body: dict[str, Any], said: str) -> None:
    engine = FakeEngine(HELLO)
    response = complete(engine, **body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert said in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", 400)
    assert engine.asked == []


class Unending(FakeEngine):
    """Says its whole answer, whatever is in it."""

    async def generate(self, prompt: Any, sampling: Sampling, max_tokens: int) -> Any:
        self.asked.append((list(prompt), sampling, max_tokens))
        for token in self._answer[:max_tokens]:
            yield token


def test_an_answer_goes_on_after_its_end_where_asked_for() -> None:
    engine = Unending([97, EOS, 98, 99])
    body = complete(engine, ignore_eos=True, max_tokens=3, return_token_ids=True).json()
    (choice,) = body["choices"]
    assert choice["token_ids"] == [97, EOS, 98]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
    assert engine.asked[0][1].ignore_eos


def test_a_token_ends_the_answer_where_asked_for() -> None:
    engine = Unending([97, EOS, 98, 99])
    body = complete(engine, ignore_eos=True, stop_token_ids=[98, 5], return_token_ids=True).json()
    (choice,) = body["choices"]
    assert choice["token_ids"] == [97, EOS, 98]
    assert (choice["text"], choice["finish_reason"]) == ("a", "stop")
    (choice,) = complete(engine, stop_token_ids=[98]).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("a", "stop")


# Option -> what would change the answer, and what asks for nothing (or no such value).
OPTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "n": (2, (1, None)),
    "best_of": (2, (1,)),
    "echo": (True, (False,)),
    "logprobs": (0, (False,)),
    "prompt_logprobs": (0, ()),
    "top_logprobs": (2, (0,)),
    "top_k": (40, (0, -1)),
    "min_p": (0.1, (0, 0.0)),
    "frequency_penalty": (0.5, (0,)),
    "presence_penalty": (-0.5, (0.0,)),
    "repetition_penalty": (0, (1, 1.0)),
    "length_penalty": (0.5, (1.0,)),
    "use_beam_search": (True, (False,)),
    "logit_bias": ({"5": 100}, ({},)),
    "bad_words": (["x"], ([],)),
    "allowed_token_ids": ([5], ()),
    "min_tokens": (4, (0,)),
    "skip_special_tokens": (False, (True,)),
    "include_stop_str_in_output": (True, (False,)),
    "truncate_prompt_tokens": (8, ()),
    "add_special_tokens": (False, (True,)),
    "guided_json": ({"type": "object"}, ()),
    "guided_regex": ("a+", ()),
    "guided_choice": (["a"], ()),
    "guided_grammar": ("root ::= x", ()),
    "structured_outputs": ({"regex": "a"}, ()),
    "response_format": ({"type": "json_object"}, ({"type": "text"},)),
    "suffix": ("x", ("",)),
    "max_token": (5, ()),  # a slip of the pen
    "messages": ([], ()),
}
CHAT_OPTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "tools": ([{"type": "function", "function": {"name": "f" * 999}}], ([],)),
    "tool_choice": ("required", ("none", "auto")),
    "functions": ([{"name": "f"}], ([],)),
    "modalities": (["audio"], (["text"],)),
    "reasoning_effort": ("high", ()),
    "add_generation_prompt": (False, (True,)),
    "continue_final_message": (True, (False,)),
    "add_special_tokens": (True, (False,)),
    "chat_template": ("{{ messages }}", ()),
    "chat_template_kwargs": ({"enable_thinking": False}, ({},)),
    "documents": ([{"text": "x"}], ([],)),
    "prompt": ("x", ()),
}


@pytest.mark.parametrize(
    ("ask", "name", "value"),
    [(complete, name, value) for name, (value, _) in OPTIONS.items()]
    + [(chat, name, value) for name, (value, _) in CHAT_OPTIONS.items()],
)
def test_an_option_that_is_not_there_is_refused_by_name(ask: Any, name: str, value: Any) -> None:
    engine = FakeEngine(HELLO)
    response = ask(engine, **{name: value})
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert message.startswith(f"{name}=")
    assert message.endswith("is not supported by this server")
    assert len(message) < 200
    assert engine.asked == []


@pytest.mark.parametrize(
    ("ask", "name", "value"),
    [(complete, name, value) for name, (_, some) in OPTIONS.items() for value in some]
    + [(chat, name, value) for name, (_, some) in CHAT_OPTIONS.items() for value in some],
)
def test_what_asks_for_nothing_is_accepted(ask: Any, name: str, value: Any) -> None:
    assert ask(FakeEngine(HELLO), **{name: value}).status_code == 200


@pytest.mark.parametrize(
    "more",
    [
        {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        {"parallel_tool_calls": False, "prompt_cache_key": "x", "safety_identifier": "x"},
        {"stream_options": {"include_usage": True, "include_obfuscation": False}, "priority": 1},
        {"stream_options": {"continuous_usage_stats": False}},
        {"stream_options": {"include_usage": None, "continuous_usage_stats": None, "x": None}},
    ],
)
def test_what_clients_send_beside_an_answers_options(more: dict[str, Any]) -> None:
    for ask in (complete, chat):
        assert ask(FakeEngine(HELLO), **more).status_code == 200


@pytest.mark.parametrize("ask", [complete, chat])
def test_null_is_the_default(ask: Any) -> None:
    names = "model temperature top_p max_tokens max_completion_tokens seed stop stream n logprobs "
    names += "stream_options return_token_ids top_k response_format tools user nobody"
    engine = FakeEngine(HELLO)
    response = ask(engine, **dict.fromkeys(names.split()))
    assert response.status_code == 200, response.text
    assert ask(engine).status_code == 200
    assert engine.asked[0] == engine.asked[1]
    options = {"stream": True, "stream_options": {"include_usage": None}}
    assert "usage" not in events(ask(engine, **options))[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"continuous_usage_stats": True}, "continuous_usage_stats=True"),
        ({"include_usage": True, "continuous_usage_stats": 0}, "continuous_usage_stats=0"),
        ({"include_usages": True}, "include_usages=True"),
        ({"include_obfuscation": True}, "include_obfuscation=True"),
    ],
)
@pytest.mark.parametrize("ask", [complete, chat])
def test_an_unknown_option_of_a_stream_is_refused(
    ask: Any, options: dict[str, Any], said: str
) -> None:
    engine = FakeEngine(HELLO)
    response = ask(engine, stream=True, stream_options=options)
    assert response.status_code == 400
    told = response.json()["error"]["message"]
    assert told == f"stream_options: {said} is not supported by this server"
    assert engine.asked == []


def test_null_is_no_prompt() -> None:
    for response in (
        complete(FakeEngine(HELLO), prompt=None),
        client(FakeEngine(HELLO)).post("/v1/completions", json=[None]),
    ):
        assert response.status_code == 400


CHATS: dict[str, tuple[Any, str]] = {
    "none": ([], "messages: "),
    "image": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        "content of type 'image_url'",
    ),
    "part": (
        [{"role": "user", "content": [{"type": "text", "text": "x", "lang": {"a": 1}}]}],
        "lang={'a': 1} is not supported by this server",
    ),
    "text of another type": (
        [{"role": "user", "content": [{"type": "text", "txt": "x"}]}],
        "txt='x' is not supported by this server",
    ),
    "template": ([{"role": "bad", "content": "x"}], "the chat template refuses"),
    "too long": ([{"role": "user", "content": "x" * 64}], "maximum context length"),
}


@pytest.mark.parametrize(("messages", "said"), CHATS.values(), ids=CHATS.keys())
def test_a_refused_chat(messages: Any, said: str) -> None:
    response = chat(FakeEngine(HELLO), messages=messages)
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]


def test_other_errors_have_the_same_shape() -> None:
    engine = FakeEngine(HELLO)
    for response, status in (
        (complete(engine, model="other"), 404),
        (client(engine).get("/v2"), 404),
        (client(engine).get("/v1/completions"), 405),
        (post(engine, b"{"), 400),
        (complete(FakeEngine([], RuntimeError("boom"))), 500),
    ):
        assert response.status_code == status
        assert response.json()["error"]["code"] == status
        assert response.json()["error"]["message"]


def test_an_error_in_a_stream_is_its_last_event() -> None:
    response = complete(FakeEngine(HELLO[:2], RuntimeError("boom")), stream=True)
    *_, last, end = response.text.split("\n\n")
    assert end == ""
    assert "boom" in json.loads(last.removeprefix("data: "))["error"]["message"]


def test_before_the_model_is_loaded() -> None:
    for path in ("/health", "/v1/models", "/metrics"):
        assert client(None).get(path).status_code == 503


def test_health_and_models() -> None:
    api_client = client(FakeEngine(HELLO))
    assert api_client.get("/health").status_code == 200
    (card,) = api_client.get("/v1/models").json()["data"]
    assert (card["id"], card["max_model_len"]) == ("fake", 64)


def test_the_health_of_an_engine_that_has_died() -> None:
    class Dead(FakeEngine):
        async def check_health(self) -> None:
            raise RuntimeError("CUDA error: device-side assert triggered")

    response = client(Dead(HELLO)).get("/health")
    assert response.status_code == 503
    assert "device-side assert" in response.json()["error"]["message"]


def test_a_model_with_several_names() -> None:
    engine = FakeEngine(HELLO)
    engine.aliases = ("other", "third")
    cards = client(engine).get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == ["fake", "other", "third"]
    assert {card["max_model_len"] for card in cards} == {64}
    for name in ("fake", "other", "third"):
        response = complete(engine, model=name)
        assert (response.status_code, response.json()["model"]) == (200, "fake")
    assert complete(engine, model="fourth").status_code == 404
    assert 'model_name="fake"' in client(engine).get("/metrics").text


def test_metrics_count() -> None:
    engine = FakeEngine([*b"ok", EOS])
    api_client = client(engine)
    for body in ({"prompt": "Hi"}, {"prompt": "Hi", "max_tokens": 1}):
        api_client.post("/v1/completions", json=body)
    text = api_client.get("/metrics").text
    for line in (
        'vllm:prompt_tokens_total{model_name="fake"} 4',
        'vllm:generation_tokens_total{model_name="fake"} 4',
        'vllm:num_requests_running{model_name="fake"} 0',
        'vllm:request_success_total{model_name="fake",finished_reason="length"} 1',
        'vllm:request_success_total{model_name="fake",finished_reason="stop"} 1',
    ):
        assert line in text.splitlines()


def test_a_name_beyond_ascii() -> None:
    engine = FakeEngine([*b"ok", EOS])
    engine.name = 'modèle \t"数" \\ \n\x7f'
    api_client = client(engine)
    (card,) = api_client.get("/v1/models").json()["data"]
    assert card["id"] == engine.name
    assert complete(engine, model=engine.name).json()["model"] == engine.name
    assert events(complete(engine, stream=True))[0]["model"] == engine.name
    response = api_client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    # Prometheus knows these three escapes and no others.
    label = 'model_name="modèle \t\\"数\\" \\\\ \\n\x7f"'
    assert f"vllm:prompt_tokens_total{{{label}}} 0\n" in response.content.decode()


NO_UNICODE = {
    "prompt": b'{"prompt": "\\ud800"}',
    "prompt in a list": b'{"prompt": ["\\udfff"]}',
    "name": b'{"prompt": "Hi", "\\ud800": 1}',
    "value": b'{"prompt": "Hi", "x": "\\ud800"}',
    "ignored": b'{"prompt": "Hi", "user": {"a": ["\\ud800"]}}',
    "model": b'{"prompt": "Hi", "model": "\\ud800"}',
    "stop": b'{"prompt": "Hi", "stop": ["\\ud800"]}',
    "chat": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "content type": b'{"messages": [{"role": "user", "content": [{"type": "\\ud800"}]}]}',
    "body": b'"\\ud800"',
}


@pytest.mark.parametrize("body", NO_UNICODE.values(), ids=NO_UNICODE.keys())
def test_what_is_no_unicode_is_refused(body: bytes) -> None:
    engine = FakeEngine(HELLO)
    for path in ("/v1/completions", "/v1/chat/completions"):
        response = post(engine, body, path)
        assert response.status_code == 400, (body, response.text)
        error = response.json()["error"]
        assert error["message"] == "the body is not Unicode: it has half of a surrogate pair"
        assert (error["type"], error["code"]) == ("invalid_request_error", 400)
    assert engine.asked == []


def test_bytes_that_are_no_utf_8_are_refused() -> None:
    response = post(FakeEngine(HELLO), b'{"prompt": "\xff"}')
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


def test_a_surrogate_pair_is_a_character() -> None:
    engine = FakeEngine(HELLO)
    assert post(engine, b'{"prompt": "\\ud83d\\ude00"}').status_code == 200
    assert bytes(engine.asked[0][0]).decode() == "\U0001f600"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_engine(stream: bool) -> None:
    class Endless(FakeEngine):
        max_length = 10**9

        async def generate(self, *_: Any) -> Any:
            try:
                while True:
                    self.said += 1
                    yield 97
                    await asyncio.sleep(0)
            finally:
                self.closed = True

    engine = Endless([])
    app = api.create(engine)
    body = json.dumps({"prompt": "Hi", "max_tokens": 10**6, "stream": stream}).encode()

    async def receive() -> dict[str, Any]:
        if not asked:
            asked.append(body)
            return {"type": "http.request", "body": body, "more_body": False}
        while engine.said < 5:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        await asyncio.sleep(0)

    asked: list[bytes] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "POST",
        "path": "/v1/completions",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 20))
    assert engine.closed
    assert engine.said < 10**6
    assert app.state.metrics.finished == {"abort": 1}
    assert app.state.metrics.running == 0

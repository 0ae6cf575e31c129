"""The HTTP side: OpenAI's completions over one Engine, health and metrics."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException

from . import protocol
from .engine import Engine, RequestError
from .protocol import ChatRequest, CompletionRequest
from .text import Answer


@dataclass
class Metrics:
    """Counts since the start, under vLLM's names: its dashboards then show this server too."""

    running: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)

    def render(self, model: str) -> str:
        """Prometheus' text format, which is UTF-8 and knows no other escapes than these three."""
        escaped = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        label = f'model_name="{escaped}"'
        lines = [
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{{{label}}} {self.running}",
            "# TYPE vllm:prompt_tokens counter",
            f"vllm:prompt_tokens_total{{{label}}} {self.prompt_tokens}",
            "# TYPE vllm:generation_tokens counter",
            f"vllm:generation_tokens_total{{{label}}} {self.generation_tokens}",
            "# TYPE vllm:request_success counter",
        ]
        lines += [
            f'vllm:request_success_total{{{label},finished_reason="{reason}"}} {count}'
            for reason, count in sorted(self.finished.items())
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Piece:
    """What one token added; the last piece of an answer says why it ended."""

    text: str
    tokens: list[int]
    finish_reason: str | None = None


class _Completion:
    """One request while it is answered."""

    def __init__(
        self, request: protocol.Request, engine: Engine, metrics: Metrics, created: int
    ) -> None:
        self.request = request
        self.prompt, self.limit = protocol.prepare(request, engine)
        self.chat = isinstance(request, ChatRequest)
        self._engine = engine
        self._metrics = metrics
        self._created = created
        self._id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._tokens = 0

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The answer, a token at a time. Closing this stops the engine."""
        metrics, engine = self._metrics, self._engine
        answer = Answer(engine.tokenizer.decode, self.request.stops)
        metrics.running += 1
        metrics.prompt_tokens += len(self.prompt)
        reason = "abort"
        sampling = self.request.sampling
        ends = sampling.ends(engine.tokenizer.eos_ids)
        try:
            generated = engine.generate(self.prompt, sampling, self.limit)
            async with aclosing(generated) as tokens:
                async for token in tokens:
                    self._tokens += 1
                    metrics.generation_tokens += 1
                    ended = token in ends
                    text = "" if ended else answer.push(token)
                    last = ended or self._tokens == self.limit
                    if last:
                        text += answer.finish()
                    if last or answer.stopped:
                        reason = "stop" if ended or answer.stopped else "length"
                        yield Piece(text, [token], reason)
                        return
                    yield Piece(text, [token])
        finally:
            metrics.running -= 1
            metrics.finished[reason] += 1

    async def whole(self, http: Request) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        pieces = []
        async with aclosing(self.pieces()) as stream:
            async for piece in stream:
                pieces.append(piece)
                if await http.is_disconnected():
                    break
        text = "".join(piece.text for piece in pieces)
        content = (
            {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        )
        tokens = [token for piece in pieces for token in piece.tokens]
        choice = self._choice(content, pieces[-1].finish_reason, tokens)
        return {**self._envelope([choice], streamed=False), "usage": self._usage()}

    async def events(self) -> AsyncGenerator[str, None]:
        """The answer as server-sent events."""
        try:
            if self.chat:
                yield self._event([self._choice({"delta": {"role": "assistant", "content": ""}})])
            async with aclosing(self.pieces()) as stream:
                async for piece in stream:
                    # Without ids a token that completes no character says nothing.
                    if piece.text or piece.finish_reason or self.request.return_token_ids:
                        content = (
                            {"delta": {"content": piece.text}}
                            if self.chat
                            else {"text": piece.text}
                        )
                        yield self._event(
                            [self._choice(content, piece.finish_reason, piece.tokens)]
                        )
            if self.request.include_usage:
                yield self._event([], usage=self._usage())
        except Exception as error:
            # The status line is gone; what is left to say goes into the stream.
            yield f"data: {json.dumps(protocol.error_body(500, repr(error)))}\n\n"
            raise
        yield "data: [DONE]\n\n"

    def _choice(
        self, content: dict[str, Any], reason: str | None = None, tokens: list[int] | None = None
    ) -> dict[str, Any]:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": reason}
        if self.request.return_token_ids:
            choice["token_ids"] = tokens
        return choice

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        body = {**self._envelope(choices, streamed=True), **more}
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"

    def _envelope(self, choices: list[dict[str, Any]], *, streamed: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if streamed else "chat.completion"
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._engine.name,
            "choices": choices,
        }

    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": len(self.prompt),
            "completion_tokens": self._tokens,
            "total_tokens": len(self.prompt) + self._tokens,
        }


def create(engine: Engine | None = None) -> FastAPI:
    """The app. Its state's `engine` may be set later; until then it is not healthy."""
    app = FastAPI(title="imgbuild", docs_url=None, redoc_url=None)
    app.state.engine = engine
    app.state.metrics = Metrics()
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(RequestError, _on_refused)
    app.add_exception_handler(Exception, _on_failure)
    app.add_api_route("/health", _health)
    app.add_api_route("/metrics", _metrics)
    app.add_api_route("/v1/models", _models)
    app.add_api_route("/v1/completions", _completions, methods=["POST"])
    app.add_api_route("/v1/chat/completions", _chat_completions, methods=["POST"])
    return app


def _engine(http: Request) -> Engine:
    engine: Engine | None = http.app.state.engine
    if engine is None:
        raise HTTPException(503, "the model is being loaded")
    return engine


async def _health(http: Request) -> Response:
    engine = _engine(http)
    try:
        await engine.check_health()
    except Exception as error:
        raise HTTPException(503, f"the engine has died: {error}") from error
    return Response()


async def _metrics(http: Request) -> Response:
    text = http.app.state.metrics.render(_engine(http).name)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


async def _models(http: Request) -> dict[str, Any]:
    engine = _engine(http)
    more = {"object": "model", "created": int(time.time())}
    more |= {"owned_by": "imgbuild", "max_model_len": engine.max_length}
    names = (engine.name, *engine.aliases)
    return {"object": "list", "data": [{"id": name, **more} for name in names]}


async def _completions(body: CompletionRequest, http: Request) -> Response:
    return await _complete(body, http)


async def _chat_completions(body: ChatRequest, http: Request) -> Response:
    return await _complete(body, http)


async def _complete(body: protocol.Request, http: Request) -> Response:
    engine = _engine(http)
    if body.model not in (None, engine.name, *engine.aliases):
        raise HTTPException(404, f"The model `{body.model}` does not exist.")
    completion = _Completion(body, engine, http.app.state.metrics, int(time.time()))
    if body.stream:
        return StreamingResponse(completion.events(), media_type="text/event-stream")
    return JSONResponse(await completion.whole(http))


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse(protocol.error_body(status, message), status)


async def _on_http_error(_http: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    return _error(error.status_code, str(error.detail))


async def _on_invalid(_http: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    return _error(400, protocol.explain(error.errors()))


async def _on_refused(_http: Request, error: Exception) -> Response:
    return _error(400, str(error))


async def _on_failure(_http: Request, error: Exception) -> Response:
    return _error(500, repr(error))

"""The bodies of OpenAI's API that this server understands, and the shape of its errors."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .engine import Engine, RequestError, Sampling

# Options that are not there, and the values with which they ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_k": (0, -1),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
}
_STREAM_NEUTRAL = {"continuous_usage_stats": (False,), "include_obfuscation": (False,)}
# What changes no answer here, whatever its value.
_IGNORED = {
    "cache_salt",
    "metadata",
    "parallel_tool_calls",
    "prediction",
    "priority",
    "prompt_cache_key",
    "prompt_cache_retention",
    "request_id",
    "safety_identifier",
    "service_tier",
    "session_id",
    "store",
    "user",
}

Tokens = Annotated[int, Field(ge=1)]


def _among(values: Sequence[Any], value: Any) -> bool:
    """Whether it is one of them; `logprobs: 0` asks for something, and 0 == False in Python."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values)


def _texts(body: Any) -> Iterator[str]:
    """Each name and each text in what JSON says, however deep."""
    left = [body]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value


class _Options(BaseModel):
    """In OpenAI's API null says the same as nothing."""

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None}


def _refusal(name: str, value: Any) -> str:
    return f"{name}={reprlib.repr(value)} is not supported by this server"


class StreamOptions(_Options):
    """`include_usage` asks for one more chunk, with the usage."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool = False

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> StreamOptions:
        for name, value in (self.model_extra or {}).items():
            if not _among(_STREAM_NEUTRAL.get(name, ()), value):
                raise ValueError(_refusal(name, value))
        return self


class Request(_Options):
    """What both kinds of completion have in common.

    A request is answered as it was meant or refused: any other option, known to OpenAI or vLLM or
    to nobody, is an error unless its value asks for nothing. OpenAI's own server refuses unknown
    names too, so its clients send none; what they send for its accounts, caches and logs (`user`,
    `metadata`, ...) is ignored.
    """

    model_config = ConfigDict(extra="allow")
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = _NEUTRAL

    model: str | None = None
    max_tokens: Tokens | None = None
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_no_unicode(cls, body: Any) -> Any:
        try:
            for text in _texts(body):
                text.encode()
        except UnicodeEncodeError:  # JSON can say "\ud800"; tokenizers and answers cannot
            raise ValueError("the body is not Unicode: it has half of a surrogate pair") from None
        return body

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> Request:
        for name, value in (self.model_extra or {}).items():
            if name not in _IGNORED and not _among(self.neutral.get(name, ()), value):
                raise ValueError(_refusal(name, value))
        return self

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            ignore_eos=self.ignore_eos,
            stop_token_ids=frozenset(self.stop_token_ids),
        )

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def token_ids(self, engine: Engine) -> list[int]:
        """The prompt's ids. Raises RequestError."""
        raise NotImplementedError

    def limit(self, room: int) -> int:
        """Tokens of the answer, where the context has room for `room`."""
        raise NotImplementedError


class CompletionRequest(Request):
    """Body of POST /v1/completions."""

    neutral = {**_NEUTRAL, "add_special_tokens": (True,)}

    # Lists of prompts are accepted here to be refused with a sentence instead of a type error.
    prompt: str | list[int] | list[str] | list[list[int]]

    def token_ids(self, engine: Engine) -> list[int]:
        prompt = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise RequestError("one prompt a request: this server takes no list of prompts")
            prompt = prompt[0]
        if isinstance(prompt, str):
            return engine.tokenizer.encode(prompt)
        return [id_ for id_ in prompt if isinstance(id_, int)]

    def limit(self, room: int) -> int:  # noqa: ARG002 - a default of OpenAI's, not the room
        return self.max_tokens or 16


class TextPart(_Options):
    """A part of a message; other types than text are refused by name."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str = ""


class Message(BaseModel):
    """One message of a conversation; templates may read more fields than these."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[TextPart] | None = None

    def plain(self) -> dict[str, Any]:
        """What a chat template gets: the content as one text. Raises RequestError."""
        content = self.content
        if isinstance(content, list):
            for part in content:
                if part.type != "text":
                    raise RequestError(
                        f"content of type {part.type!r}: this server reads text only"
                    )
                for name, value in (part.model_extra or {}).items():
                    raise RequestError(_refusal(name, value))
            content = "".join(part.text for part in content)
        return {**(self.model_extra or {}), "role": self.role, "content": content}


class ChatRequest(Request):
    """Body of POST /v1/chat/completions."""

    neutral = {**_NEUTRAL, "add_special_tokens": (False,)}

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Tokens | None = None

    def token_ids(self, engine: Engine) -> list[int]:
        return engine.tokenizer.encode_chat([message.plain() for message in self.messages])

    def limit(self, room: int) -> int:
        return self.max_completion_tokens or self.max_tokens or max(room, 1)


def prepare(request: Request, engine: Engine) -> tuple[list[int], int]:
    """A request's prompt and the most tokens of its answer. Raises RequestError."""
    prompt = request.token_ids(engine)
    if not prompt:
        raise RequestError("the prompt is empty")
    # A GPU would not answer such a token with an error but stop working for all requests.
    ids = [*prompt, *request.stop_token_ids]
    if wrong := [id_ for id_ in ids if not 0 <= id_ < engine.tokenizer.vocab_size]:
        raise RequestError(f"token id {wrong[0]} is out of the vocabulary")
    limit = request.limit(engine.max_length - len(prompt))
    if len(prompt) + limit > engine.max_length:
        raise RequestError(
            f"This model's maximum context length is {engine.max_length} tokens. However, you "
            f"requested {len(prompt) + limit} tokens ({len(prompt)} in the prompt, {limit} in the "
            "completion)."
        )
    return prompt, limit


def error_body(status: int, message: str) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def explain(problems: Sequence[Any]) -> str:
    """Pydantic's findings as one line."""
    lines = []
    for problem in problems:
        place = ".".join(str(part) for part in problem["loc"] if part != "body")
        message = str(problem["msg"]).removeprefix("Value error, ")
        lines.append(f"{place}: {message}" if place else message)
    return "; ".join(lines)

"""An engine without a model: bytes are tokens, and the answer is said beforehand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from builder.servers.engine import RequestError, Sampling

EOS = 257


class Bytes:
    """A tokenizer in which each byte is the token of its number."""

    vocab_size = 320
    eos_ids = frozenset([EOS])

    def encode(self, text: str) -> list[int]:
        return [*text.encode()]

    def encode_chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        if any(message["role"] == "bad" for message in messages):
            raise RequestError("the chat template refuses the messages: bad")
        return self.encode("".join(message["content"] for message in messages))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(id_ for id_ in ids if id_ < 256).decode(errors="replace")


class FakeEngine:
    """Says `answer`, however it is asked; remembers the questions and whether it was stopped."""

    name = "fake"
    aliases: Sequence[str] = ()
    max_length = 64

    def __init__(self, answer: Sequence[int], error: Exception | None = None) -> None:
        self.tokenizer = Bytes()
        self.asked: list[tuple[list[int], Sampling, int]] = []
        self.said = 0
        self.closed = False
        self._answer = answer
        self._error = error

    async def check_health(self) -> None:
        """It is well."""

    async def generate(
        self, prompt: Sequence[int], sampling: Sampling, max_tokens: int
    ) -> AsyncGenerator[int, None]:
        self.asked.append((list(prompt), sampling, max_tokens))
        try:
            for token in self._answer[:max_tokens]:
                self.said += 1
                yield token
                if token == EOS:
                    return
            if self._error:
                raise self._error
        finally:
            self.closed = True

"""What the API asks of a model, and the words both use for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class ServerError(Exception):
    """The server cannot be started as asked; the message is one line for the user."""


class RequestError(Exception):
    """A request that this server refuses: HTTP 400 with this message."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and which is the last. Temperature 0 takes the likeliest."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False
    stop_token_ids: frozenset[int] = frozenset()

    def ends(self, eos_ids: frozenset[int]) -> frozenset[int]:
        """Tokens that end this answer, where `eos_ids` end the model's others."""
        return self.stop_token_ids if self.ignore_eos else self.stop_token_ids | eos_ids


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens with which the model ends an answer."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt, with the special tokens that the model wants in front."""
        ...

    def encode_chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Ids of a conversation that the model is to continue. Raises RequestError."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens; bytes that are no UTF-8 (yet) become U+FFFD."""
        ...


class Engine(Protocol):
    """One loaded model. Whether several requests run at once is its own affair."""

    @property
    def name(self) -> str:
        """What requests call the model, and answers."""
        ...

    @property
    def aliases(self) -> Sequence[str]:
        """What requests may call it besides."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens of a prompt and its answer together."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own."""
        ...

    def generate(
        self, prompt: Sequence[int], sampling: Sampling, max_tokens: int
    ) -> AsyncGenerator[int, None]:
        """At most `max_tokens` ids; the last is one of `sampling.ends(eos_ids)` if the model ended.

        Closing the generator stops the work. The prompt is not empty and leaves room for
        `max_tokens`.
        """
        ...

    async def check_health(self) -> None:
        """Raises what the engine has died of, if it will answer no more."""
        ...

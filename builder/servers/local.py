"""An engine around a model in this process: one request at a time, on a thread of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from . import launch
from .engine import Sampling, ServerError, Tokenizer
from .sampling import Sampler


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The options of a server whose model is in this process."""
    options = launch.parser(name, description)
    options.add_argument("--max-model-len", type=int, metavar="TOKENS", help="default: the model's")
    options.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="auto: float32 on a CPU, bfloat16 elsewhere",
    )
    return options


class Model(Protocol):
    """A causal language model with a cache; logits stay on its device until they are asked for."""

    def start(self, prompt: Sequence[int], max_tokens: int) -> Any:
        """Forget what was before and read the prompt; logits (a vector) of the next token."""
        ...

    def step(self, token: int) -> Any:
        """Append a token; logits of the next one."""
        ...

    def to_host(self, logits: Any) -> Any:
        """The logits as a NumPy vector of float32."""
        ...


class LocalEngine:
    """Serves a Model. Requests wait for one another; the event loop waits for none."""

    def __init__(
        self, names: Sequence[str], model: Model, tokenizer: Tokenizer, max_length: int
    ) -> None:
        self.name, *self.aliases = names
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._model = model
        self._failure: str | None = None
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def generate(
        self, prompt: Sequence[int], sampling: Sampling, max_tokens: int
    ) -> AsyncGenerator[int, None]:
        tokens = self.tokens(prompt, sampling, max_tokens)
        loop = asyncio.get_running_loop()
        async with self._turn:
            try:
                while (
                    token := await loop.run_in_executor(self._thread, next, tokens, None)
                ) is not None:
                    yield token
            except Exception:
                self._thread.submit(self._examine)
                raise
            finally:
                # On the thread, where it comes after a step that is still at work.
                self._thread.submit(tokens.close)

    def _examine(self) -> None:
        """After a failure: a request that asked too much has passed, a lost device fails again."""
        try:
            self.warm_up()
        except Exception as error:
            self._failure = repr(error)

    async def check_health(self) -> None:
        if self._failure:
            raise RuntimeError(self._failure)

    def tokens(
        self, prompt: Sequence[int], sampling: Sampling, max_tokens: int
    ) -> Generator[int, None, None]:
        """The same as `generate`, on the calling thread."""
        sampler = Sampler(sampling)
        ends = sampling.ends(self.tokenizer.eos_ids)
        logits: Any = self._model.start(prompt, max_tokens)
        for left in range(max_tokens, 0, -1):
            # Greedily, one number leaves the device and not the whole vocabulary.
            token = (
                int(logits.argmax())
                if sampler.greedy
                else sampler.choose(self._model.to_host(logits))
            )
            yield token
            if token in ends or left == 1:
                return
            logits = self._model.step(token)

    def warm_up(self) -> None:
        """Answer once, so that what is compiled at first use is there before the first request."""
        for _ in self.tokens([0], Sampling(temperature=0), 2):
            pass


def loaded(
    options: argparse.Namespace, model: Model, tokenizer: Tokenizer, max_length: int
) -> LocalEngine:
    """The engine around a model, warmed up, under the names that the options give it."""
    engine = LocalEngine(launch.names(options), model, tokenizer, max_length)
    engine.warm_up()
    return engine


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json. Raises ServerError."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ServerError(f"{folder} is no model folder: config.json: {error.strerror}") from error
    except ValueError as error:
        raise ServerError(f"{folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ServerError(f"{folder / 'config.json'} is not an object")
    return config


def max_length(config: dict[str, Any], asked: int | None) -> int:
    """The context in tokens: what is asked for, at most what the model was made for."""
    own: int | None = config.get("max_position_embeddings")
    if asked is None:
        if own is None:
            raise ServerError("config.json has no max_position_embeddings; give --max-model-len")
        return own
    if own is not None and asked > own:
        raise ServerError(f"--max-model-len {asked} is more than the model's {own}")
    return asked

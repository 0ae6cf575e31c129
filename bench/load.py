"""Load on an OpenAI-compatible server of this machine, and how fast it answers."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

START_SECONDS = 600.0


def tokens_per_s(pool: ThreadPoolExecutor, url: str, requests: int, tokens: int) -> float:
    """Tokens a second of so many requests at once."""
    start = time.perf_counter()
    counts = list(pool.map(lambda number: ask(url, number, tokens), range(requests)))
    return sum(counts) / (time.perf_counter() - start)


def ask(url: str, number: int, tokens: int) -> int:
    """One completion of the model "/model", of as many tokens; returns how many came."""
    body = {
        "model": "/model",
        "prompt": f"{number} once upon a time",
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{url}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310 - as above
        count: int = json.load(answer)["usage"]["completion_tokens"]
    return count


def wait(url: str, log: Callable[[], str], ended: Callable[[], object] = lambda: None) -> None:
    """Until it is healthy; raises RuntimeError with its log after START_SECONDS, or if it `ended`.

    `ended` tells with anything but None that it runs no more.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and ended() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):  # noqa: S310 - as above
                return
        except OSError:
            time.sleep(0.25)
    raise RuntimeError(log())

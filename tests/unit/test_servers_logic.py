"""The servers' pure logic: text that arrives in tokens, sampling, padded shapes, one at a time."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.servers import local, shapes
from builder.servers.engine import Sampling
from builder.servers.local import LocalEngine
from builder.servers.sampling import Sampler
from builder.servers.text import Answer, held_back
from tests.unit.fakellm import EOS, Bytes

decode = Bytes().decode


def told(tokens: list[int], stops: list[str]) -> tuple[list[str], bool]:
    answer = Answer(decode, stops)
    pieces = []
    for token in tokens:
        pieces.append(answer.push(token))
        if answer.stopped:
            return pieces, True
    return [*pieces, answer.finish()], answer.stopped


@given(st.binary(max_size=40))
def test_pieces_add_up_to_the_text(data: bytes) -> None:
    pieces, _ = told([*data], [])
    assert "".join(pieces) == data.decode(errors="replace")


@given(st.text(max_size=20))
def test_no_piece_has_half_a_character(text: str) -> None:
    pieces, _ = told([*text.encode(errors="replace")], [])
    assert "".join(pieces) == text.encode(errors="replace").decode()
    assert all(len(piece) <= 1 for piece in pieces)


@given(st.text("ab€", max_size=20), st.lists(st.text("ab€", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_cuts_where_it_first_stands(text: str, stops: list[str]) -> None:
    pieces, stopped = told([*text.encode()], stops)
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert stopped == bool(found)
    if not found:
        assert "".join(pieces) == text
        return
    # Of strings that overlap, the one that is complete first has ended the answer.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    first = min(ends)
    starts = [first - len(stop) for stop in stops if text[:first].endswith(stop)]
    assert "".join(pieces) == text[: min(starts)]


def test_a_space_in_front_depends_on_what_was_before() -> None:
    words = {1: "a", 2: "b"}

    def sentencepiece(ids: Any) -> str:  # as Llama 2's: no space in front of a whole text
        return " ".join(words[id_] for id_ in ids)

    answer = Answer(sentencepiece)
    assert [answer.push(id_) for id_ in (1, 2, 2)] == ["a", " b", " b"]


@pytest.mark.parametrize(("text", "held"), [("xa", 1), ("xab", 2), ("abc", 0), ("x", 0), ("", 0)])
def test_the_beginning_of_a_stop_string_is_held(text: str, held: int) -> None:
    assert held_back(text, ["abc"]) == held


logits = st.lists(st.floats(-50, 50), min_size=1, max_size=20).map(np.array)


@given(logits)
def test_greedy(values: np.ndarray) -> None:
    assert Sampler(Sampling(temperature=0)).choose(values) == int(np.argmax(values))
    assert Sampler(Sampling(temperature=1e-6)).greedy


@given(logits, st.integers(-(2**63), 2**63 - 1))
def test_the_same_seed_gives_the_same_tokens(values: np.ndarray, seed: int) -> None:
    one, other = (Sampler(Sampling(0.8, 0.9, seed)) for _ in range(2))
    assert [one.choose(values) for _ in range(5)] == [other.choose(values) for _ in range(5)]


@given(logits, st.floats(0.01, 1), st.floats(0.01, 2))
def test_the_nucleus_holds_what_is_chosen(
    values: np.ndarray, top_p: float, temperature: float
) -> None:
    chosen = Sampler(Sampling(temperature, top_p, 0)).choose(values)
    chances = np.exp((values - values.max()) / temperature)
    likelier = chances[chances > chances[chosen]].sum() / chances.sum()
    assert likelier < top_p + 1e-9


def test_frequencies_follow_the_chances() -> None:
    sampler = Sampler(Sampling(1.0, 1.0, 7))
    chosen = [sampler.choose(np.log([0.7, 0.2, 0.1])) for _ in range(3000)]
    assert np.bincount(chosen) / 3000 == pytest.approx([0.7, 0.2, 0.1], abs=0.03)


@given(st.integers(1, 5000))
def test_a_bucket_holds_its_length(length: int) -> None:
    bucket = shapes.bucket(length)
    assert bucket >= length
    assert bucket == shapes.SMALLEST or bucket < 2 * length
    assert bucket & (bucket - 1) == 0


@given(st.integers(1, 2000), st.integers(1, 500))
def test_chunks_cover_the_prompt_and_stay_in_the_cache(length: int, answer: int) -> None:
    prompt = list(range(1, length + 1))
    read: list[int] = []
    for start, tokens, real in shapes.chunks(prompt):
        assert start == len(read)
        assert len(tokens) == shapes.bucket(len(tokens))
        assert start + len(tokens) <= shapes.bucket(length + answer)
        read += tokens[:real]
    assert read == prompt


class Counting:
    """A model whose next token is one more than the last; it notes when two answers mix."""

    def __init__(self) -> None:
        self.fed: list[int] = []

    def start(self, prompt: Any, max_tokens: int) -> Any:
        self.fed = list(prompt)
        return self._next()

    def step(self, token: int) -> Any:
        assert token == self.fed[-1] + 1
        self.fed.append(token)
        return self._next()

    def to_host(self, logits: Any) -> Any:
        return logits

    def _next(self) -> Any:
        return np.eye(1, 320, self.fed[-1] + 1)[0] * 100


async def collect(engine: LocalEngine, first: int, count: int) -> list[int]:
    return [t async for t in engine.generate([first], Sampling(temperature=first % 2), count)]


def test_requests_take_turns() -> None:
    engine = LocalEngine(["x"], Counting(), Bytes(), 64)

    async def both() -> list[list[int]]:
        return await asyncio.gather(*(collect(engine, 10 * n, 5) for n in range(1, 6)))

    assert asyncio.run(both()) == [[10 * n + i for i in range(1, 6)] for n in range(1, 6)]


def test_an_answer_ends_with_its_eos() -> None:
    engine = LocalEngine(["x"], Counting(), Bytes(), 64)
    assert asyncio.run(collect(engine, EOS - 2, 9)) == [EOS - 1, EOS]


@pytest.mark.parametrize(
    ("sampling", "answer"),
    [
        (Sampling(0, ignore_eos=True), [EOS - 1, EOS, EOS + 1, EOS + 2]),
        (
            Sampling(0, ignore_eos=True, stop_token_ids=frozenset([EOS + 1])),
            [EOS - 1, EOS, EOS + 1],
        ),
        (Sampling(0, stop_token_ids=frozenset([EOS - 1])), [EOS - 1]),
        (Sampling(0, stop_token_ids=frozenset([EOS + 1])), [EOS - 1, EOS]),
    ],
)
def test_what_ends_an_answer(sampling: Sampling, answer: list[int]) -> None:
    engine = LocalEngine(["x"], Counting(), Bytes(), 64)
    assert list(engine.tokens([EOS - 2], sampling, 4)) == answer


def test_a_request_that_is_given_up_lets_the_next_one_in() -> None:
    engine = LocalEngine(["x"], Counting(), Bytes(), 64)

    async def leave_then_ask() -> list[int]:
        left = engine.generate([1], Sampling(), 50)
        assert await anext(left) == 2
        await left.aclose()
        return await collect(engine, 100, 2)

    assert asyncio.run(leave_then_ask()) == [101, 102]


class Failing(Counting):
    """Fails at a prompt of 13; `lost` tells whether its device fails from then on."""

    def __init__(self, lost: bool) -> None:
        super().__init__()
        self.lost = lost
        self.failed = False

    def start(self, prompt: Any, max_tokens: int) -> Any:
        if prompt == [13] or (self.failed and self.lost):
            self.failed = True
            raise RuntimeError("device-side assert triggered")
        return super().start(prompt, max_tokens)


@pytest.mark.parametrize("lost", [False, True])
def test_an_engine_is_dead_once_nothing_works_any_more(lost: bool) -> None:
    engine = LocalEngine(["x"], Failing(lost), Bytes(), 64)

    async def ask(first: int) -> list[int]:
        with pytest.raises(RuntimeError, match="device-side assert") if lost else nullcontext():
            return await collect(engine, first, 2)
        return []

    async def fail_then_ask() -> list[int]:
        await engine.check_health()
        with pytest.raises(RuntimeError, match="device-side assert"):
            await collect(engine, 13, 2)
        answer = await ask(100)  # after which it is known
        with pytest.raises(RuntimeError, match="device-side assert") if lost else nullcontext():
            await engine.check_health()
        return answer

    assert asyncio.run(fail_then_ask()) == ([] if lost else [101, 102])


@pytest.mark.parametrize(
    ("own", "asked", "length"), [(512, None, 512), (512, 128, 128), (None, 128, 128)]
)
def test_the_context_length(own: int | None, asked: int | None, length: int) -> None:
    assert local.max_length({"max_position_embeddings": own}, asked) == length

"""The text of an answer while its tokens arrive: whole characters only, cut at a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a decoder makes of the first bytes of a character


class Answer:
    """Turns tokens into pieces of text that never have to be taken back."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._decode = decode
        self._stops = [stop for stop in stops if stop]
        self._tokens: list[int] = []
        # Tokens before _done are out; those from _context on are decoded again with each new one,
        # because decoders treat the start of a text differently (a leading space, say).
        self._context = 0
        self._done = 0
        self._held = ""  # may be the beginning of a stop string

    def push(self, token: int) -> str:
        """Text that is certain after one more token; `stopped` tells whether a stop string came."""
        self._tokens.append(token)
        text = self._new_text()
        if text.endswith(_INCOMPLETE):
            return ""
        self._context, self._done = self._done, len(self._tokens)
        return self._release(text)

    def finish(self) -> str:
        """The rest, after the last token."""
        if self.stopped:
            return ""
        text = self._release(self._new_text())
        rest, self._held = self._held, ""
        return text if self.stopped else text + rest

    def _new_text(self) -> str:
        before = self._decode(self._tokens[self._context : self._done])
        return self._decode(self._tokens[self._context :])[len(before) :]

    def _release(self, text: str) -> str:
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        certain = len(text) - held_back(text, self._stops)
        self._held = text[certain:]
        return text[:certain]


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string."""
    for length in range(min(len(text), max(map(len, stops), default=1) - 1), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0

"""Progress on stderr: a spinner with the step and its time, or plain lines where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

_CONSOLE = Console(stderr=True, highlight=False)


class Display:
    """Shows what one task is doing now; a spinner draws it anew, so that its seconds run."""

    def __init__(self, title: str, *, watched: bool) -> None:
        self._title = title
        self._watched = watched
        self._step: str | None = None
        self._line = ""
        self._begin = time.monotonic()

    def step(self, name: str) -> None:
        """A new step begins; where somebody watches, the last one's time stays on the screen."""
        self.end()
        self._step, self._line, self._begin = name, "", time.monotonic()
        if not self._watched:
            _CONSOLE.print(Text(f"{self._title}: {name} ..."))

    def line(self, text: str) -> None:
        """The last line of a log, shown beside the step where somebody watches."""
        self._line = text

    def end(self) -> None:
        """The last step is over."""
        if self._watched and self._step:
            seconds = time.monotonic() - self._begin
            _CONSOLE.print(Text(f"{self._title}: {self._step} {seconds:.1f} s"))

    def __rich__(self) -> Text:
        seconds = time.monotonic() - self._begin
        shown = f"{self._title}: {self._step or 'starting'} ({seconds:.0f} s) {self._line}"
        return Text(shown[: _CONSOLE.width - 4], style="dim")


@contextmanager
def display(title: str) -> Iterator[Display]:
    """A Display for the time of a `with` block."""
    shown = Display(title, watched=_CONSOLE.is_terminal)
    if not _CONSOLE.is_terminal:
        yield shown
        return
    with _CONSOLE.status(shown):
        yield shown
        shown.end()

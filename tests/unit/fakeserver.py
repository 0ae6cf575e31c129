"""A server on 127.0.0.1 whose answers a test gives."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


class Answer(BaseHTTPRequestHandler):
    """Answers each path with what the class holds for it: a status and a body, or raw bytes."""

    answers: ClassVar[dict[str, tuple[int, Any] | bytes]]
    asked: ClassVar[list[tuple[str, Any]]]

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.asked.append((self.path, body))
        answer = self.answers.get(self.path, (404, "no such path"))
        if isinstance(answer, bytes):
            self.wfile.write(answer)
            return
        status, content = answer
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = _answer  # noqa: N815 - the names that http.server looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
        pass


@contextmanager
def serving(
    answers: dict[str, tuple[int, Any] | bytes],
) -> Iterator[tuple[int, list[tuple[str, Any]]]]:
    """A running server's port, and what it was asked."""
    asked: list[tuple[str, Any]] = []
    handler = type("Handler", (Answer,), {"answers": answers, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        # A short poll: shutdown() waits for it.
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()
            thread.join()

"""A registry on 127.0.0.1 that a test scripts: it may ask for tokens, redirect, lie and hang up."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class FakeRegistry:
    """What it holds and how it behaves; every name of a repository is the same to it."""

    port: int = 0
    blobs: dict[str, bytes] = field(default_factory=dict)  # digest -> content
    manifests: dict[str, bytes] = field(default_factory=dict)  # tag or digest -> content
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    tokens: list[tuple[str, dict[str, list[str]], str]] = field(default_factory=list)
    challenge: str = ""  # "Basic" or "Bearer": what it asks for before it answers
    accepted: str = ""  # the Authorization that it takes
    cut_after: int = 0  # bytes of a blob after which it hangs up, each time
    resumes: bool = True
    failures: int = 0  # so often it answers a blob with 503 first
    elsewhere: int = 0  # port that blobs are redirected to
    tells_digest: bool = True
    puts: list[tuple[str, str, bytes]] = field(default_factory=list)
    uploaded: list[str] = field(default_factory=list)  # digests of blobs, in order
    refusals: int = 0  # so often it answers an upload with 503 first

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add_image(
        self, *layers: bytes, tag: str = "latest", media_type: str = f"{LAYER}+zstd"
    ) -> str:
        """Hold an image; returns its digest."""
        config = json.dumps({"os": "linux", "layers": len(layers)}).encode()
        parts = []
        for content in (config, *layers):
            self.blobs[digest_of(content)] = content
            parts.append(
                {"digest": digest_of(content), "size": len(content), "mediaType": media_type}
            )
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST}
        return self.add_manifest(manifest | {"config": parts[0], "layers": parts[1:]}, tag)

    def add_manifest(self, manifest: dict[str, Any], tag: str) -> str:
        text = json.dumps(manifest).encode()
        self.manifests[tag] = self.manifests[digest_of(text)] = text
        return digest_of(text)


class _Handler(BaseHTTPRequestHandler):
    registry: FakeRegistry

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        held, path = self.registry, urlsplit(self.path)
        if path.path == "/token":
            query = parse_qs(body.decode() or path.query)
            held.tokens.append((self.command, query, self.headers.get("Authorization", "")))
            self._send(200, json.dumps({"token": "the-token"}).encode())
            return
        held.asked.append((self.command, self.path, dict(self.headers)))
        if held.challenge and self.headers.get("Authorization") != held.accepted:
            realm = f'realm="http://{held.host}/token?x=y",service="a service",scope="made:up"'
            value = f"{held.challenge} {realm}"
            self._send(401, b"{}", {"WWW-Authenticate": value})
            return
        if "/blobs/uploads/" in path.path:
            self._upload(path.query, body)
            return
        kind, name = re.fullmatch(r"/v2/.+/(manifests|blobs)/(.+)", path.path).groups()  # type: ignore[union-attr]
        if self.command == "PUT":
            held.puts.append((name, self.headers["Content-Type"], body))
            held.manifests[name] = held.manifests[digest_of(body)] = body
            self._send(201, b"")
        elif kind == "manifests":
            self._manifest(name)
        else:
            self._blob(name)

    def _upload(self, query: str, body: bytes) -> None:
        held = self.registry
        if self.command == "POST":
            self._send(202, b"", {"Location": "/v2/x/blobs/uploads/of-somebody?state=a%2Bb"})
        elif held.refusals:
            held.refusals -= 1
            self._send(503, b"")
        else:
            asked = parse_qs(query)
            assert asked["state"] == ["a+b"]
            assert asked["digest"] == [digest_of(body)]
            held.blobs[digest_of(body)] = body
            held.uploaded.append(digest_of(body))
            self._send(201, b"")

    def _manifest(self, name: str) -> None:
        text = self.registry.manifests.get(name)
        if text is None:
            self._send(404, b"{}")
            return
        headers = {"Content-Type": "application/json"}
        if self.registry.tells_digest:
            told = name if name.startswith("sha256:") else digest_of(text)
            headers["Docker-Content-Digest"] = told
        self._send(200, text, headers)

    def _blob(self, name: str) -> None:
        held = self.registry
        if held.elsewhere:
            location = f"http://127.0.0.1:{held.elsewhere}/v2/x/blobs/{name}"
            self._send(307, b"", {"Location": location})
            return
        if held.failures:
            held.failures -= 1
            self._send(503, b"")
            return
        if name not in held.blobs:
            self._send(404, b"{}")
            return
        content, begin = held.blobs[name], 0
        if held.resumes and (found := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            begin = int(found[1])
        content = content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: held.cut_after or None])

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = _answer  # noqa: N815 - the names that http.server looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
        pass


@contextmanager
def fake_registry() -> Iterator[FakeRegistry]:
    """One that runs."""
    held = FakeRegistry()
    handler = type("Handler", (_Handler,), {"registry": held})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        held.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield held
        finally:
            server.shutdown()
            thread.join()

"""A real registry server on 127.0.0.1, with TLS and a login, or without either."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt

from builder.engines.host import free_port

USER, PASSWORD = "lab", "planted-password"
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


@dataclass(frozen=True)
class RegistryServer:
    """One that runs. `ca` signed its certificate; without it, it speaks plain HTTP to anybody."""

    host: str  # with its port
    folder: Path
    ca: Path | None

    @property
    def url(self) -> str:
        return f"{'https' if self.ca else 'http'}://{self.host}"

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def env(self, password: str = PASSWORD) -> dict[str, str]:
        """Variables that let engines and imgbuild trust it, and log in to it."""
        if self.ca is None:
            return {}
        config = self.folder / f"login-{len(password)}"
        config.mkdir(exist_ok=True)
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        (config / "config.json").write_text(json.dumps({"auths": {self.host: {"auth": auth}}}))
        return {
            "SSL_CERT_FILE": str(self.ca),
            "DOCKER_CONFIG": str(config),
            "REGISTRY_AUTH_FILE": str(config / "config.json"),
        }

    def put(self, path: str, data: bytes, media_type: str) -> None:
        """Give it a manifest, whose blobs are there."""
        self.ask(path, "PUT", data=data, media_type=media_type)

    def ask(
        self, path: str, method: str = "GET", *, data: bytes | None = None, media_type: str = ""
    ) -> tuple[dict[str, str], bytes]:
        """Headers and body of an answer of its API."""
        request = urllib.request.Request(f"{self.url}/v2/{path}", data=data, method=method)
        if media_type:
            request.add_header("Content-Type", media_type)
        request.add_header("Accept", ", ".join(_MANIFESTS))
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
        context = ssl.create_default_context(cafile=self.ca) if self.ca else None
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        handlers += [urllib.request.HTTPSHandler(context=context)] if context else []
        with urllib.request.build_opener(*handlers).open(request, timeout=10) as answer:
            return {k.lower(): v for k, v in answer.headers.items()}, answer.read()

    def digest(self, repository: str, tag: str) -> str:
        """What it says that a tag is."""
        return self.ask(f"{repository}/manifests/{tag}", "HEAD")[0]["docker-content-digest"]

    def manifest(self, repository: str, reference: str) -> Any:
        return json.loads(self.ask(f"{repository}/manifests/{reference}")[1])

    def tags(self, repository: str) -> set[str]:
        return set(json.loads(self.ask(f"{repository}/tags/list")[1])["tags"])

    def blob_file(self, digest: str) -> Path:
        """Where it keeps a blob, for tests that spoil it."""
        name = digest.removeprefix("sha256:")
        return self.storage / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"


@contextmanager
def serve(folder: Path, *, tls: bool) -> Iterator[RegistryServer]:
    """Run one in `folder` for the time of a `with` block; with TLS it wants a login too."""
    host = f"127.0.0.1:{free_port()}"
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": host, "secret": "of one process"},
    }
    ca = None
    if tls:
        ca, certificate, key = _certificates(folder)
        config["http"]["tls"] = {"certificate": str(certificate), "key": str(key)}
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log
        )
    server = RegistryServer(host, folder, ca)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                server.ask("")
                break
            except OSError:
                running = process.poll() is None and time.monotonic() < deadline
                assert running, (folder / "log").read_text()
                time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(10)


def _certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A CA, and a certificate of it for 127.0.0.1 with its key."""
    ca, ca_key, key = folder / "ca.crt", folder / "ca.key", folder / "server.key"
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    own = ["-x509", "-days", "2", "-addext", "basicConstraints=critical,CA:TRUE"]
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    request, certificate = folder / "server.csr", folder / "server.crt"
    sign = ["openssl", "x509", "-req", "-in", str(request), "-CA", str(ca), "-CAkey", str(ca_key)]
    sign += ["-CAcreateserial", "-days", "2", "-extfile", str(folder / "names")]
    for command in (
        [*new, *own, "-subj", "/CN=a test's CA", "-keyout", str(ca_key), "-out", str(ca)],
        [*new, "-subj", "/CN=registry", "-keyout", str(key), "-out", str(request)],
        [*sign, "-out", str(certificate)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return ca, certificate, key

"""Logins that container tools keep: docker's config.json, containers' auth.json, helpers."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder import proc
from builder.errors import BuildError
from builder.proc import Command

_HUB = "https://index.docker.io/v1/"  # the name that docker keeps its Hub's login under
_HELPER_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Login:
    """Who we are to a registry: a name with a password, or a token to be exchanged for others."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def find(host: str, repository: str, env: Mapping[str, str] | None = None) -> Login | None:
    """The first login for a repository, or its registry, that one of the tools here keeps.

    The most particular wins within a file: host/lab/vllm before host/lab before host.
    Raises BuildError when a credential helper fails.
    """
    for file in _files(os.environ if env is None else env):
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            if login := _of(kept, list(_names(host, repository))):
                return login
        except (OSError, ValueError, AttributeError, TypeError):
            continue  # the tool that wrote it will complain
    return None


def _files(env: Mapping[str, str]) -> Iterator[Path]:
    """In the order of podman, then docker's, then Apptainer's."""
    home = Path(env.get("HOME", "/nonexistent"))
    if own := env.get("REGISTRY_AUTH_FILE"):
        yield Path(own)
    if runtime := env.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"
    yield Path(f"/run/containers/{os.getuid()}/auth.json")  # podman's, where there is no session
    yield Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"
    yield Path(env.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    yield home / ".apptainer/docker-config.json"


def _names(host: str, repository: str) -> Iterator[str]:
    parts = [host, *repository.split("/")]
    yield from ("/".join(parts[:length]) for length in range(len(parts), 0, -1))
    yield from (f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/", f"http://{host}")
    yield from (_HUB,) if host == "docker.io" else ()


def _of(kept: dict[str, Any], names: list[str]) -> Login | None:
    helpers, default = kept.get("credHelpers") or {}, kept.get("credsStore")
    auths = kept.get("auths") or {}
    for name in names:
        if helper := helpers.get(name) or (default if name in auths else None):
            if login := _ask(helper, name):
                return login
        elif name in auths and (login := _plain(auths[name])):
            return login
    return None


def _plain(entry: dict[str, str]) -> Login | None:
    user, password = entry.get("username", ""), entry.get("password", "")
    if auth := entry.get("auth"):
        try:
            user, _, password = base64.b64decode(auth).decode().rstrip("\0").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
    token = entry.get("identitytoken", "")
    return Login(user=user, password=password, identity_token=token) if user or token else None


def _ask(helper: str, name: str) -> Login | None:
    """What docker-credential-HELPER knows; https://github.com/docker/docker-credential-helpers."""
    program = f"docker-credential-{helper}"
    # Its answer is a password: nothing of it may get into an error.
    command = Command(args=(program, "get"), stdin=name, timeout=_HELPER_SECONDS)
    answer = proc.capture(command, check=False)
    if answer.code:
        if "not found" in answer.stdout + answer.stderr:
            return None
        raise BuildError(f"{program} gives no login for {name}", tail=answer.stderr.splitlines())
    try:
        said = json.loads(answer.stdout)
        user, secret = said["Username"], said["Secret"]
    except (ValueError, LookupError, TypeError):
        raise BuildError(f"{program} gives no login for {name}, but something else") from None
    if user == "<token>":
        return Login(identity_token=secret)
    return Login(user=user, password=secret)

"""pip's and uv's settings, read the way pip and uv read them; uv's own win."""

from __future__ import annotations

import configparser
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

_TRUE = {"1", "true", "yes", "on"}
_PIP = ("index-url", "extra-index-url", "find-links", "trusted-host", "cert", "no-index")


@dataclass(frozen=True, kw_only=True)
class PythonSettings:
    """Where pip and uv of this host look for packages."""

    default_index: str | None
    extra_indexes: tuple[str, ...]
    find_links: tuple[str, ...]
    insecure_hosts: tuple[str, ...]
    cert: str
    no_index: bool  # wheels come from find-links alone, local or remote
    offline: bool  # nothing is to be asked over the network


def read(env: Mapping[str, str], root: Path, home: Path) -> PythonSettings:
    """Merge uv.toml, UV_* variables, pip.conf and PIP_* variables."""
    pip = _pip(env, root, home)
    uv = _uv(env, root, home)
    return PythonSettings(
        default_index=uv.get("default", [None])[0] or pip.get("index-url", [None])[0],
        extra_indexes=_unique(uv.get("extra", []) + pip.get("extra-index-url", [])),
        find_links=_unique(uv.get("links", []) + pip.get("find-links", [])),
        insecure_hosts=_unique(uv.get("insecure", []) + pip.get("trusted-host", [])),
        cert=pip.get("cert", [""])[0],
        no_index=_true(*pip.get("no-index", []), *uv["no-index"]),
        offline=_true(*uv["offline"]),
    )


def _true(*values: str) -> bool:
    return any(value.lower() in _TRUE for value in values)


def _pip(env: Mapping[str, str], root: Path, home: Path) -> dict[str, list[str]]:
    """pip's options by name, the strongest source only, as pip does it.

    A section counts before a file: [install] of a weak file beats [global] of a strong one.
    """
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}}
    for file in _pip_files(env, root, home):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip itself will complain
        for section, options in sections.items():
            if parser.has_section(section):
                options |= {_option(name): value for name, value in parser.items(section)}
    variables = {name: env.get("PIP_" + name.upper().replace("-", "_"), "") for name in _PIP}
    found: dict[str, list[str]] = {}
    for source in (*sections.values(), variables):
        for name in _PIP:
            if value := source.get(name, "").strip():
                found[name] = [value] if name == "cert" else value.split()
    return found


def _option(name: str) -> str:
    """pip takes `index_url` and `--index-url` for `index-url`."""
    return name.replace("_", "-").removeprefix("--")


def _pip_files(env: Mapping[str, str], root: Path, home: Path) -> Iterator[Path]:
    if env.get("PIP_CONFIG_FILE") == "/dev/null":  # pip's own way to say: none
        return
    for folder in env.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":"):
        yield root / folder.lstrip("/") / "pip/pip.conf"
    yield root / "etc/pip.conf"
    own = env.get("PIP_CONFIG_FILE", "")
    if not (own and Path(own).exists()):  # pip reads it in the place of the user's
        yield home / ".pip/pip.conf"
        yield _config_home(env, home) / "pip/pip.conf"
    if prefix := env.get("VIRTUAL_ENV"):
        yield Path(prefix) / "pip.conf"
    if own:
        yield Path(own)


def _config_home(env: Mapping[str, str], home: Path) -> Path:
    return Path(env.get("XDG_CONFIG_HOME") or home / ".config")


def _uv(env: Mapping[str, str], root: Path, home: Path) -> dict[str, list[str]]:
    names = ("extra", "links", "insecure", "no-index", "offline")
    found: dict[str, list[str]] = {name: [] for name in names}
    for file in _uv_files(env, root, home):
        try:
            settings = _uv_settings(tomllib.loads(file.read_text(encoding="utf-8")), env)
        except (OSError, ValueError, AttributeError, LookupError, TypeError):
            continue  # uv itself will complain
        if default := settings.pop("default"):
            found["default"] = default
        for name, values in settings.items():
            found[name] += values
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        if value := env.get(name):
            found["default"] = [_unnamed(value, env)]
    for name in ("UV_EXTRA_INDEX_URL", "UV_INDEX"):
        # An index may carry a name: "internal=https://...".
        found["extra"] += [_unnamed(item, env) for item in env.get(name, "").split()]
    found["links"] += [item for item in env.get("UV_FIND_LINKS", "").split(",") if item]
    found["insecure"] += env.get("UV_INSECURE_HOST", "").split()
    found["offline"].append(env.get("UV_OFFLINE", ""))
    return found


def _uv_files(env: Mapping[str, str], root: Path, home: Path) -> tuple[Path, ...]:
    if env.get("UV_NO_CONFIG", "").lower() in ("1", "true", "yes", "on", "y", "t"):
        return ()
    if own := env.get("UV_CONFIG_FILE"):
        return (Path(own),)
    return (root / "etc/uv/uv.toml", _config_home(env, home) / "uv/uv.toml")


def _uv_settings(toml: dict[str, Any], env: Mapping[str, str]) -> dict[str, list[str]]:
    """One uv.toml; raises some error when its values are not of uv's types."""
    toml = {**toml, **toml.get("pip", {})}
    indexes = [
        {**index, "url": _with_login(index["url"], index.get("name", ""), env)}
        for index in toml.get("index", [])
    ]
    default = [index["url"] for index in indexes if index.get("default")][:1]
    return {
        "default": [toml["index-url"]] if "index-url" in toml else default,
        "extra": [index["url"] for index in indexes if not index.get("default")]
        + toml.get("extra-index-url", []),
        "links": toml.get("find-links", []),
        "insecure": toml.get("allow-insecure-host", []),
        "no-index": [str(toml.get("no-index", ""))],
        "offline": [str(toml.get("offline", ""))],
    }


def _unnamed(index: str, env: Mapping[str, str]) -> str:
    name, equals, url = index.partition("=")
    return _with_login(url, name, env) if equals and "/" not in name else index


def _with_login(url: str, name: str, env: Mapping[str, str]) -> str:
    """The URL of a named index with the credentials that uv takes from variables of its name."""
    prefix = "UV_INDEX_" + re.sub("[^A-Z0-9]", "_", name.upper())
    login = [env.get(f"{prefix}_{part}", "") for part in ("USERNAME", "PASSWORD")]
    scheme, separator, rest = url.partition("://")
    if not (name and any(login) and separator) or "@" in rest.partition("/")[0]:
        return url
    return f"{scheme}://{':'.join(quote(part, safe='') for part in login)}@{rest}"


def _unique(items: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))

"""The one secret file that carries a site into a build: a POSIX shell script to source.

One file, because every engine can mount one. Sourced, it writes the CA, apt's settings and
.netrc into a folder that no layer keeps, and exports the variables that name them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from builder.model import Recipe
from builder.site.profile import SiteProfile
from builder.site.wheels import Fit

# BuildKit refuses secrets above 500 KiB; a bundle's comments are a third of it.
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)


def script(profile: SiteProfile, recipe: Recipe, folder: str, *, complete: bool = False) -> str:
    """The script for one recipe. `folder` is where its files may lie during a step.

    `complete` says that every wheel of the recipe is in the build's own wheel folder.
    """
    lines = [f"mkdir -p {folder}"]
    env: dict[str, str] = {}
    apt = [*profile.apt_options]
    if profile.apt_login:
        lines += _file(f"{folder}/auth.conf", profile.apt_login)
        apt.append(f'Dir::Etc::netrc "{folder}/auth.conf";')
    if profile.ca:
        bundle = profile.ca.read_text(encoding="utf-8", errors="replace")
        lines += _file(f"{folder}/ca.crt", "".join(_CERTIFICATE.findall(bundle)))
        names = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        env |= dict.fromkeys(names, f"{folder}/ca.crt")
        apt.append(f'Acquire::https::CAInfo "{folder}/ca.crt";')
    if sources := profile.apt_list(recipe.os):
        lines += _file(f"{folder}/sources.list", sources)
        apt.append(f'Dir::Etc::sourcelist "{folder}/sources.list";')
        apt.append('Dir::Etc::sourceparts "-";')
    if apt:
        lines += _file(f"{folder}/apt.conf", "\n".join(apt) + "\n")
        env["APT_CONFIG"] = f"{folder}/apt.conf"
    if profile.netrc:
        lines += _file(f"{folder}/netrc", profile.netrc_text)
        env["NETRC"] = f"{folder}/netrc"
    env |= _pip(profile)
    env |= profile.uv_env(recipe.cell.build.index, recipe.lock.pins, Fit.of(recipe))
    env |= profile.proxies
    if profile.offline or complete:
        # Every wheel lies in a folder: ask nobody. uv takes "offline" for that, pip "no index".
        env |= {"UV_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    elif profile.no_index:
        # uv has no variable for it.
        lines += _file(f"{folder}/uv.toml", "no-index = true")
        env |= {"UV_CONFIG_FILE": f"{folder}/uv.toml", "PIP_NO_INDEX": "1"}
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(env.items())]
    return "\n".join(lines) + "\n"


def _pip(profile: SiteProfile) -> Mapping[str, str]:
    """pip installs one thing in a build: uv."""
    env = {}
    if profile.default_index:
        env["PIP_INDEX_URL"] = profile.default_index
    if profile.extra_indexes:
        env["PIP_EXTRA_INDEX_URL"] = " ".join(profile.extra_indexes)
    if profile.find_links:
        env["PIP_FIND_LINKS"] = " ".join(profile.find_links)
    if profile.insecure_hosts:
        env["PIP_TRUSTED_HOST"] = " ".join(profile.insecure_hosts)
    return env


def _file(path: str, text: str) -> list[str]:
    text = text if text.endswith("\n") else text + "\n"
    mark = "END_OF_SITE_FILE"
    while mark in text:
        mark += "_"
    return [f"cat > {path} <<'{mark}'", text + mark]


def write(
    profile: SiteProfile, recipe: Recipe, file: Path, folder: str, *, complete: bool = False
) -> None:
    """Write the script to `file`, readable by its owner alone."""
    file.touch(mode=0o600)
    file.chmod(0o600)  # it may have been there before
    text = script(profile, recipe, folder, complete=complete)
    file.write_text(text, encoding="utf-8", errors="surrogateescape")

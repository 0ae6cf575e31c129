"""apt's settings: the mirrors that the host's sources name, and how it reaches them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from builder.model import Bootstrap

# The archives that base images name, by what their path ends with.
_CANONICAL = {
    "debian": "http://deb.debian.org/debian",
    "debian-security": "http://deb.debian.org/debian-security",
    "ubuntu": "http://archive.ubuntu.com/ubuntu",
}
_SECURITY = {"http://deb.debian.org/debian": "http://deb.debian.org/debian-security"}
# Other public names of the same archives.
_PUBLIC = {"ftp.debian.org", "security.debian.org", "security.ubuntu.com"}
# How to reach a mirror, not which; CAInfo is ours to set.
_REACH = re.compile(
    r"^(Acquire::(?:https?::(?:Proxy|Timeout|Verify-Peer|Verify-Host)|Retries|Check-Valid-Until|"
    r'Check-Date)(?:::\S+)?)\s+"([^"]*)";',
    re.MULTILINE | re.IGNORECASE,
)


def options(root: Path) -> tuple[str, ...]:
    """The host's apt.conf lines about proxies, time-outs and validity, as `Name "value";`."""
    found: dict[str, str] = {}
    folder = root / "etc/apt/apt.conf.d"
    parts = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in (*parts, root / "etc/apt/apt.conf"):
        if file.suffix not in ("", ".conf"):  # apt skips *.bak, *.dpkg-old, ...
            continue
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found |= {match[1]: match[2] for match in _REACH.finditer(text)}
    return tuple(f'{name} "{value}";' for name, value in sorted(found.items()))


def mirrors(root: Path) -> dict[str, str]:
    """Canonical archive URL -> the mirror that this host uses in its place, where it differs."""
    found: dict[str, str] = {}
    for uri in _uris(root):
        canonical = _CANONICAL.get(uri.rstrip("/").rsplit("/", 1)[-1])
        public = re.match(r"\w+://([^/:]*)", uri)
        if canonical and uri.rstrip("/") != canonical and not (public and public[1] in _PUBLIC):
            found.setdefault(canonical, uri.rstrip("/"))
    return found


def _uris(root: Path) -> Iterator[str]:
    folder = root / "etc/apt/sources.list.d"
    files = [root / "etc/apt/sources.list", *(sorted(folder.iterdir()) if folder.is_dir() else ())]
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if file.suffix == ".sources":
            yield from _deb822_uris(text)
        elif file.suffix == ".list":
            yield from re.findall(r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)", text, flags=re.MULTILINE)


def _deb822_uris(text: str) -> Iterator[str]:
    """URIs of the stanzas that are switched on and name binary packages."""
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([\w-]+):(.*(?:\n[ \t].*)*)", stanza, flags=re.MULTILINE))
        fields = {name.lower(): value.split() for name, value in fields.items()}
        off = {"no", "false", "off", "0"} & set(fields.get("enabled", []))
        if "deb" in fields.get("types", []) and not off:
            yield from fields.get("uris", [])


def lines(bootstrap: Bootstrap, mirrors: Mapping[str, str]) -> list[str]:
    """One-line sources for a suite with its updates, from `mirrors` where they have it."""
    components = " ".join(bootstrap.components)
    main = mirrors.get(bootstrap.mirror, bootstrap.mirror)
    found = [f"deb {main} {bootstrap.suite} {components}"]
    found += [f"deb {main} {bootstrap.suite}-updates {components}"]
    if canonical := _SECURITY.get(bootstrap.mirror):
        security = mirrors.get(canonical, canonical)
        found.append(f"deb {security} {bootstrap.suite}-security {components}")
    return found

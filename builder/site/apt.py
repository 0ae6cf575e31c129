"""apt's settings: the mirrors that the host's sources name, and how it reaches them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder.facts import Archive

# The archives that base images name, by what their path ends with.
_CANONICAL = {
    "debian": "http://deb.debian.org/debian",
    "debian-security": "http://deb.debian.org/debian-security",
    "ubuntu": "http://archive.ubuntu.com/ubuntu",
}
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
    usual: set[str] = set()
    for entry in _entries(root):
        canonical = entry.stands_for()
        if canonical is None:
            continue
        public = re.match(r"\w+://([^/:]*)", entry.uri)
        if entry.uri == canonical or (public and public[1] in _PUBLIC):
            usual.add(canonical)
        else:
            found.setdefault(canonical, entry.uri)
    # A host that asks the usual archive needs no other; what else looks like it is somebody's own.
    return {canonical: uri for canonical, uri in found.items() if canonical not in usual}


def login(root: Path) -> str:
    """What the host's apt says at mirrors that ask who it is: auth.conf and its parts, as one."""
    folder = root / "etc/apt/auth.conf.d"
    parts = sorted(folder.glob("*.conf")) if folder.is_dir() else []
    texts = []
    for file in (root / "etc/apt/auth.conf", *parts):
        with suppress(OSError):
            texts.append(file.read_text(encoding="utf-8", errors="surrogateescape").strip("\n"))
    return "".join(f"{text}\n" for text in texts if text)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One line of sources.list, or one URI of a stanza."""

    uri: str  # without a slash at its end
    components: frozenset[str]
    signed_by: str

    def stands_for(self) -> str | None:
        """The canonical archive that this one mirrors, or None: then it is another project's.

        Those have folders named "debian" too. Most have components of their own, and all that
        their makers document today are signed by a key of their own.
        """
        if "main" not in self.components or not self.uri.startswith(("http://", "https://")):
            return None  # a folder or a disk of this host is none of a container
        if self.signed_by and not re.search(r"(debian|ubuntu)-archive", self.signed_by):
            return None
        folder = _MIRROR.match(self.uri.rsplit("/", 1)[-1])
        return _CANONICAL[folder[1]] if folder else None


# "debian-bookworm" and "ubuntu-proxy" are how repository managers name theirs.
_MIRROR = re.compile(r"(debian-security|debian|ubuntu)(?:[-_.].*)?$")
_LINE = re.compile(r"^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+\S+([^#\n]*)", re.MULTILINE)


def _entries(root: Path) -> Iterator[_Entry]:
    folder = root / "etc/apt/sources.list.d"
    files = [root / "etc/apt/sources.list", *(sorted(folder.iterdir()) if folder.is_dir() else ())]
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if file.suffix == ".sources":
            yield from _deb822(text)
        elif file.suffix == ".list":
            for options, uri, components in _LINE.findall(text):
                signed = re.search(r"signed-by=(\S+)", options)
                yield _Entry(
                    uri=uri.rstrip("/"),
                    components=frozenset(components.split()),
                    signed_by=signed[1] if signed else "",
                )


def _deb822(text: str) -> Iterator[_Entry]:
    """The stanzas that are switched on and name binary packages."""
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([\w-]+):(.*(?:\n[ \t].*)*)", stanza, flags=re.MULTILINE))
        words = {name.lower(): value.split() for name, value in fields.items()}
        off = {"no", "false", "off", "0"} & set(words.get("enabled", []))
        if "deb" in words.get("types", []) and not off:
            for uri in words.get("uris", []):
                yield _Entry(
                    uri=uri.rstrip("/"),
                    components=frozenset(words.get("components", [])),
                    signed_by=" ".join(words.get("signed-by", [])),
                )


def lines(archive: Archive, mirrors: Mapping[str, str]) -> list[str]:
    """One-line sources for a suite with its updates, from `mirrors` where they have it."""
    components = " ".join(archive.components)
    main = mirrors.get(archive.mirror, archive.mirror)
    security = mirrors.get(archive.security, archive.security)
    return [
        f"deb {main} {archive.suite} {components}",
        f"deb {main} {archive.suite}-updates {components}",
        f"deb {security} {archive.suite}-security {components}",
    ]

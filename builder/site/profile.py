"""SiteProfile: what the host's pip, uv, apt and TLS settings say about this site."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from builder.facts import Index, OperatingSystem
from builder.site import apt, python, registries
from builder.site.registries import Mirror, Registry
from builder.site.wheels import Fit, pin_set

_CA_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, SLES
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # RHEL family
)
_CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
# What everybody uses is no secret, and hiding it would make errors unreadable.
_ARCHIVES = {
    "archive.ubuntu.com",
    "deb.debian.org",
    "download.pytorch.org",
    "files.pythonhosted.org",
    "pypi.org",
    "security.debian.org",
    "security.ubuntu.com",
    "snapshot.debian.org",
}
_PUBLIC_HOSTS = _ARCHIVES | {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True, kw_only=True)
class SiteProfile:
    """A site as a build sees it. Empty fields mean: as everywhere."""

    default_index: str | None = None
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()  # remote pages of wheels
    wheel_dirs: tuple[Path, ...] = ()  # local folders of wheels
    file_indexes: tuple[Path, ...] = ()  # local PEP 503 trees
    insecure_hosts: tuple[str, ...] = ()
    no_index: bool = False  # wheels come from folders and pages alone
    offline: bool = False  # nothing is to be asked over the network
    ca: Path | None = None
    netrc: Path | None = None
    proxies: Mapping[str, str]
    apt_options: tuple[str, ...] = ()
    apt_login: str = ""  # auth.conf: netrc lines for mirrors that ask
    apt_sources: Mapping[str, str]  # canonical mirror URL -> this site's
    registries: tuple[Registry, ...] = ()  # where copies of other registries' images are

    def copies(self, reference: str) -> tuple[Mirror, ...]:
        """This site's copies of an image, in the order in which they are to be tried."""
        return next((found for r in self.registries if (found := r.copies(reference))), ())

    def uv_env(self, index: Index | None, pins: Mapping[str, str], fit: Fit) -> dict[str, str]:
        """Variables that point uv at this site's indexes; `index` is one that the wheels need.

        When the site's own folders hold every package that `index` is for, it is not asked: an
        air-gapped site cannot reach it.
        """
        env: dict[str, str] = {}
        extra = list(self.extra_indexes)
        needed = {name: pins.get(name, "") for name in index.packages} if index else {}
        if index and not self.has_wheels(needed, fit):
            extra.append(index.url)
        if self.default_index:
            env["UV_DEFAULT_INDEX"] = self.default_index
        env["UV_INDEX"] = " ".join(extra)
        if self.find_links:
            env["UV_FIND_LINKS"] = ",".join(self.find_links)
        if self.insecure_hosts:
            env["UV_INSECURE_HOST"] = " ".join(self.insecure_hosts)
        return env

    def host_env(
        self,
        index: Index | None,
        pins: Mapping[str, str],
        fit: Fit,
        folder: Path | None = None,
    ) -> dict[str, str]:
        """The same for a uv that runs on this host; `folder` holds local wheels for it.

        Not all wheels that the site has: a lock must not depend on what lies in somebody's folder.
        """
        env = self.uv_env(index, pins, fit)
        if folder:
            links = [env.get("UV_FIND_LINKS", ""), str(folder)]
            env["UV_FIND_LINKS"] = ",".join(filter(None, links))
        if self.ca:
            env["SSL_CERT_FILE"] = str(self.ca)
        return env

    def has_wheels(self, pins: Mapping[str, str], fit: Fit) -> bool:
        """Whether local folders hold a wheel of every pin (name -> version) that installs there."""
        return bool(pins) and fit.pins(self.wheels(pins, fit)) >= pin_set(pins)

    def wheels(self, pins: Mapping[str, str], fit: Fit) -> Iterator[Path]:
        """The local wheels of exactly these pins that install there, each file name once."""
        wanted = pin_set(pins)
        seen: set[str] = set()
        for file in self._local_files({name for name, _ in wanted}):
            if file.name not in seen and fit.pins([file]) & wanted:
                seen.add(file.name)
                yield file

    def _local_files(self, names: set[str]) -> Iterator[Path]:
        for folder in self.wheel_dirs:
            yield from sorted(folder.glob("*.whl"))
        for root in self.file_indexes:
            for name in sorted(names):
                page = root / name / "index.html"
                if page.is_file():
                    yield from _linked(page)

    @property
    def netrc_text(self) -> str:
        """.netrc in whatever encoding it is: `secret.write` gives it back byte for byte."""
        if self.netrc is None:
            return ""
        return self.netrc.read_text(encoding="utf-8", errors="surrogateescape")

    def redact(self, line: str) -> str:
        """Replace everything that only this site has by <site>."""
        return self._private.sub("<site>", line)

    @cached_property
    def _private(self) -> re.Pattern[str]:
        """Longest first, so that a URL goes before the host in it."""
        urls = {self.default_index or "", *self.extra_indexes, *self.find_links}
        urls |= {*self.insecure_hosts, *self.apt_sources.values()}
        urls |= {m.reference.partition("/")[0] for r in self.registries for m in r.mirrors}
        urls |= {url for name, url in self.proxies.items() if name != "no_proxy"}
        urls |= set(re.findall(r"\w+://[^\s\"]+", " ".join(self.apt_options)))
        found = {part for url in urls for part in _private_parts(url)}
        # Entries of no_proxy without a dot ("*", "local") are too common as words.
        direct = re.split(r"[\s,]+", self.proxies.get("no_proxy", "").lower())
        found |= {host for host in direct if "." in host.strip(".")} - _PUBLIC_HOSTS
        found |= {str(path) for path in (*self.wheel_dirs, *self.file_indexes)} - {"/"}
        found |= set(re.findall(r"\bpassword\s+(\S{4,})", self.netrc_text + self.apt_login))
        longest_first = sorted(filter(None, found), key=len, reverse=True)
        credentials = r"(?<=//)[^/@\s]+(?=@)"
        return re.compile("|".join([*map(re.escape, longest_first), credentials]), re.IGNORECASE)

    def apt_list(self, os: OperatingSystem) -> str:
        """sources.list lines for `os` from this site's mirrors, or "" when it uses the usual."""
        if os.archive is None or os.archive.mirror not in self.apt_sources:
            return ""
        return "\n".join(apt.lines(os.archive, self.apt_sources)) + "\n"


def discover(env: Mapping[str, str] | None = None, root: Path = Path("/")) -> SiteProfile:
    """Read the host's settings. `root` stands for the file system's root, for tests."""
    env = dict(os.environ) if env is None else env
    home = Path(env.get("HOME", "/nonexistent"))
    settings = python.read(env, root, home)
    proxies = {
        name: value
        for name in _PROXY_VARIABLES
        if (value := env.get(name) or env.get(name.upper()))
    }
    ca = next(
        (
            Path(path).expanduser()
            for path in (*(env.get(name, "") for name in _CA_VARIABLES), settings.cert)
            if path and Path(path).expanduser().is_file()
        ),
        next(
            (path for path in (root / c.relative_to("/") for c in _CA_BUNDLES) if path.is_file()),
            None,
        ),
    )
    netrc = Path(env.get("NETRC", home / ".netrc"))
    local, remote = _split(settings.find_links)
    file_indexes, indexes = _split(settings.extra_indexes)
    # A folder of this host is no index for a container; its wheels are mounted.
    folders, default = _split(filter(None, [settings.default_index]))
    file_indexes += folders
    return SiteProfile(
        default_index=next(iter(default), None),
        extra_indexes=tuple(indexes),
        find_links=tuple(remote),
        wheel_dirs=tuple(path for path in local if path.is_dir()),
        file_indexes=tuple(path for path in file_indexes if path.is_dir()),
        insecure_hosts=settings.insecure_hosts,
        no_index=settings.no_index,
        offline=settings.offline,
        ca=ca,
        netrc=netrc if netrc.is_file() and os.access(netrc, os.R_OK) else None,
        proxies=proxies,
        apt_options=apt.options(root),
        apt_login=apt.login(root),
        apt_sources=apt.mirrors(root),
        registries=registries.read(env, root, home),
    )


def _private_parts(url: str) -> Iterator[str]:
    """What of a URL, or of a host with or without a port, must not be seen."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
    except ValueError:
        yield url
        return
    if parts.hostname and parts.hostname not in _PUBLIC_HOSTS:
        yield from (url, url.rstrip("/"), parts.netloc, parts.hostname)
    if parts.hostname not in _ARCHIVES:
        # Tools mask the credentials themselves, so the URL does not stand there as it was given.
        place = parts.netloc.rpartition("@")[2] + parts.path.rstrip("/")
        yield from (place,) if parts.path.rstrip("/") else ()
    # Without a password, the user's name is a token. Shorter ones are not told from other words.
    for secret in (parts.password or parts.username or "", parts.netloc.rpartition("@")[0]):
        yield from (text for text in (secret, unquote(secret)) if len(text) > 3)


def _split(places: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Local paths and file: URLs apart from remote URLs."""
    local, remote = [], []
    for place in places:
        if file := re.match(r"file:(?://[^/]*)?(/.*)", place, re.IGNORECASE):
            local.append(Path(unquote(file[1])))
        elif "://" in place:
            remote.append(place)
        else:
            local.append(Path(place).expanduser().absolute())
    return local, remote


def _linked(page: Path) -> Iterator[Path]:
    """The local wheels that a PEP 503 page links to."""
    for href in re.findall(r'href="([^"#]+)', page.read_text(errors="replace")):
        file = (page.parent / unquote(href)).resolve()
        if file.suffix == ".whl" and file.is_file():
            yield file

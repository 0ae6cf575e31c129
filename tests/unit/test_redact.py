"""Redaction: what only this site has is <site> in logs, and everything else stays readable."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.site import SiteProfile


def site(**fields: Any) -> SiteProfile:
    return SiteProfile(**{"proxies": {}, "apt_sources": {}, **fields})


INDEX = site(default_index="https://user:s3cret%21@pkgs.corp.invalid:8443/simple/")
LINES: list[tuple[SiteProfile, str, str]] = [
    (INDEX, "GET https://user:s3cret%21@pkgs.corp.invalid:8443/simple/torch/", "GET <site>torch/"),
    (INDEX, "GET https://pkgs.corp.invalid/files/a.whl", "GET https://<site>/files/a.whl"),
    (INDEX, "https://user:****@pkgs.corp.invalid/", "https://<site>@<site>/"),
    (INDEX, "https://****@pkgs.corp.invalid:8443/simple/torch/", "https://<site>@<site>/torch/"),
    (
        site(extra_indexes=("http://me:tok3n@127.0.0.1:3141/team/simple",)),
        "http://****@127.0.0.1:3141/team/simple/torch, 127.0.0.1:3141",
        "http://<site>@<site>/torch, 127.0.0.1:3141",
    ),
    (INDEX, "cannot resolve PKGS.corp.invalid", "cannot resolve <site>"),
    (INDEX, "password s3cret%21 or s3cret! is wrong", "password <site> or <site> is wrong"),
    # Credentials of any URL, also of one that was never configured.
    (site(), "https://a:b@example.org/x", "https://<site>@example.org/x"),
    (site(), "https://token@example.org/x", "https://<site>@example.org/x"),
    (site(extra_indexes=("https://tok3n@pypi.org/simple",)), "tok3n is wrong", "<site> is wrong"),
    (site(insecure_hosts=("trusted.invalid:8443",)), "at trusted.invalid:", "at <site>:"),
    (site(find_links=("https://l.invalid/whl",)), "see https://l.invalid/whl.", "see <site>."),
    (
        site(apt_sources={"http://deb.debian.org/debian": "http://apt.invalid/debian"}),
        "Get:1 http://apt.invalid/debian bookworm",
        "Get:1 <site> bookworm",
    ),
    (
        site(apt_options=('Acquire::http::Proxy "http://p.invalid:3128";',)),
        "Connecting to p.invalid (p.invalid)",
        "Connecting to <site> (<site>)",
    ),
    (
        site(proxies={"http_proxy": "http://u:pass@proxy.invalid:3128"}),
        "via proxy.invalid",
        "via <site>",
    ),
    (
        site(proxies={"no_proxy": "localhost, .corp.invalid,10.0.0.0/8,*,local"}),
        "x.corp.invalid 10.0.0.0/8 * /usr/local localhost",
        "x<site> <site> * /usr/local localhost",
    ),
    (site(wheel_dirs=(Path("/srv/wheels"),)), "/srv/wheels/a.whl", "<site>/a.whl"),
    (site(file_indexes=(Path("/srv/tree"),)), "file:///srv/tree/torch", "file://<site>/torch"),
    (site(wheel_dirs=(Path("/"),)), "/usr/bin", "/usr/bin"),
    # A host named "site" must not nest.
    (site(default_index="https://site/simple"), "https://site/simple at site", "<site> at <site>"),
    (site(default_index="https://[bad/simple"), "https://[bad/simple", "<site>"),
]


@pytest.mark.parametrize(("profile", "line", "shown"), LINES)
def test_a_line_is_redacted(profile: SiteProfile, line: str, shown: str) -> None:
    assert profile.redact(line) == shown


PUBLIC = [
    "https://pypi.org/simple/torch/",
    "https://download.pytorch.org/whl/cpu",
    "https://files.pythonhosted.org/packages/a.whl",
    "http://deb.debian.org/debian bookworm InRelease",
    "http://127.0.0.1:8000/health",
    "user@host: ~/x //comment",
]


@pytest.mark.parametrize("line", PUBLIC)
def test_public_hosts_stay_readable(line: str) -> None:
    profile = site(
        default_index="https://pypi.org/simple",
        extra_indexes=("https://download.pytorch.org/whl/cpu",),
        insecure_hosts=("127.0.0.1", "localhost"),
        apt_sources={"http://deb.debian.org/debian": "https://deb.debian.org/debian"},
        proxies={"http_proxy": "http://127.0.0.1:3128", "no_proxy": "localhost,127.0.0.1,::1"},
    )
    assert profile.redact(line) == line


_LABEL = st.from_regex(r"[a-z][a-z0-9-]{2,8}", fullmatch=True)
_HOST = st.tuples(_LABEL, _LABEL).map(lambda labels: f"{labels[0]}.{labels[1]}.invalid")
_SECRET = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4, max_size=12)
_PATH = st.lists(_LABEL, min_size=2, max_size=3).map(lambda parts: Path("/", *parts))


@st.composite
def profiles(draw: st.DrawFn) -> tuple[SiteProfile, list[str]]:
    """A profile, and every string in it that must not be seen."""
    private: list[str] = []

    def url() -> str:
        host, secret = draw(_HOST), draw(st.none() | _SECRET)
        private.append(host)
        if secret:
            private.extend((secret, quote(secret, safe="")))
        user = f"user:{quote(secret, safe='')}@" if secret else ""
        port = draw(st.sampled_from(["", ":8443"]))
        made = f"https://{user}{host}{port}/{draw(_LABEL)}"
        private.append(made)
        return made

    def some(make: Any) -> list[Any]:
        return [make() for _ in range(draw(st.integers(0, 2)))]

    def path() -> Path:
        made = draw(_PATH)
        private.append(str(made))
        return made

    def host() -> str:
        made = draw(_HOST)
        private.append(made)
        return made

    profile = SiteProfile(
        default_index=draw(st.sampled_from([None, "x"])) and url(),
        extra_indexes=tuple(some(url)),
        find_links=tuple(some(url)),
        wheel_dirs=tuple(some(path)),
        file_indexes=tuple(some(path)),
        insecure_hosts=tuple(some(host)),
        proxies={
            name: value
            for name, value in (
                ("http_proxy", url() if draw(st.booleans()) else ""),
                ("no_proxy", ",".join(some(host))),
            )
            if value
        },
        apt_options=tuple(f'Acquire::http::Proxy "{made}";' for made in some(url)),
        apt_sources={f"http://canonical/{n}": made for n, made in enumerate(some(url))},
    )
    return profile, private


@given(profiles(), st.data())
def test_no_private_string_survives(
    made: tuple[SiteProfile, list[str]], data: st.DataObject
) -> None:
    profile, private = made
    between = st.sampled_from([" ", "", '"', "/", "\n", " GET ", ":", "https://", "@"])
    pieces = data.draw(st.lists(st.sampled_from([*private, "x"]), max_size=6))
    line = "".join(piece + data.draw(between) for piece in pieces)
    shown = profile.redact(line)
    for secret in private:
        assert secret.lower() not in shown.lower().replace("<site>", "\x00")

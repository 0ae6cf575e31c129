"""The host's settings, as pip, uv and apt read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.facts import Index
from builder.site import Fit, SiteProfile, apt, discover

HERE = Fit(python="3.11", glibc="2.36")


class Host:
    """A file system below a folder, and an environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env: dict[str, str] = {"HOME": str(root / "home/u")}

    def file(self, path: str, text: str = "x") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def profile(self, **env: str) -> SiteProfile:
        return discover({**self.env, **env}, self.root)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def conf(index: str, section: str = "global") -> str:
    return f"[{section}]\nindex-url = https://{index}.invalid/simple\n"


def url(index: str) -> str:
    return f"https://{index}.invalid/simple"


def test_a_bare_host_has_an_empty_profile(host: Host) -> None:
    assert host.profile() == SiteProfile(proxies={}, apt_sources={})


# pip: https://pip.pypa.io/en/stable/topics/configuration/, weakest first.
PIP_PLACES = [
    "etc/xdg/pip/pip.conf",
    "etc/pip.conf",
    "home/u/.pip/pip.conf",
    "home/u/.config/pip/pip.conf",
    "venv/pip.conf",
]


@pytest.mark.parametrize("strongest", range(len(PIP_PLACES)))
def test_a_stronger_pip_conf_wins(host: Host, strongest: int) -> None:
    for number, place in enumerate(PIP_PLACES[: strongest + 1]):
        host.file(place, conf(f"index{number}"))
    profile = host.profile(VIRTUAL_ENV=str(host.root / "venv"))
    assert profile.default_index == url(f"index{strongest}")


def test_environment_wins_over_files_and_uv_over_pip(host: Host) -> None:
    host.file("etc/pip.conf", conf("file"))
    host.env["PIP_INDEX_URL"] = url("pip")
    assert host.profile().default_index == url("pip")
    host.file("home/u/.config/uv/uv.toml", f'index-url = "{url("uv-file")}"')
    assert host.profile().default_index == url("uv-file")
    assert host.profile(UV_INDEX_URL=url("uv")).default_index == url("uv")
    both = host.profile(UV_INDEX_URL=url("uv"), UV_DEFAULT_INDEX=f"name={url('newer')}")
    assert both.default_index == url("newer")


def test_an_install_section_wins_over_a_global_one_of_a_stronger_file(host: Host) -> None:
    host.file("etc/pip.conf", conf("install", "install"))
    host.file("home/u/.pip/pip.conf", conf("global"))
    assert host.profile().default_index == url("install")


def test_pip_config_file_takes_the_place_of_the_users(host: Host) -> None:
    own = host.file("own.conf", "[global]\nextra-index-url = https://x.invalid\n")
    host.file("etc/pip.conf", conf("system"))
    host.file("home/u/.config/pip/pip.conf", conf("user"))
    profile = host.profile(PIP_CONFIG_FILE=str(own))
    assert profile.default_index == url("system")
    assert profile.extra_indexes == ("https://x.invalid",)
    # One that does not exist changes nothing; /dev/null means no file at all.
    missing = host.profile(PIP_CONFIG_FILE=str(host.root / "none"))
    assert missing.default_index == url("user")
    assert host.profile(PIP_CONFIG_FILE="/dev/null").default_index is None


def test_xdg_folders_are_followed(host: Host) -> None:
    host.file("etc/other/pip/pip.conf", conf("dirs"))
    assert host.profile(XDG_CONFIG_DIRS="/etc/none:/etc/other").default_index == url("dirs")
    own = host.file("cfg/pip/pip.conf", conf("home")).parents[1]
    assert host.profile(XDG_CONFIG_HOME=str(own)).default_index == url("home")
    host.file("home/u/.config/pip/pip.conf", conf("default"))
    assert host.profile(XDG_CONFIG_HOME="").default_index == url("default")


@pytest.mark.parametrize("name", ["index-url", "index_url", "INDEX-URL", "--index-url"])
def test_pip_takes_several_spellings(host: Host, name: str) -> None:
    host.file("etc/pip.conf", f"[global]\n{name} = {url('x')}\n")
    assert host.profile().default_index == url("x")


def test_lists_of_pip_are_split_at_blanks_and_lines(host: Host) -> None:
    wheels, more = host.root / "wheels", host.root / "more"
    wheels.mkdir()
    more.mkdir()
    host.file(
        "etc/pip.conf",
        f"[global]\nextra-index-url = https://a.invalid\n  https://b.invalid\n"
        f"find-links =\n  {wheels}\n  file://{more}\n  https://links.invalid/x\n"
        "trusted-host = a.invalid b.invalid:8443\n",
    )
    profile = host.profile()
    assert profile.extra_indexes == ("https://a.invalid", "https://b.invalid")
    assert profile.wheel_dirs == (wheels, more)
    assert profile.find_links == ("https://links.invalid/x",)
    assert profile.insecure_hosts == ("a.invalid", "b.invalid:8443")


@pytest.mark.parametrize("text", ["[global\n", "index-url = x\n", "[global]\na\n  = \xff\n"])
def test_a_broken_pip_conf_is_pips_to_complain_of(host: Host, text: str) -> None:
    host.file("etc/pip.conf", conf("x"))
    host.file("home/u/.pip/pip.conf", text)
    assert host.profile().default_index == url("x")


# uv: https://docs.astral.sh/uv/reference/settings/


def test_uv_toml(host: Host) -> None:
    host.file(
        "etc/uv/uv.toml", f'index-url = "{url("system")}"\nfind-links = ["https://l.invalid"]'
    )
    host.file(
        "home/u/.config/uv/uv.toml",
        'allow-insecure-host = ["a.invalid"]\n'
        f'[[index]]\nname = "d"\nurl = "{url("user")}"\ndefault = true\n'
        f'[[index]]\nurl = "{url("extra")}"\n[pip]\nextra-index-url = ["{url("pip")}"]\n',
    )
    profile = host.profile()
    assert profile.default_index == url("user")
    assert profile.extra_indexes == (url("extra"), url("pip"))
    assert profile.find_links == ("https://l.invalid",)
    assert profile.insecure_hosts == ("a.invalid",)
    own = host.file("own.toml", f'index-url = "{url("own")}"')
    assert host.profile(UV_CONFIG_FILE=str(own)).default_index == url("own")
    assert host.profile(UV_NO_CONFIG="1") == SiteProfile(proxies={}, apt_sources={})


def test_uv_variables(host: Host) -> None:
    profile = host.profile(
        UV_INDEX=f"{url('a')} name={url('b')}?q=1",
        UV_EXTRA_INDEX_URL=url("c"),
        PIP_EXTRA_INDEX_URL=f"{url('a')} {url('d')}",
        UV_FIND_LINKS="https://l.invalid/1,https://l.invalid/2",
        UV_INSECURE_HOST="h1 h2:80",
        PIP_TRUSTED_HOST="h1 h3",
    )
    assert profile.extra_indexes == (url("c"), url("a"), f"{url('b')}?q=1", url("d"))
    assert profile.find_links == ("https://l.invalid/1", "https://l.invalid/2")
    assert profile.insecure_hosts == ("h1", "h2:80", "h3")


@pytest.mark.parametrize(
    "text", ["index = 3", 'index = ["x"]', "[[index]]\ndefault = true", "pip = 1", "= x"]
)
def test_a_broken_uv_toml_is_uvs_to_complain_of(host: Host, text: str) -> None:
    host.file("etc/uv/uv.toml", text)
    assert host.profile() == SiteProfile(proxies={}, apt_sources={})


# Local folders and trees.


def test_file_indexes_are_trees_whose_links_are_relative(host: Host) -> None:
    wheel = host.file("tree/files/torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl")
    host.file(
        "tree/simple/torch/index.html",
        '<a href="../../files/torch-2.13.0%2Bcpu-cp311-cp311-linux_x86_64.whl#sha256=00">t</a>'
        '<a href="../../files/torch-2.12.0-cp311-cp311-linux_x86_64.whl">missing</a>',
    )
    profile = host.profile(PIP_EXTRA_INDEX_URL=f"file://{host.root}/tree/simple")
    assert profile.file_indexes == (host.root / "tree/simple",)
    assert profile.extra_indexes == ()
    assert [*profile.wheels({"torch": "2.13.0+cpu"}, HERE)] == [wheel.resolve()]
    assert [*profile.wheels({"torch": "2.12.0"}, HERE)] == []


@pytest.mark.parametrize("form", ["file://{}", "file:{}", "file://localhost{}", "FILE://{}"])
def test_a_default_index_of_files_is_not_given_to_a_container(host: Host, form: str) -> None:
    tree = host.root / "a tree"
    tree.mkdir()
    profile = host.profile(UV_DEFAULT_INDEX=form.format(str(tree).replace(" ", "%20")))
    assert profile.default_index is None
    assert profile.file_indexes == (tree,)
    assert "UV_DEFAULT_INDEX" not in profile.uv_env(None, {}, HERE)


def test_find_links_folders(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(host.root)
    monkeypatch.setenv("HOME", str(host.root))
    a = host.file("wheels/Torch-2.13.0-cp311-cp311-linux_x86_64.whl").parent
    host.file("wheels/torch-2.13.0-cp311-cp311-linux_x86_64.whl.metadata")
    host.file("wheels/notawheel.whl")
    b = host.file("more/torch-2.13.0-cp312-cp312-linux_x86_64.whl").parent
    profile = host.profile(PIP_FIND_LINKS="~/wheels more none")
    assert profile.wheel_dirs == (a, b)
    assert len([*profile.wheels({"torch": "2.13.0", "numpy": "1"}, HERE)]) == 1
    assert profile.has_wheels({"torch": "2.13.0"}, HERE)
    assert not profile.has_wheels({"torch": "2.13.0", "numpy": "1"}, HERE)
    assert not profile.has_wheels({}, HERE)


CPU_INDEX = Index(url="https://download.pytorch.org/whl/cpu", packages=("torch",), why="w")


def test_uv_env_asks_the_index_that_the_wheels_need(host: Host) -> None:
    profile = host.profile(UV_DEFAULT_INDEX=url("d"), UV_INDEX=url("x"), UV_INSECURE_HOST="h")
    assert profile.uv_env(CPU_INDEX, {"torch": "2.13.0+cpu"}, HERE) == {
        "UV_DEFAULT_INDEX": url("d"),
        "UV_INDEX": f"{url('x')} {CPU_INDEX.url}",
        "UV_INSECURE_HOST": "h",
    }
    assert host.profile().uv_env(None, {}, HERE) == {"UV_INDEX": ""}


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        ("2.13.0+cpu-cp311-cp311-linux_x86_64", False),
        ("2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64", False),
        ("2.13.0+cpu-cp38-abi3-manylinux2014_x86_64", False),
        ("2.13.0+cpu-py3-none-any", False),
        ("2.12.0+cpu-cp311-cp311-linux_x86_64", True),
        ("2.13.0+cpu-cp312-cp312-linux_x86_64", True),
        ("2.13.0+cpu-cp311-cp311-manylinux_2_28_aarch64", True),
        ("2.13.0+cpu-cp311-cp311-manylinux_2_39_x86_64", True),
    ],
)
def test_uv_env_drops_an_index_whose_packages_lie_here(host: Host, held: str, asked: bool) -> None:
    """Only wheels that install there count: another Python's or machine's is of no use."""
    folder = host.file(f"wheels/torch-{held}.whl").parent
    profile = host.profile(PIP_FIND_LINKS=str(folder))
    env = profile.uv_env(CPU_INDEX, {"torch": "2.13.0+cpu", "numpy": "2.4"}, HERE)
    assert env["UV_INDEX"] == (CPU_INDEX.url if asked else "")
    assert "UV_FIND_LINKS" not in env  # a folder of this host is no folder of the container


def test_a_uv_on_this_host_sees_the_folder_that_it_is_given_and_no_other(host: Host) -> None:
    """A lock must not depend on what lies in somebody's folder."""
    wheels = host.file("wheels/torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").parent
    ca = host.file("etc/ssl/certs/ca-certificates.crt")
    links = "https://l.invalid"
    profile = host.profile(UV_FIND_LINKS=f"{links},{wheels}")
    assert profile.host_env(None, {}, HERE) == {
        "UV_INDEX": "",
        "UV_FIND_LINKS": links,
        "SSL_CERT_FILE": str(ca),
    }
    given = profile.host_env(None, {}, HERE, host.root / "given")
    assert given["UV_FIND_LINKS"] == f"{links},{host.root}/given"


# TLS, proxies, netrc.


def test_the_ca_is_the_first_that_exists(host: Host) -> None:
    assert host.profile().ca is None
    system = host.file("etc/pki/tls/certs/ca-bundle.crt")
    assert host.profile().ca == system
    debian = host.file("etc/ssl/certs/ca-certificates.crt")
    assert host.profile().ca == debian
    pip = host.file("my ca.pem")
    host.file("etc/pip.conf", f"[global]\ncert = {pip}\n")
    assert host.profile().ca == pip
    variables = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    files = {name: str(host.file(f"{name}.pem")) for name in variables}
    for name in reversed(variables):
        chosen = {n: f for n, f in files.items() if variables.index(n) >= variables.index(name)}
        assert str(host.profile(**chosen).ca) == files[name]
    assert host.profile(SSL_CERT_FILE=str(host.root / "none")).ca == pip


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({"http_proxy": "a", "https_proxy": "b", "no_proxy": "c"}, ("a", "b", "c")),
        ({"HTTP_PROXY": "a", "HTTPS_PROXY": "b", "NO_PROXY": "c"}, ("a", "b", "c")),
        ({"http_proxy": "a", "HTTP_PROXY": "z", "https_proxy": ""}, ("a", None, None)),
    ],
)
def test_proxies(host: Host, env: Mapping[str, str], found: tuple[str | None, ...]) -> None:
    wanted = dict(zip(("http_proxy", "https_proxy", "no_proxy"), found, strict=True))
    assert host.profile(**env).proxies == {n: v for n, v in wanted.items() if v}


def test_netrc(host: Host) -> None:
    own = host.file("home/u/.netrc")
    assert host.profile().netrc == own
    other = host.file("netrc")
    assert host.profile(NETRC=str(other)).netrc == other
    assert host.profile(NETRC=str(host.root / "none")).netrc is None


# apt.

DEBIAN, SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        (
            "sources.list",
            (
                "# deb http://old.invalid/debian bookworm main\n"
                "deb-src http://src.invalid/debian bookworm main\n"
                "deb [arch=amd64 signed-by=/k/debian-archive.gpg] "
                "https://m.invalid/debian/ bookworm main\n"
                "deb http://m.invalid/mirrors/debian-security bookworm-security main\n"
            ),
            {
                DEBIAN: "https://m.invalid/debian",
                SECURITY: "http://m.invalid/mirrors/debian-security",
            },
        ),
        ("sources.list", f"deb {DEBIAN} bookworm main\n", {}),
        ("sources.list", "deb cdrom:[Debian GNU/Linux]/ bookworm main\n", {}),
        ("sources.list", "deb http://[bad/debian bookworm main\n", {DEBIAN: "http://[bad/debian"}),
        # Somebody else's repositories, as their makers' manuals have them.
        (
            "sources.list",
            (
                f"deb {DEBIAN} bookworm main\n"
                "deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.asc] "
                "https://download.docker.com/linux/debian bookworm stable\n"
                "deb https://pkgs.invalid/debian bookworm main\n"
            ),
            {},
        ),
        (
            "sources.list.d/other.list",
            "deb [signed-by=/etc/apt/keyrings/o.gpg] https://o.invalid/debian bookworm main\n",
            {},
        ),
        (
            "sources.list",
            (
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
                "https://repo.invalid/nexus/debian-bookworm bookworm main contrib # ours\n"
            ),
            {DEBIAN: "https://repo.invalid/nexus/debian-bookworm"},
        ),
        (
            "sources.list",
            "deb http://ftp.debian.org/debian x main\ndeb http://m.invalid/debian x main\n",
            {},
        ),
        # A folder of this host is none of a container.
        ("sources.list", "deb file:/srv/mirror/debian bookworm main\n", {}),
        (
            "sources.list.d/u.list",
            "deb http://m.invalid/ubuntu jammy main\n",
            {"http://archive.ubuntu.com/ubuntu": "http://m.invalid/ubuntu"},
        ),
        (
            "sources.list.d/debian.sources",
            (
                "# deb822\nTypes: deb deb-src\nURIs: http://m.invalid/debian\n"
                " http://n.invalid/debian-security\nSuites: bookworm\nComponents: main\n"
            ),
            {DEBIAN: "http://m.invalid/debian", SECURITY: "http://n.invalid/debian-security"},
        ),
        (
            "sources.list.d/debian.sources",
            (
                "Enabled: no\nTypes: deb\nURIs: http://off.invalid/debian\nSuites: x\n\n"
                "Types: deb-src\nURIs: http://src.invalid/debian\nSuites: x\n\n"
                "types: deb\n# a comment within\nuris: http://on.invalid/debian\n"
                "Suites: x\nComponents: main\n"
            ),
            {DEBIAN: "http://on.invalid/debian"},
        ),
        ("sources.list.d/debian.sources.bak", "Types: deb\nURIs: http://m.invalid/debian\n", {}),
        ("sources.list.d/nvidia.list", "deb http://m.invalid/cuda/ /\n", {}),
    ],
)
def test_apt_mirrors(host: Host, path: str, text: str, found: dict[str, str]) -> None:
    host.file(f"etc/apt/{path}", text)
    assert apt.mirrors(host.root) == found


def test_apt_options_say_how_to_reach_a_mirror(host: Host) -> None:
    host.file(
        "etc/apt/apt.conf.d/90proxy",
        'Acquire::http::Proxy "http://p.invalid:3128";\n'
        'Acquire::https::Proxy::m.invalid "DIRECT";\n'
        'Acquire::https::CAInfo "/etc/ours.pem";\n'
        'APT::Install-Recommends "false";\n// Acquire::Retries "9";\n',
    )
    host.file("etc/apt/apt.conf.d/91.conf", 'Acquire::Retries "3";\n')
    host.file("etc/apt/apt.conf.d/92.dpkg-old", 'Acquire::http::Timeout "4";\n')
    host.file("etc/apt/apt.conf", 'Acquire::Retries "5";\nAcquire::Check-Valid-Until "false";\n')
    assert apt.options(host.root) == (
        'Acquire::Check-Valid-Until "false";',
        'Acquire::Retries "5";',
        'Acquire::http::Proxy "http://p.invalid:3128";',
        'Acquire::https::Proxy::m.invalid "DIRECT";',
    )


def test_apt_login_is_auth_conf_and_its_parts(host: Host) -> None:
    assert host.profile().apt_login == ""
    host.file("etc/apt/auth.conf", "machine a.invalid login u password secret-a")
    host.file("etc/apt/auth.conf.d/10.conf", "machine b.invalid login u password secret-b\n")
    host.file("etc/apt/auth.conf.d/10.conf.bak", "machine c.invalid login u password secret-c\n")
    profile = host.profile()
    assert profile.apt_login == (
        "machine a.invalid login u password secret-a\nmachine b.invalid login u password secret-b\n"
    )
    assert profile.redact("401 for u:secret-b") == "401 for u:<site>"


def test_a_named_index_gets_the_credentials_of_its_name(host: Host) -> None:
    login = {"UV_INDEX_CORP_PY_USERNAME": "me", "UV_INDEX_CORP_PY_PASSWORD": "p@ss/w"}
    profile = host.profile(UV_INDEX=f"corp-py={url('a')} {url('b')}", **login)
    assert profile.extra_indexes == ("https://me:p%40ss%2Fw@a.invalid/simple", url("b"))
    host.file("etc/uv/uv.toml", f'[[index]]\nname = "corp-py"\nurl = "{url("c")}"\n')
    assert host.profile(**login).extra_indexes == ("https://me:p%40ss%2Fw@c.invalid/simple",)
    kept = host.profile(UV_INDEX="corp-py=https://own:one@a.invalid/simple", **login)
    assert kept.extra_indexes[-1] == "https://own:one@a.invalid/simple"


@pytest.mark.parametrize(
    ("file", "text", "env", "no_index", "offline"),
    [
        ("etc/pip.conf", "[global]\nno-index = true\n", {}, True, False),
        ("etc/uv/uv.toml", "no-index = true\n", {}, True, False),
        ("etc/uv/uv.toml", "offline = true\n", {}, False, True),
        ("etc/none", "", {"PIP_NO_INDEX": "1"}, True, False),
        ("etc/none", "", {"UV_OFFLINE": "1"}, False, True),
        ("etc/none", "", {"UV_OFFLINE": "0"}, False, False),
    ],
)
def test_no_index_is_not_no_network(
    host: Host, file: str, text: str, env: dict[str, str], no_index: bool, offline: bool
) -> None:
    host.file(file, text)
    profile = host.profile(**env)
    assert (profile.no_index, profile.offline) == (no_index, offline)

"""The one file that carries a site into a build."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.facts import Matrix
from builder.model import Recipe
from builder.project import Project
from builder.render import Renderer
from builder.site import SiteProfile, secret
from tests.unit.support import ROOT, recipe_of

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMII{}\n-----END CERTIFICATE-----\n"


@pytest.fixture(scope="module")
def recipe(project: Project, matrix: Matrix) -> Recipe:
    return recipe_of(project, matrix, "cpu-vllm")


def full_profile(folder: Path, **fields: Any) -> SiteProfile:
    """A site that has everything."""
    ca, netrc = folder / "ca.pem", folder / "netrc"
    ca.write_text("# Corp CA\n" + CERTIFICATE.format(1) + "# another\n" + CERTIFICATE.format(2))
    netrc.write_text("machine pkgs.corp.invalid login u password p4ss")
    everything: dict[str, Any] = {
        "default_index": "https://u:p@pkgs.corp.invalid/simple",
        "extra_indexes": ("https://extra.corp.invalid/simple",),
        "find_links": ("https://links.corp.invalid/whl",),
        "wheel_dirs": (folder,),
        "insecure_hosts": ("pkgs.corp.invalid",),
        "ca": ca,
        "netrc": netrc,
        "proxies": {"http_proxy": "http://proxy.corp.invalid:3128"},
        "apt_options": ('Acquire::Retries "3";',),
        "apt_sources": {"http://deb.debian.org/debian": "http://apt.corp.invalid/debian"},
    }
    return SiteProfile(**{**everything, **fields})


def test_the_script_of_a_site_that_has_everything(
    recipe: Recipe, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made = secret.script(full_profile(tmp_path), recipe, "/run/site")
    file = ROOT / "tests/golden/site.sh"
    if request.config.getoption("--update-golden"):
        file.write_text(made)
    assert made == file.read_text()


def test_the_script_of_a_site_that_has_nothing(recipe: Recipe) -> None:
    script = secret.script(SiteProfile(proxies={}, apt_sources={}), recipe, "/run/site")
    assert script == ("mkdir -p /run/site\nexport UV_INDEX=https://download.pytorch.org/whl/cpu\n")


def test_a_security_mirror_is_used_where_there_is_one(recipe: Recipe, tmp_path: Path) -> None:
    mirrors = {
        "http://deb.debian.org/debian": "http://a.invalid/debian",
        "http://deb.debian.org/debian-security": "http://a.invalid/debian-security",
    }
    script = secret.script(full_profile(tmp_path, apt_sources=mirrors), recipe, "/s")
    assert (
        "deb http://a.invalid/debian bookworm main\n"
        "deb http://a.invalid/debian bookworm-updates main\n"
        "deb http://a.invalid/debian-security bookworm-security main\n"
    ) in script


def test_without_an_index_the_sites_pages_are_still_asked(recipe: Recipe, tmp_path: Path) -> None:
    """uv's "offline" would keep it from them."""
    found = exports(script := secret.script(full_profile(tmp_path, no_index=True), recipe, "/s"))
    assert "UV_OFFLINE" not in found
    assert found["PIP_NO_INDEX"] == "1"
    assert found["UV_FIND_LINKS"] == found["PIP_FIND_LINKS"] == "https://links.corp.invalid/whl"
    assert heredocs(script)[found["UV_CONFIG_FILE"]] == "no-index = true\n"


def test_a_complete_folder_asks_nobody(recipe: Recipe, tmp_path: Path) -> None:
    found = exports(secret.script(full_profile(tmp_path), recipe, "/s", complete=True))
    assert found["UV_OFFLINE"] == found["PIP_NO_INDEX"] == "1"


def test_apt_says_who_it_is(recipe: Recipe, tmp_path: Path) -> None:
    profile = full_profile(tmp_path, apt_login="machine apt.corp.invalid login u password s3cret\n")
    files = heredocs(secret.script(profile, recipe, "/s"))
    assert files["/s/auth.conf"] == profile.apt_login
    assert 'Dir::Etc::netrc "/s/auth.conf";' in files["/s/apt.conf"]


def test_a_file_that_is_no_utf8_arrives_byte_for_byte(recipe: Recipe, tmp_path: Path) -> None:
    profile, file = full_profile(tmp_path), tmp_path / "secret"
    (tmp_path / "netrc").write_bytes(b"machine m login u password p\xe9ss\n")
    secret.write(profile, recipe, file, "/s")
    assert b"password p\xe9ss\n" in file.read_bytes()


def test_an_ubuntu_base_uses_the_sites_ubuntu_mirror(
    project: Project, matrix: Matrix, tmp_path: Path
) -> None:
    mirrors = {"http://archive.ubuntu.com/ubuntu": "http://a.invalid/ubuntu"}
    profile = full_profile(tmp_path, apt_sources=mirrors)
    files = heredocs(secret.script(profile, recipe_of(project, matrix, "cuda12.2-vllm"), "/s"))
    assert files["/s/sources.list"] == "".join(
        f"deb http://a.invalid/ubuntu jammy{pocket} main universe\n"
        for pocket in ("", "-updates", "-security")
    )


def exports(script: str) -> dict[str, str]:
    """The exported variables, as a shell's word splitting and quote removal give them."""
    words = [shlex.split(line) for line in script.splitlines() if line.startswith("export ")]
    assert all(len(word) == 2 for word in words), "a value is more than one word"
    return dict(word[1].split("=", 1) for word in words)


HOSTILE = 'x\'; rm -rf /; echo "$(id)" `id` $HOME \\ #'


def test_hostile_values_stay_one_word(recipe: Recipe, tmp_path: Path) -> None:
    profile = full_profile(
        tmp_path,
        default_index=HOSTILE,
        proxies={"http_proxy": HOSTILE},
        insecure_hosts=(HOSTILE,),
    )
    found = exports(secret.script(profile, recipe, "/run/site"))
    for name in ("UV_DEFAULT_INDEX", "PIP_INDEX_URL", "http_proxy", "UV_INSECURE_HOST"):
        assert found[name] == HOSTILE


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"))))
def test_any_value_stays_one_word(recipe: Recipe, value: str) -> None:
    profile = SiteProfile(proxies={"http_proxy": value}, apt_sources={})
    script = secret.script(profile, recipe, "/run/site")
    assert exports(script)["http_proxy"] == value


def heredocs(script: str) -> dict[str, str]:
    """File -> text, as a shell reads quoted here-documents: to the first line that is the mark."""
    found: dict[str, str] = {}
    lines = iter(script.splitlines(keepends=True))
    for line in lines:
        if match := re.fullmatch(r"cat > (\S+) <<'(\w+)'\n", line):
            body = ""
            for inner in lines:
                if inner == f"{match[2]}\n":
                    break
                body += inner
            found[match[1]] = body
        else:
            assert line.startswith(("mkdir ", "export ")), f"a shell would run {line!r}"
    return found


@pytest.mark.parametrize(
    "text",
    [
        "machine m login u password $(id)`id`'\"\\\n",
        "machine m\nEND_OF_SITE_FILE\nrm -rf /\n",
        "END_OF_SITE_FILE\nEND_OF_SITE_FILE_\nEND_OF_SITE_FILE__\nid\n",
        "no end of line",
        "",
    ],
)
def test_a_file_arrives_as_it_is(recipe: Recipe, tmp_path: Path, text: str) -> None:
    profile = full_profile(tmp_path)
    (tmp_path / "netrc").write_text(text)
    files = heredocs(secret.script(profile, recipe, "/run/site"))
    assert files["/run/site/netrc"] == (text if text.endswith("\n") else text + "\n")
    assert files["/run/site/ca.crt"] == CERTIFICATE.format(1) + CERTIFICATE.format(2)


def test_only_its_owner_reads_the_file(recipe: Recipe, tmp_path: Path) -> None:
    profile = full_profile(tmp_path)
    for name in ("new", "old"):
        file = tmp_path / name
        if name == "old":
            file.write_text("x")
            file.chmod(0o644)
        secret.write(profile, recipe, file, "/run/site")
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.read_text() == secret.script(profile, recipe, "/run/site")


def test_nothing_of_a_site_is_rendered(
    project: Project, matrix: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rendering does not even look: it is the same with a site's settings in the environment."""
    cells = ("cpu-vllm", "cuda12.2-vllm")
    before = [Renderer(project.template_dirs).render(recipe_of(project, matrix, c)) for c in cells]
    settings = {
        "PIP_INDEX_URL": "https://u:p@pkgs.corp.invalid/simple",
        "UV_INDEX": "https://extra.corp.invalid/simple",
        "http_proxy": "http://proxy.corp.invalid:3128",
        "SSL_CERT_FILE": str(tmp_path),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    after = [Renderer(project.template_dirs).render(recipe_of(project, matrix, c)) for c in cells]
    assert after == before
    for image in after:
        for text in image.files.values():
            assert "corp.invalid" not in text

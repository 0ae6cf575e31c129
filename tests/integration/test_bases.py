"""Bases pinned by what a real registry says, found through a registries.conf that mirrors."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import matrix, site
from builder.engines.bootstrap import bootstrap
from tests.integration.conftest import Imgbuild, engine
from tests.integration.registryserver import PASSWORD, USER, RegistryServer
from tests.integration.test_engines import image_labels

pytestmark = pytest.mark.engine
TAG = "docker.io/library/debian:12-slim"
ENGINES = ("buildah", "docker", "apptainer")
_EPOCH = 1748736000  # of the project's own build, which then finds this base made
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(scope="module")
def rootfs() -> Path:
    """A bootstrapped Debian as an OCI archive."""
    engine("buildah")  # and mmdebstrap
    loaded = matrix.load(Path(__file__).parent / "project/matrix.yaml")
    lines: list[str] = []
    made = bootstrap("debian12", loaded.os["debian12"], site.discover(), lines.append, epoch=_EPOCH)
    return made.path


def serve_base(server: RegistryServer, archive: Path) -> str:
    """Give it `archive` under the base's tag, in an index; returns the index's digest."""
    copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--format", "oci"]
    copy += ["--dest-creds", f"{USER}:{PASSWORD}"] if server.ca else []
    target = f"docker://{server.host}/library/debian:amd64"
    subprocess.run([*copy, f"oci-archive:{archive}", target], check=True)
    amd64 = server.digest("library/debian", "amd64")
    size = len(server.ask(f"library/debian/manifests/{amd64}")[1])
    entry = {"mediaType": _MANIFEST, "digest": amd64, "size": size}
    entry["platform"] = {"architecture": "amd64", "os": "linux"}
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]}
    text = json.dumps(index).encode()
    server.put("library/debian/manifests/12-slim", text, _INDEX)
    return f"sha256:{hashlib.sha256(text).hexdigest()}"


def mirrored(folder: Path, server: RegistryServer, prefix: str = "docker.io") -> dict[str, str]:
    """Variables of a site where `server` stands in for `prefix`."""
    conf = folder / "registries.conf"
    insecure = "insecure = true\n" if server.ca is None else ""
    conf.write_text(
        f'[[registry]]\nprefix = "{prefix}"\nlocation = "{prefix}"\n'
        f'[[registry.mirror]]\nlocation = "{server.host}"\n{insecure}'
    )
    return {"CONTAINERS_REGISTRIES_CONF": str(conf), **server.env()}


@pytest.fixture(params=["plain", "tls"])
def server(request: pytest.FixtureRequest) -> RegistryServer:
    """Each kind of registry."""
    names = {"plain": "plain_registry", "tls": "registry"}
    found: RegistryServer = request.getfixturevalue(names[request.param])
    return found


def test_a_tag_is_pinned_to_the_index_that_a_mirror_has(
    server: RegistryServer, rootfs: Path, project: Path, imgbuild: Callable[..., Imgbuild]
) -> None:
    digest = serve_base(server, rootfs)
    run = imgbuild(project, **mirrored(project, server))
    assert run("lock", "--bases").stdout == f"{TAG}: pinned {digest}\n"
    text = (project / "images/locks/bases.txt").read_text()
    assert text.splitlines()[-1] == f"{TAG}@{digest}"
    assert run("lock", "--bases").stdout == f"{TAG}: unchanged {digest}\n"
    checked = run("lock", "--check")
    assert "unpinned" not in checked.stderr
    run("render")
    dockerfile = (project / "images/cpu-files/Dockerfile").read_text()
    assert f"\n# {TAG}\nARG BASE=docker.io/library/debian@{digest}\n" in dockerfile
    run("render", "--check")

    gone = imgbuild(
        project, CONTAINERS_REGISTRIES_CONF="/dev/null", https_proxy="http://127.0.0.1:9"
    )
    failed = gone("lock", "--bases", code=1)
    assert failed.stdout == ""
    assert f"{TAG}: no registry answers at docker.io: " in failed.stderr
    assert (project / "images/locks/bases.txt").read_text() == text


def test_what_a_mirror_refuses_is_told_in_one_line(
    registry: RegistryServer, project: Path, imgbuild: Callable[..., Imgbuild]
) -> None:
    env = {**mirrored(project, registry), **registry.env("wrong")}
    failed = imgbuild(project, **env, https_proxy="http://127.0.0.1:9")("lock", "--bases", code=1)
    (told,) = (
        line for line in failed.stderr.splitlines() if line.startswith(f"{TAG}: {registry.host}")
    )
    assert f"the registry refuses the login of '{USER}'" in told
    assert f"unpinned: {TAG} (used by 1 cell)" in failed.stderr


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_builds_on_the_pin_though_the_tag_has_moved(
    name: str,
    plain_registry: RegistryServer,
    rootfs: Path,
    project: Path,
    imgbuild: Callable[..., Imgbuild],
) -> None:
    engine(name)
    digest = serve_base(plain_registry, rootfs)
    tag, prefix = TAG, "docker.io"
    if name == "apptainer":  # its mirrors are tested with the engines
        tag, prefix = f"{plain_registry.host}/library/debian:12-slim", plain_registry.host
        file = project / "matrix.yaml"
        file.write_text(file.read_text().replace(TAG, tag))
    run = imgbuild(project, **mirrored(project, plain_registry, prefix))
    run("lock", "--bases")
    plain_registry.put("library/debian/manifests/12-slim", *other(plain_registry))
    assert plain_registry.digest("library/debian", "12-slim") != digest
    built = run("build", "--engine", name, "--base", "registry", "--force", "--json").json()[0]
    reference = built["image"]["reference"]
    if name == "apptainer":
        command = ["apptainer", "inspect", "--labels", "--json", str(project / reference)]
        shown = subprocess.run(command, capture_output=True, check=True, env=os.environ)
        labels = json.loads(shown.stdout)["data"]["attributes"]["labels"]
    else:
        labels = image_labels(name, reference)
    assert labels["org.opencontainers.image.base.name"] == tag
    assert labels["org.opencontainers.image.base.digest"] == digest
    assert "unchanged" in run("build", "--engine", name, "--base", "registry").stdout


def other(server: RegistryServer) -> tuple[bytes, str]:
    """A manifest that is the base's, but not byte for byte."""
    text = server.ask(f"library/debian/manifests/{server.digest('library/debian', 'amd64')}")[1]
    return json.dumps(json.loads(text), indent=1).encode(), _MANIFEST

"""Pushing to a real registry with TLS and a login, and pulling from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.engines import host
from builder.engines.apptainer import Apptainer
from tests.integration.conftest import Imgbuild, engine
from tests.integration.registryserver import RegistryServer
from tests.integration.test_engines import served_and_stopped, version

pytestmark = pytest.mark.engine
CELL = "shelf-files"  # a name that no other test has: those remove what they built
ENGINES = ("buildah", "docker")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project with a cell of its own, built with both engines."""
    folder = tmp_path_factory.mktemp("publish") / "project"
    shutil.copytree(Path(__file__).parent / "project", folder)
    file = folder / "matrix.yaml"
    text = file.read_text().replace("cpu-files", CELL)
    file.write_text(text.replace("stacks:\n  cpu:\n", "stacks:\n  shelf:\n"))
    for name in ENGINES:
        engine(name)
        Imgbuild(folder, {})("build", "--engine", name, "--tag", "extra")
    return folder


def references(name: str) -> set[str]:
    """All names of images that an engine has."""
    command = {
        "docker": ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"],
        "buildah": ["buildah", "images", "--format", "{{.Name}}:{{.Tag}}"],
    }[name]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(shown.stdout.split())


@pytest.mark.parametrize("name", ENGINES)
def test_all_tags_are_pushed_once(name: str, shelf: Path, registry: RegistryServer) -> None:
    run = Imgbuild(shelf, registry.env())
    repository = f"{name}/files"
    prefix = f"{registry.host}/{name}"
    pushed = run("push", "--registry", prefix, "--engine", name, "--json").json()[0]
    assert not [name for name in references(name) if name.startswith(prefix)], "borrowed, kept"
    tags = registry.tags(repository)
    assert {CELL, "25.0-shelf", "extra"} < tags
    assert len(tags) == 4  # and the content's
    assert {tag["reference"] for tag in pushed["tags"]} == {
        f"{prefix}/files:{tag}@{registry.digest(repository, tag)}" for tag in tags
    }
    assert all(tag["changed"] for tag in pushed["tags"])

    again = run("push", "--registry", prefix, "--engine", name)
    lines = again.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.startswith(f"unchanged {prefix}/files:")
        assert line.endswith(f"@{pushed['digest']}")
    assert "pushing" not in again.stderr


@pytest.mark.parametrize("name", ENGINES)
def test_layers_are_sent_as_zstd_or_as_gzip_and_never_twice(
    name: str, shelf: Path, registry: RegistryServer
) -> None:
    """Of one store and to one registry: an engine must not send what it remembers instead."""
    run, repository = Imgbuild(shelf, registry.env()), f"both-{name}/files"
    push = ("push", "--registry", f"{registry.host}/both-{name}", "--engine", name)
    kinds = {
        "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
        "gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
    }
    sizes: dict[str, int] = {}
    blobs: dict[str, list[str]] = {}
    for compression in ("gzip", "zstd", "gzip", "zstd"):
        if name == "docker" and compression == "zstd" and not keeps_in_containerd():
            failed = run(*push, "--compression", "zstd", code=2)
            assert "sends gzip only" in failed.stderr
            return
        pushed = run(*push, "--compression", compression, "--json").json()[0]
        layers = registry.manifest(repository, CELL)["layers"]
        assert {layer["mediaType"] for layer in layers} == {kinds[compression]}
        digests = [layer["digest"] for layer in layers]
        assert blobs.setdefault(compression, digests) == digests, "equal layers, other bytes"
        sizes[compression] = pushed["size"]
        again = run(*push, "--compression", compression)
        assert {line.split()[0] for line in again.stdout.splitlines()} == {"unchanged"}
    assert sizes["zstd"] < 0.97 * sizes["gzip"]
    config = json.loads(
        registry.blob_file(registry.manifest(repository, CELL)["config"]["digest"]).read_bytes()
    )
    assert config["config"]["Healthcheck"]["Test"][0] == "CMD"


@pytest.mark.parametrize("name", ENGINES)
def test_images_share_the_blobs_of_equal_layers(
    name: str, shelf: Path, registry: RegistryServer, tmp_path: Path
) -> None:
    other = tmp_path / "project"
    shutil.copytree(shelf, other)
    file = other / "matrix.yaml"
    file.write_text(file.read_text().replace("shelf", "board"))
    blobs: list[dict[str, str]] = []  # of each image: layer -> what it became
    for folder, cell in ((shelf, CELL), (other, "board-files")):
        Imgbuild(folder, {})("build", "--engine", name)
        push = ("push", "--engine", name, "--registry", f"{registry.host}/shared-{name}")
        Imgbuild(folder, registry.env())(*push)
        manifest = registry.manifest(f"shared-{name}/files", cell)
        config = json.loads(registry.blob_file(manifest["config"]["digest"]).read_bytes())
        digests = [layer["digest"] for layer in manifest["layers"]]
        blobs.append(dict(zip(config["rootfs"]["diff_ids"], digests, strict=True)))
    common = blobs[0].keys() & blobs[1].keys()
    assert common, "not even the base is one"
    assert {blobs[0][layer] for layer in common} == {blobs[1][layer] for layer in common}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both engines have one base: level 16 takes a minute for it, once."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", ENGINES)
def test_a_level_makes_smaller_layers_that_every_client_reads(
    name: str, shelf: Path, cache: Path, plain_registry: RegistryServer, tmp_path: Path
) -> None:
    if name == "docker" and not keeps_in_containerd():
        pytest.skip("this Docker keeps images in its own store")
    run = Imgbuild(shelf, {"XDG_CACHE_HOME": str(cache)})
    prefix, repository = f"{plain_registry.url}/level-{name}", f"level-{name}/files"
    push = ("push", "--registry", prefix, "--engine", name)
    quick = run(*push, "--json").json()[0]
    small = run(*push, "--compression-level", "16", "--json").json()[0]
    assert (quick["compression_level"], small["compression_level"]) == (None, 16)
    assert small["size"] < 0.95 * quick["size"]
    manifest = plain_registry.manifest(repository, CELL)
    assert manifest["annotations"]["io.imgbuild.compression-level"] == "16"
    blobs = [layer["digest"] for layer in manifest["layers"]]
    for options in ((), ("--compression-level", "16")):
        again = run(*push, *options)
        assert {line.split()[0] for line in again.stdout.splitlines()} == {"unchanged"}

    # Another registry gets the same bytes, from where they are kept.
    kept = set((cache / "imgbuild/layers").iterdir())
    other = ("push", "--registry", f"{prefix}-again", "--engine", name)
    assert "compressing" not in run(*other, "--compression-level", "16").stderr
    there = plain_registry.manifest(f"level-{name}-again/files", CELL)
    assert [layer["digest"] for layer in there["layers"]] == blobs
    assert set((cache / "imgbuild/layers").iterdir()) == kept

    place = f"{plain_registry.host}/{repository}:{CELL}"
    for client in ("docker", "podman", "apptainer"):
        engine("buildah" if client == "podman" else client)
        reads(client, place, tmp_path)
    pull = ("pull", CELL, "--registry", prefix, "--to", str(tmp_path))
    assert run(*pull, "--json").json()["digest"] == small["digest"]
    found = run("inspect", str(tmp_path / f"{CELL}.oci.tar"), "--json").json()
    assert [layer["digest"] for layer in found["layers"]] == blobs
    assert all(layer["compressed"] for layer in found["layers"])


@pytest.mark.parametrize("program", ["docker", "podman", "apptainer"])
@pytest.mark.parametrize("name", ENGINES)
def test_every_client_reads_what_is_pushed(
    name: str, program: str, shelf: Path, plain_registry: RegistryServer, tmp_path: Path
) -> None:
    engine("buildah" if program == "podman" else program)
    Imgbuild(shelf, {})("push", "--engine", name, "--registry", f"{plain_registry.url}/{name}")
    place = f"{plain_registry.host}/{name}/files:{CELL}"
    reads(program, place, tmp_path)


def reads(program: str, place: str, folder: Path) -> None:
    """A client pulls an image without TLS, and runs it where that needs no network of its own."""
    env = {**os.environ, **host.containers_env(), **host.apptainer_env()}
    if program == "apptainer":
        command = ["apptainer", "pull", "--no-https", str(folder / "x.sif"), f"docker://{place}"]
        subprocess.run(command, check=True, env=env)
        return
    insecure = ["--tls-verify=false"] if program == "podman" else []
    subprocess.run([program, "pull", *insecure, place], check=True, env=env)
    try:
        python = [program, "run", "--rm", "--network=host", "--entrypoint=python3", place, "-V"]
        subprocess.run(python, check=True, env=env)
    finally:
        subprocess.run([program, "rmi", "--force", place], check=True, env=env)


def keeps_in_containerd() -> bool:
    """Whether this Docker keeps images in containerd, and not in its own store."""
    info = ["docker", "info", "--format", "{{json .DriverStatus}}"]
    shown = subprocess.run(info, capture_output=True, text=True, check=True)
    return "containerd" in shown.stdout


def test_what_is_refused_is_one_line(shelf: Path, registry: RegistryServer) -> None:
    trusted = registry.env("wrong")
    for env, told in (
        (trusted, "unauthorised: the registry refuses the login of 'lab'; log in with `docker"),
        ({**trusted, "REGISTRY_AUTH_FILE": "", "DOCKER_CONFIG": "/nowhere"}, "unauthorised"),
        ({"SSL_CERT_FILE": ""}, "of an authority that is unknown here; name the file of its CA"),
    ):
        refused(Imgbuild(shelf, env), registry.host, told)
    push = ("push", "--registry", f"{registry.host}/x", "--engine", "buildah")
    failed = Imgbuild(shelf, trusted)(*push, code=1)
    assert "unauthorised: the registry refuses the login of 'lab'" in failed.stderr
    assert len(failed.stderr.splitlines()) == 2
    gone = f"127.0.0.1:{host.free_port()}"
    refused(Imgbuild(shelf, {}), gone, f"no registry answers at {gone}: Connection refused")


def refused(run: Imgbuild, at: str, told: str) -> None:
    """A pull; a push asks in the same way before it starts an engine."""
    failed = run("pull", CELL, "--registry", f"{at}/x", "--to", "nothing", code=1)
    asking, *rest = failed.stderr.splitlines()
    assert asking == f"{CELL}: asking {at} ..."
    assert len(rest) == 1
    assert rest[0].startswith(f"imgbuild: {at}") or told.startswith("no registry")
    assert told in rest[0]
    assert not (run.folder / "nothing").exists()


def test_an_engine_that_distrusts_is_one_line_too(shelf: Path, registry: RegistryServer) -> None:
    """imgbuild knows the login from a file that Docker does not read."""
    known = registry.env()
    env = {**known, "DOCKER_CONFIG": str(registry.folder / "login-of-nobody")}
    prefix = f"{registry.host}/nobody"
    failed = Imgbuild(shelf, env)("push", "--registry", prefix, "--engine", "docker", code=1)
    assert failed.stderr.splitlines()[-1] == (
        f"imgbuild: {registry.host}: unauthorised: docker has no login for it, or one that it "
        f"refuses; `docker login {registry.host}` keeps one"
    )
    assert not [name for name in references("docker") if name.startswith(prefix)]


def test_what_is_not_built_is_told_with_the_command(shelf: Path, registry: RegistryServer) -> None:
    other = shelf.parent / "not-built"
    shutil.copytree(shelf, other)
    file = other / "matrix.yaml"
    file.write_text(file.read_text().replace("shelf", "bench"))
    failed = Imgbuild(other, {})("push", "--registry", registry.host, code=2)
    assert failed.stderr == (
        "imgbuild: bench-files is not built with any engine; "
        "run `imgbuild build --matrix bench-files`\n"
    )


@pytest.fixture(scope="module")
def pushed(shelf: Path, registry: RegistryServer) -> tuple[Imgbuild, str]:
    """The command with the registry's CA and login, and a prefix that holds Buildah's image."""
    run = Imgbuild(shelf, registry.env())
    prefix = f"{registry.host}/pull"
    run("push", "--registry", prefix, "--engine", "buildah")
    return run, prefix


def test_an_archive_is_what_the_registry_has(
    pushed: tuple[Imgbuild, str], registry: RegistryServer, tmp_path: Path
) -> None:
    run, prefix = pushed
    pulled = run("pull", CELL, "--registry", prefix, "--to", str(tmp_path), "--json").json()
    assert pulled["digest"] == registry.digest("pull/files", CELL)
    assert pulled["reference"] == f"{prefix}/files@{pulled['digest']}"
    file = tmp_path / f"{CELL}.oci.tar"
    assert (tmp_path / f"{CELL}.oci.tar.digest").read_text() == f"{pulled['digest']}\n"
    shown = subprocess.run(
        ["skopeo", "inspect", f"oci-archive:{file}"], capture_output=True, check=True
    )
    assert json.loads(shown.stdout)["Digest"] == pulled["digest"]
    for program in ("podman", "docker"):
        command = [program, "load", "--input", str(file)]
        env = {**os.environ, **host.containers_env()}
        loaded = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        assert f"{prefix}/files:{CELL}" in loaded.stdout
        subprocess.run([program, "rmi", f"{prefix}/files:{CELL}"], check=True, env=env)

    again = run("pull", CELL, "--registry", prefix, "--to", str(tmp_path))
    assert again.stdout.startswith(f"{CELL}: unchanged {prefix}/files@{pulled['digest']}\n")


def test_a_tag_that_has_moved_is_told_and_a_digest_stays(
    pushed: tuple[Imgbuild, str], registry: RegistryServer, tmp_path: Path
) -> None:
    run, _ = pushed
    prefix = f"{registry.host}/moving"
    pull = ("pull", CELL, "--registry", prefix, "--to", str(tmp_path))
    run("push", "--registry", prefix, "--engine", "buildah")
    old = registry.digest("moving/files", CELL)
    run(*pull)
    run("push", "--registry", prefix, "--engine", "docker")
    new = registry.digest("moving/files", CELL)
    assert old != new
    assert f"files@{new} (was {old} before)\n" in run(*pull).stdout
    assert f"files@{old} (was {new} before)\n" in run(*pull, "--digest", old).stdout
    nowhere = "sha256:" + "0" * 64
    failed = run(*pull, "--digest", nowhere, code=1)
    assert f"{prefix}/files@{nowhere} is not there" in failed.stderr
    assert (tmp_path / f"{CELL}.oci.tar.digest").read_text() == f"{old}\n"


@pytest.fixture
def spoiled(
    pushed: tuple[Imgbuild, str], registry: RegistryServer
) -> Iterator[tuple[Imgbuild, str, RegistryServer]]:
    """A registry that holds the image, for tests that spoil it; whole again afterwards."""
    kept = {file: file.read_bytes() for file in registry.storage.rglob("data")}
    yield *pushed, registry
    for file, content in kept.items():
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("what", "sif"), [("layer", False), ("config", False), ("manifest", False), ("layer", True)]
)
def test_a_spoiled_byte_is_refused_and_leaves_nothing(
    what: str, sif: bool, spoiled: tuple[Imgbuild, str, RegistryServer], tmp_path: Path
) -> None:
    run, prefix, server = spoiled
    engine("apptainer")
    manifest = server.manifest("pull/files", CELL)
    digests = {
        "layer": manifest["layers"][-1]["digest"],
        "config": manifest["config"]["digest"],
        "manifest": server.digest("pull/files", CELL),
    }
    file = server.blob_file(digests[what])
    content = bytearray(file.read_bytes())
    place = content.index(b"sha256:") + 8 if what == "manifest" else len(content) // 2
    content[place] ^= 1
    file.write_bytes(content)
    folder = tmp_path / "images"
    options = ("--sif",) if sif else ()
    failed = run("pull", CELL, "--registry", prefix, "--to", str(folder), *options, code=1)
    assert "Traceback" not in failed.stderr
    if not sif:
        assert digests[what] in failed.stderr.splitlines()[-1]
    assert list(folder.iterdir()) == []


def test_a_sif_from_the_registry_serves(
    pushed: tuple[Imgbuild, str], registry: RegistryServer, tmp_path: Path
) -> None:
    """With apptainer alone; it gets the login and the CA from imgbuild."""
    engine("apptainer")
    run, prefix = pushed
    pulled = run(
        "pull", CELL, "--registry", prefix, "--to", str(tmp_path), "--sif", "--json"
    ).json()
    assert pulled["digest"] == registry.digest("pull/files", CELL)
    file = tmp_path / f"{CELL}.sif"
    assert {path.name for path in tmp_path.iterdir()} == {file.name, f"{file.name}.digest"}
    apptainer = Apptainer(tmp_path)
    assert "packaging 25.0" in version(apptainer, str(file))
    served_and_stopped(apptainer, str(file))


@pytest.mark.parametrize("name", ENGINES)
def test_without_tls_where_the_user_says_so(
    name: str, shelf: Path, plain_registry: RegistryServer
) -> None:
    run = Imgbuild(shelf, {})
    run("push", "--engine", name, "--registry", f"{plain_registry.url}/{name}")
    assert CELL in plain_registry.tags(f"{name}/files")


def test_a_sif_without_tls_only_where_the_user_says_so(
    shelf: Path, plain_registry: RegistryServer, tmp_path: Path
) -> None:
    engine("apptainer")
    run = Imgbuild(shelf, {})
    pull = ("pull", CELL, "--to", str(tmp_path), "--sif", "--registry")
    failed = run(*pull, f"{plain_registry.host}/buildah", code=1)
    assert failed.stderr.splitlines()[-1] == (
        f"imgbuild: {plain_registry.host} speaks HTTP without TLS; "
        f"where that is meant: --registry http://{plain_registry.host}"
    )
    run("push", "--engine", "buildah", "--registry", f"{plain_registry.url}/buildah")
    run(*pull, f"{plain_registry.url}/buildah")
    assert "packaging 25.0" in version(Apptainer(tmp_path), str(tmp_path / f"{CELL}.sif"))


def test_a_build_cache_lies_in_a_registry(
    shelf: Path, plain_registry: RegistryServer, tmp_path: Path
) -> None:
    """As CI keeps it. Docker writes one only where it keeps images in containerd."""
    if not keeps_in_containerd():
        pytest.skip("this Docker keeps images in its own store")
    run = Imgbuild(shelf, {"XDG_STATE_HOME": str(tmp_path)})
    cache = f"type=registry,ref={plain_registry.host}/files:cache-{CELL}"
    build = ("build", "--engine", "docker", "--force")
    run(*build, "--cache-from", cache, "--cache-to", f"{cache},mode=max,ignore-error=true")
    assert plain_registry.tags("files") == {f"cache-{CELL}"}
    run(*build, "--cache-from", cache)
    (log,) = tmp_path.rglob(f"{CELL}-docker.log")
    assert "importing cache manifest" in log.read_text()

"""The contract that every engine keeps, shown on a small project built for real."""

from __future__ import annotations

import base64
import gzip
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from builder import engines, matrix, site
from builder.engines import host
from builder.engines.apptainer import Apptainer
from builder.engines.base import Engine, Run
from builder.model import BaseKind
from builder.prepare import Workbench
from builder.project import Project
from builder.site import secret
from tests.integration.conftest import REPOSITORY, Imgbuild, engine

pytestmark = pytest.mark.engine
ENGINES = ("buildah", "docker", "apptainer")
# What a site keeps for itself. None of it may be found in an image, a label, a history or a log.
PLANTED = (
    "planted-wheels",
    "planted-ca",
    "planted-password",
    "planted.invalid",
    "planted-index",
    "planted-token",
)


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    engine(request.param)
    return str(request.param)


def made(name: str, folder: Path) -> Engine:
    return Apptainer(folder / "dist") if name == "apptainer" else engines.choose(name)


class _Index(BaseHTTPRequestHandler):
    """A package index that has nothing, and keeps what was asked of it."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization", "")))
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
        pass


@pytest.fixture
def index() -> Iterator[int]:
    """The port of an index on this host."""
    _Index.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def site_env(tmp_path: Path, index: int) -> dict[str, str]:
    """Settings of a site with secrets: an index, a wheel folder, a CA, logins, a proxy rule."""
    wheels = tmp_path / "planted-wheels"
    wheels.mkdir()
    bundle = tmp_path / "planted-ca.crt"
    own = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    make += ["-nodes", "-keyout", "/dev/null", "-subj", "/CN=planted"]
    made = subprocess.run(make, capture_output=True, text=True, check=True).stdout
    bundle.write_text(own.read_text() + made)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine planted.invalid login somebody password planted-password\n")
    return {
        "UV_INDEX": f"http://somebody:planted-token@127.0.0.1:{index}/planted-index/simple",
        "UV_FIND_LINKS": str(wheels),
        "PIP_FIND_LINKS": str(wheels),
        "SSL_CERT_FILE": str(bundle),
        "NETRC": str(netrc),
        "no_proxy": "planted.invalid",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


def test_engine_contract(
    name: str,
    project: Path,
    site_env: dict[str, str],
    imgbuild: Callable[..., Imgbuild],
    tmp_path: Path,
) -> None:
    """One build, and all that must hold of it: rebuilding a base for each would take minutes."""
    run = imgbuild(project, **site_env)
    # Another first layer, so that nothing is taken from a cache and every step sees the site.
    another_first_layer(project, tmp_path.name)
    tags = () if name == "apptainer" else ("--tag", "extra")
    built = run("build", "--engine", name, "--force", "--json", *tags).json()[0]
    assert built["changed"]
    assert built["base"] in {"bootstrap", "registry"}

    again = run("build", "--engine", name)
    assert "unchanged" in again.stdout

    chosen = made(name, project)
    reference = built["image"]["reference"]
    if name == "apptainer":
        reference = str(project / reference)
    if name != "apptainer":
        assert built["references"][:2] == ["files:25.0-cpu", "files:cpu-files"]
        assert "files:extra" in built["references"]
        assert chosen.call(reference, ("id", "-u"), {}, gpus=False).stdout.strip() == "1000"
        labels = image_labels(name, reference)
        for label in ("title", "version", "created", "revision", "licenses", "base.name", "source"):
            assert labels[f"org.opencontainers.image.{label}"], label
        assert labels["io.imgbuild.base"] == built["base"]
    assert "packaging 25.0" in version(chosen, reference)

    served_and_stopped(chosen, reference)

    log = next((tmp_path / "state/imgbuild/logs").iterdir()).read_bytes()
    login = base64.b64encode(b"somebody:planted-token").decode()
    assert ("/planted-index/simple/packaging/", f"Basic {login}") in _Index.asked, "no step saw it"
    contents = b"".join(image_bytes(name, reference, tmp_path))
    assert b"packaging" in contents, "the scan reads the image"
    certificate = Path(site_env["SSL_CERT_FILE"]).read_text().splitlines()[-4]  # a line of it
    for planted in (*PLANTED, certificate):
        assert planted.encode() not in contents, f"{planted} is in the image"
        assert planted.encode() not in log, f"{planted} is in the log"

    removed = run("clean", "--all", "--engine", name, "--json").json()
    assert built["image"]["reference"] in [image["reference"] for image in removed]
    assert run("clean", "--all", "--engine", name, "--json").json() == []
    run("smoke", "--engine", name, code=2)


def another_first_layer(project: Path, mark: str) -> None:
    """Make the project's OS layer, and so all after it, one that no build has made yet.

    A file of it has to differ: BuildKit finds its cache by content too, so a command that differs
    and leaves the same files behind would give the old layers to the steps after it.
    """
    own, made = "rm -f /var/log/apt/*", f"echo {mark}-{time.time_ns()} > /etc/another-layer"
    family = (REPOSITORY / "templates/os/debian.j2").read_text()
    assert own in family
    (project / "templates/os").mkdir()
    (project / "templates/os/debian.j2").write_text(family.replace(own, f"{made}\n{own}"))


def version(chosen: Engine, reference: str) -> str:
    code = "import packaging; print('packaging', packaging.__version__)"
    return chosen.call(reference, ("python3", "-c", code), {}, gpus=False).stdout


def served_and_stopped(chosen: Engine, reference: str) -> None:
    container = chosen.start(Run(image=reference, args=("{port}",), port=8000))
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + 60
        while True:
            try:
                assert opener.open(container.url, timeout=5).status == 200
                break
            except OSError:
                assert container.exit_code() is None, container.log()
                assert time.monotonic() < deadline, container.log()
                time.sleep(0.2)
        # Python's file server has no handler: SIGTERM ends it, and the code says so.
        assert container.stop(20) == 128 + signal.SIGTERM
        assert container.exit_code() is not None
    finally:
        container.remove()


def image_labels(name: str, reference: str) -> dict[str, str]:
    program = "docker" if name == "docker" else "podman"
    shown = subprocess.run(
        [program, "image", "inspect", reference], capture_output=True, text=True, check=True
    )
    config = json.loads(shown.stdout)[0]
    return dict(config["Config"]["Labels"])


def image_bytes(name: str, reference: str, folder: Path) -> Iterator[bytes]:
    """Every byte of an image: configuration, history, and all files of all layers."""
    if name == "apptainer":
        # Everything that the container's own tar finds, file names included.
        places = ("etc", "home", "mnt", "opt", "root", "run", "usr", "var", ".singularity.d")
        tar = ("tar", "--create", "--directory", "/", *places)
        shown = subprocess.run(
            ["apptainer", "exec", "--containall", "--no-home", reference, *tar],
            check=False,
            capture_output=True,
            env={**os.environ, **host.apptainer_env()},
        )
        assert len(shown.stdout) > 100e6, shown.stderr[-500:]
        yield shown.stdout
        return
    saved = folder / "image.tar"
    if name == "docker":
        subprocess.run(["docker", "save", "--output", str(saved), reference], check=True)
    else:
        subprocess.run(
            ["buildah", "push", "--quiet", reference, f"docker-archive:{saved}"], check=True
        )
    with tarfile.open(saved) as archive:
        for member in archive:
            source = archive.extractfile(member)
            if source is None:
                continue
            content = source.read()
            yield content
            if content[:2] == b"\x1f\x8b":  # a compressed layer
                yield gzip.decompress(content)


@pytest.mark.parametrize("name", ["buildah"])
def test_failure_names_the_step_and_shows_the_log(
    name: str, project: Path, imgbuild: Callable[..., Imgbuild]
) -> None:
    engine(name)
    fragment = project / "templates/frameworks/files.j2"
    fragment.write_text("echo this is the reason >&2\nfalse\n")
    failed = imgbuild(project)("build", "--engine", name, code=1)
    assert "this is the reason" in failed.stderr
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("imgbuild: cpu-files: step 'framework' failed")
    assert "Traceback" not in failed.stderr


def test_a_failure_does_not_tell_the_sites_addresses(
    project: Path, imgbuild: Callable[..., Imgbuild]
) -> None:
    engine("buildah")
    index = "https://somebody:planted-password@planted.invalid/simple"
    run = imgbuild(project, PIP_INDEX_URL=index, PIP_RETRIES="0")
    failed = run("build", "--engine", "buildah", "--force", code=1)
    assert "step 'tools' failed" in failed.stderr
    for planted in ("planted.invalid", "planted-password"):
        assert planted not in failed.stdout + failed.stderr


def test_wheels_in_a_folder_are_enough(
    project: Path, imgbuild: Callable[..., Imgbuild], tmp_path: Path
) -> None:
    """A site without any index: the wheels that the lock names lie in images/wheels."""
    engine("buildah")
    wheels = project / "images/wheels"
    wheels.mkdir(exist_ok=True)
    lock = project / "images/locks"
    for file in (lock / "tools.txt", *lock.glob("*/*.txt")):
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
             "--dest", str(wheels), "--requirement", str(file)],
            check=True,
            capture_output=True,
        )  # fmt: skip
    cache = tmp_path / "tmp"  # Buildah's cache mounts lie below TMPDIR: this one holds nothing
    cache.mkdir()
    nowhere = "http://127.0.0.1:9/simple"
    run = imgbuild(project, PIP_INDEX_URL=nowhere, UV_DEFAULT_INDEX=nowhere, TMPDIR=str(cache))
    another_first_layer(project, tmp_path.name)
    built = run("build", "--engine", "buildah", "--json").json()[0]
    assert built["changed"]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["buildah", "apptainer"])
def test_interrupt_exits_130_and_leaves_nothing(
    name: str, sign: signal.Signals, project: Path, tmp_path: Path
) -> None:
    engine(name)
    staging = tmp_path / "staging"
    staging.mkdir()
    (project / "templates/frameworks/files.j2").write_text("sleep 4711\n")
    program = Path(sys.executable).with_name("imgbuild")
    process = subprocess.Popen(
        [program, "build", "--engine", name],
        cwd=project,
        env={**os.environ, "TMPDIR": str(staging)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores Ctrl-C, and so would all that a CI runner starts there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "layer framework" in line:
            break
    time.sleep(2)
    process.send_signal(sign)
    assert process.wait(timeout=60) == 130
    assert process.stderr.read().rstrip().endswith("imgbuild: interrupted")
    time.sleep(1)
    sleeping = subprocess.run(["pgrep", "-fx", "sleep 4711"], capture_output=True, check=False)
    assert sleeping.returncode == 1, "the build goes on"
    # The context and the site's secret, and whatever the engine keeps while it works.
    left = [file.name for file in staging.iterdir() if file.name != "buildah-cache"]
    assert left == []


def test_a_changed_lock_is_installed_although_all_else_is_the_same(
    project: Path, imgbuild: Callable[..., Imgbuild]
) -> None:
    """Old Buildahs leave mounted files out of their cache key."""
    engine("buildah")
    run = imgbuild(project)
    run("build", "--engine", "buildah")
    file = project / "matrix.yaml"
    old, new = "typing-extensions==4.12.2", "typing-extensions==4.12.1"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    run("lock")
    run("build", "--engine", "buildah", code=0)
    reference = run("build", "--engine", "buildah", "--json").json()[0]["image"]["reference"]
    code = "import importlib.metadata as m; print(m.version('typing-extensions'))"
    told = made("buildah", project).call(reference, ("python3", "-c", code), {}, gpus=False)
    assert told.stdout.strip() == "4.12.1"


def test_a_rendered_dockerfile_builds_with_plain_docker(
    project: Path, imgbuild: Callable[..., Imgbuild], tmp_path: Path
) -> None:
    """Without imgbuild; only the base and the site's CA are given, which this host may lack."""
    engine("docker")
    run = imgbuild(project)
    run("render")
    run("build", "--engine", "docker")
    runtime = project / "builder/runtime"
    runtime.mkdir(parents=True)
    (runtime / "health.py").write_text("")
    (project / "images/wheels").mkdir(exist_ok=True)
    images = subprocess.run(
        ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "localhost/imgbuild-base"],
        capture_output=True,
        text=True,
        check=True,
    )
    script = tmp_path / "site"
    script.write_text(site_script(project))
    args = ["docker", "build", "--file", "images/cpu-files/Dockerfile", "--tag", "files:plain"]
    if base := images.stdout.split():
        args += ["--build-arg", f"BASE={base[0]}"]
    done = subprocess.run(
        [*args, "--secret", f"id=site,src={script}", "."],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def site_script(project: Path) -> str:
    """This host's own site script, for builds that imgbuild does not start."""
    loaded = matrix.load(project / "matrix.yaml")
    bench = Workbench(Project.find(project / "matrix.yaml"), loaded)
    prepared = bench.prepare(matrix.cell(loaded, "cpu-files"), BaseKind.BOOTSTRAP)
    return secret.script(site.discover(), prepared.recipe, "/run/site")

"""Pushing and pulling: what is sent, what is left alone, and that files are whole or not there."""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import cli, engines, zstd
from builder.engines.apptainer import Apptainer
from builder.engines.base import Compression, Engine, Image, OnLine, Remote
from builder.engines.oci import layout_config
from builder.errors import BuildError
from builder.facts import Matrix
from builder.matrix import cell
from builder.naming import Naming
from builder.prepare import Workbench
from builder.project import Project
from builder.render import DOCKERFILE
from tests.unit.archives import Tree, layer, layout, zstd_of
from tests.unit.fakeengine import FakeEngine
from tests.unit.fakeregistry import LAYER, FakeRegistry, digest_of, fake_registry
from tests.unit.support import ROOT

pytestmark = pytest.mark.loopback
CA_OF_DOCKER = "docker looks for its CA in /etc/docker/certs.d/{host}/ca.crt"
NO_LOGIN_OF_DOCKER = (
    "unauthorised: docker has no login for it, or one that it refuses; `docker login {host}` "
    "keeps one"
)
LAYERS = (b"the first layer", b"the second" * 1000, b"the first layer")


class Pushing(FakeEngine):
    """An engine whose pushes arrive at a fake registry."""

    name = "docker"

    def __init__(self, server: FakeRegistry) -> None:
        super().__init__()
        self._server = server
        self.layers: tuple[bytes, ...] = LAYERS
        self.pushed: list[tuple[str, Compression]] = []
        self.can: tuple[Compression, ...] = tuple(Compression)
        self.really: Compression | None = None  # how it compresses, whatever it is asked
        self.fails: BuildError | None = None
        self.lies = False

    def compressions(self) -> tuple[Compression, ...]:
        return self.can

    def identity(self, image: Image, compression: Compression) -> str:
        fresh = FakeRegistry()
        return fresh.add_image(*self.layers, media_type=f"{LAYER}+{compression}")

    def names(self, image: Image) -> tuple[str, ...]:
        return tuple(name for name, held in self.images.items() if held is image)

    def push(self, image: Image, target: str, compression: Compression, on_line: OnLine) -> str:
        self.pushed.append((target, compression))
        if self.fails:
            raise self.fails
        tag, kind = target.rpartition(":")[2], f"{LAYER}+{self.really or compression}"
        digest = self._server.add_image(*self.layers, tag=tag, media_type=kind)
        return "sha256:" + "0" * 64 if self.lies else digest


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as running:
        yield running


@pytest.fixture
def naming(project: Project, matrix: Matrix) -> Naming:
    return Workbench(project, matrix).namings(cell(matrix, "cpu-vllm"), DOCKERFILE)[0]


@pytest.fixture
def engine(
    server: FakeRegistry, naming: Naming, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Pushing:
    """The only one here; it has cpu-vllm, under names of the user's too."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))
    pushing = Pushing(server)
    image = Image(reference=naming.content_reference, size=1)
    names = (*naming.references, "vllm:mine", "elsewhere.example.org/vllm:theirs", "other:name")
    pushing.images = dict.fromkeys(names, image)

    def usable(_name: str, _sifs: Path) -> Iterator[Engine]:
        yield pushing

    monkeypatch.setattr(engines, "usable", usable)
    return pushing


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    engine: Pushing,
    server: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a verb on the fake registry; returns exit code, stdout and stderr."""

    def call(*args: str) -> tuple[int, str, str]:
        where = ("--registry", f"http://{server.host}/lab")
        monkeypatch.setattr(sys, "argv", ["imgbuild", *args, *where])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return call


PUSH = ("push", "--matrix", "cpu-vllm")


def test_one_push_and_all_names(
    run: Run, engine: Pushing, server: FakeRegistry, naming: Naming
) -> None:
    code, out, _ = run(*PUSH)
    assert code == 0
    place = f"{server.host}/lab/vllm"
    content = naming.content_reference.rpartition(":")[2]
    assert engine.pushed == [(f"{place}:{content}", "zstd")]
    digest = digest_of(server.manifests[content])
    tags = [content, naming.version_tag, "cpu-vllm", "mine"]
    assert out.splitlines() == [f"pushed    {place}:{tag}@{digest}" for tag in tags]
    assert [tag for tag, _, _ in server.puts] == tags[1:]


def test_what_is_there_is_left_alone(run: Run, engine: Pushing, server: FakeRegistry) -> None:
    run(*PUSH)
    engine.pushed.clear()
    server.puts.clear()
    del server.manifests["mine"]
    server.add_image(b"another", tag="cpu-vllm")
    code, out, err = run(*PUSH)
    assert code == 0
    states = {re.split("[:@]", line)[2]: line.split()[0] for line in out.splitlines()}
    assert list(states.values()).count("unchanged") == 2
    assert states["mine"] == states["cpu-vllm"] == "pushed"
    assert engine.pushed == []
    assert "pushing" not in err


def test_another_image_of_the_same_content_is_pushed(run: Run, engine: Pushing) -> None:
    """Engines do not make the same bytes of the same recipe."""
    run(*PUSH)
    engine.layers = (b"by another engine",)
    result = json.loads(run(*PUSH, "--json")[1])[0]
    assert all(tag["changed"] for tag in result["tags"])
    assert {tag["reference"].rpartition("@")[2] for tag in result["tags"]} == {result["digest"]}
    assert (result["cell_id"], result["engine"]) == ("cpu-vllm", "docker")


@pytest.mark.parametrize(
    ("can", "options", "sent"),
    [
        (("zstd", "gzip"), (), "zstd"),
        (("zstd", "gzip"), ("--compression", "gzip"), "gzip"),
        (("gzip",), (), "gzip"),
    ],
)
def test_layers_are_zstd_where_the_engine_can(
    can: tuple[str, ...], options: tuple[str, ...], sent: str, run: Run, engine: Pushing
) -> None:
    engine.can = tuple(map(Compression, can))
    result = json.loads(run(*PUSH, *options, "--json")[1])[0]
    assert [compression for _, compression in engine.pushed] == [sent]
    assert result["compression"] == sent
    assert result["size"] > sum(map(len, set(LAYERS)))
    assert "pushing" not in run(*PUSH, *options)[2]


def test_what_is_there_with_another_compression_is_sent_again(run: Run, engine: Pushing) -> None:
    for compression in ("gzip", "zstd", "zstd", "gzip"):
        run(*PUSH, "--compression", compression)
    assert [compression for _, compression in engine.pushed] == ["gzip", "zstd", "gzip"]


def test_a_compression_that_the_engine_cannot_is_refused_first(
    run: Run, engine: Pushing, server: FakeRegistry
) -> None:
    engine.can = (Compression.GZIP,)
    code, _, err = run(*PUSH, "--compression", "zstd")
    assert (code, server.asked) == (2, [])
    assert err == (
        "imgbuild: --compression zstd: docker's image store here sends gzip only; push with "
        "--engine buildah, or turn Docker's containerd image store on\n"
    )


def test_layers_that_came_otherwise_are_told(run: Run, engine: Pushing) -> None:
    engine.really = Compression.GZIP
    code, _, err = run(*PUSH)
    assert code == 1
    assert err.splitlines()[-1].endswith(", but its layers are not all zstd")


CONFIG = b'{"config": {"Healthcheck": {}}}'


class Writing(FakeEngine):
    """An engine that writes OCI layouts."""

    name = "buildah"

    def compressions(self) -> tuple[Compression, ...]:
        return tuple(Compression)

    def identity(self, image: Image, compression: Compression) -> str:
        return digest_of(CONFIG)

    def names(self, image: Image) -> tuple[str, ...]:
        return ()

    def layout(
        self, image: Image, folder: Path, compression: Compression, on_line: OnLine
    ) -> bytes:
        held = FakeRegistry()
        digest = held.add_image(*LAYERS, media_type=f"{LAYER}+{compression}")
        blobs = folder / "blobs/sha256"
        blobs.mkdir(parents=True)
        for name, content in (held.blobs | {digest: held.manifests[digest]}).items():
            (blobs / name.removeprefix("sha256:")).write_bytes(content)
        index = {"manifests": [{"digest": digest, "size": len(held.manifests[digest])}]}
        (folder / "index.json").write_text(json.dumps(index))
        return CONFIG


@pytest.fixture
def writer(engine: Pushing, monkeypatch: pytest.MonkeyPatch) -> Writing:
    writing = Writing()
    writing.images = engine.images

    def usable(_name: str, _sifs: Path) -> Iterator[Engine]:
        yield writing

    monkeypatch.setattr(engines, "usable", usable)
    return writing


def test_a_layout_is_sent_blob_by_blob_with_the_configuration_of_the_engine(
    run: Run, writer: Writing, server: FakeRegistry
) -> None:
    server.refusals = 2
    code, out, err = run(*PUSH)
    assert (code, len(out.splitlines())) == (0, 3), err
    distinct = [digest_of(content) for content in dict.fromkeys(LAYERS)]
    assert server.uploaded == [*distinct, digest_of(CONFIG)]
    manifest = json.loads(server.manifests["cpu-vllm"])
    assert manifest["config"]["digest"] == digest_of(CONFIG)
    assert [layer["mediaType"] for layer in manifest["layers"]] == [f"{LAYER}+zstd"] * 3
    assert "pushing" not in run(*PUSH)[2]


def test_of_an_image_only_what_is_new_is_sent(
    run: Run, writer: Writing, server: FakeRegistry
) -> None:
    server.blobs[digest_of(LAYERS[0])] = LAYERS[0]
    run(*PUSH, "--compression", "gzip")
    assert server.uploaded == [digest_of(LAYERS[1]), digest_of(CONFIG)]
    types = {layer["mediaType"] for layer in json.loads(server.manifests["cpu-vllm"])["layers"]}
    assert types == {"application/vnd.docker.image.rootfs.diff.tar.gzip"}


TREES: tuple[Tree, ...] = ({"a": b"a" * 9000}, {"b": b"b"}, {"a": b"a" * 9000})
DIFF_IDS = [digest_of(layer(tree)) for tree in TREES]


class Both(Pushing):
    """An engine that pushes itself, and hands its layers out, too, as Docker does."""

    full = False

    def layout(
        self, image: Image, folder: Path, compression: Compression, on_line: OnLine
    ) -> bytes:
        if self.full:
            raise BuildError("`docker` failed", tail=["write x: no space left on device"])
        assert compression == Compression.ZSTD
        layout(folder, TREES, zstd_of)
        return layout_config(folder)


@pytest.fixture
def both(
    engine: Pushing, server: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Both:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    it = Both(server)
    it.images = engine.images

    def usable(_name: str, _sifs: Path) -> Iterator[Engine]:
        yield it

    monkeypatch.setattr(engines, "usable", usable)
    return it


def test_at_a_level_imgbuild_compresses_and_sends_layers_itself(
    run: Run, both: Both, server: FakeRegistry, tmp_path: Path
) -> None:
    code, out, err = run(*PUSH, "--compression-level", "19", "--json")
    assert code == 0, err
    (result,) = json.loads(out)
    manifest = json.loads(server.manifests["cpu-vllm"])
    assert manifest["annotations"] == {
        "io.imgbuild.compression-level": "19",
        "io.imgbuild.identity": both.identity(Image(reference="", size=0), Compression.ZSTD),
    }
    assert (result["compression"], result["compression_level"]) == ("zstd", 19)
    contents = [server.blobs[row["digest"]] for row in manifest["layers"]]
    unpacked = [digest_of(zstd.reader(io.BytesIO(content)).read()) for content in contents]
    assert unpacked == DIFF_IDS
    assert len(server.uploaded) == 3  # the third layer is the first, and the configuration
    assert both.pushed == []
    steps = [line.rpartition(": ")[2] for line in err.splitlines()]
    assert steps[1:4] == [
        "exporting from docker ...",
        "compressing layer 1 of 3 at level 19 ...",
        "compressing layer 2 of 3 at level 19 ...",
    ]
    assert len(list((tmp_path / "cache/imgbuild/layers").iterdir())) == 2


def test_another_level_is_sent_and_without_one_any_will_do(
    run: Run, both: Both, server: FakeRegistry
) -> None:
    def sent(*options: str) -> tuple[bool, int | None]:
        (result,) = json.loads(run(*PUSH, *options, "--json")[1])
        return result["tags"][0]["changed"], result["compression_level"]

    assert sent() == (True, None)
    assert sent("--compression-level", "7") == (True, 7)  # not by the engine
    assert sent("--compression-level", "19") == (True, 19)
    assert sent("--compression-level", "19") == (False, 19)
    assert sent() == sent("--compression", "zstd") == (False, 19)
    assert sent("--compression-level", "3") == (True, 3)
    both.layers = (b"another image",)
    assert sent("--compression-level", "3") == (True, 3)
    assert sent("--compression", "gzip") == (True, None)
    assert [compression for _, compression in both.pushed] == ["zstd", "gzip"]


def test_an_image_with_the_configuration_of_its_engine_is_known_at_any_level(
    run: Run, writer: Writing, server: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def written(_self: Writing, _image: Image, folder: Path, *_: object) -> bytes:
        layout(folder, TREES, zstd_of)
        return CONFIG

    monkeypatch.setattr(Writing, "layout", written)
    assert run(*PUSH, "--compression-level", "12")[0] == 0
    for options in ((), ("--compression-level", "12")):
        assert "pushing" not in run(*PUSH, *options)[2]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("19", "--compression", "gzip"), "19: levels are zstd's, and --compression gzip was"),
        (("23",), "level: '23' is no whole number from 1 to 22; see `imgbuild push --help`"),
        (("0",), "level: '0' is no whole number from 1 to 22; see"),
        (("-1",), "level: '-1' is no whole number from 1 to 22; see"),
        (("7.5",), "level: '7.5' is no whole number from 1 to 22; see"),
        (("",), "level: '' is no whole number from 1 to 22; see"),
        (("best",), "level: 'best' is no whole number from 1 to 22; see"),
    ],
)
def test_a_level_that_cannot_be_is_refused_first(
    options: tuple[str, ...], told: str, run: Run, both: Both, server: FakeRegistry
) -> None:
    code, _, err = run(*PUSH, "--compression-level", *options)
    assert (code, server.asked, err.count("\n")) == (2, [], 1)
    assert told in err


def test_an_engine_without_zstd_or_layers_has_no_level(
    run: Run, engine: Pushing, server: FakeRegistry
) -> None:
    code, _, err = run(*PUSH, "--compression-level", "19")
    assert (code, server.asked) == (2, [])
    assert err == "imgbuild: --compression-level 19: docker hands out no layers to compress\n"


def test_a_store_without_zstd_has_no_level(run: Run, both: Both) -> None:
    both.can = (Compression.GZIP,)
    code, _, err = run(*PUSH, "--compression-level", "19")
    assert code == 2
    assert err.startswith("imgbuild: --compression-level 19: docker's image store here sends gzip")


def test_a_full_disk_is_told_in_one_line(run: Run, both: Both, server: FakeRegistry) -> None:
    both.full = True
    code, _, err = run(*PUSH, "--compression-level", "19")
    assert (code, server.puts) == (1, [])
    assert "no space left on device; layers go through " in err.splitlines()[-1]
    assert "  | " not in err


def test_a_registry_that_refuses_uploads_is_one_line(
    run: Run, writer: Writing, server: FakeRegistry
) -> None:
    server.refusals = 99
    code, _, err = run(*PUSH)
    assert code == 1
    assert err.splitlines()[-1] == (f"imgbuild: {server.host} answers 503 Service Unavailable")
    assert server.puts == []


def test_what_the_registry_has_must_be_what_was_sent(run: Run, engine: Pushing) -> None:
    engine.lies = True
    code, _, err = run(*PUSH)
    assert code == 1
    assert "but the registry has sha256:" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("tail", "told"),
    [
        (
            "tls: failed to verify: x509: certificate signed by unknown authority",
            f"its certificate is of an authority that is unknown here; {CA_OF_DOCKER}",
        ),
        ("unauthorized: authentication required", NO_LOGIN_OF_DOCKER),
    ],
)
def test_known_complaints_of_engines_are_one_line(
    tail: str, told: str, run: Run, engine: Pushing, server: FakeRegistry
) -> None:
    engine.fails = BuildError("`docker` failed with exit code 1", tail=["Preparing", tail])
    code, out, err = run(*PUSH)
    assert (code, out) == (1, "")
    last = f"imgbuild: {server.host}: " + told.format(host=server.host)
    assert err.splitlines()[2:] == [last]
    assert server.puts == []


def test_other_complaints_keep_their_log(run: Run, engine: Pushing) -> None:
    engine.fails = BuildError("`docker` failed with exit code 1", tail=["disk quota exceeded"])
    _, _, err = run(*PUSH)
    assert "  | disk quota exceeded\n" in err


def test_nothing_is_pushed_unless_all_is_built(
    run: Run, engine: Pushing, server: FakeRegistry
) -> None:
    code, _, err = run("push", "--matrix", "cpu-vllm,cuda13.0-vllm")
    assert code == 2
    assert "run `imgbuild build --matrix cuda13.0-vllm`" in err
    assert engine.pushed == []
    assert server.asked == []


def test_a_sif_is_not_pushed(run: Run) -> None:
    code, _, err = run(*PUSH, "--engine", "apptainer")
    assert code == 2
    assert "`imgbuild pull CELL --sif`" in err


# Pulling.


@pytest.fixture
def pull(run: Run, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    def call(*args: str) -> tuple[int, str, str]:
        return run("pull", "cpu-vllm", "--to", str(tmp_path / "images"), *args)

    return call


def left(tmp_path: Path) -> list[str]:
    folder = tmp_path / "images"
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def test_an_archive_holds_each_blob_once_under_its_digest(
    pull: Run, server: FakeRegistry, tmp_path: Path
) -> None:
    digest = server.add_image(*LAYERS, tag="cpu-vllm")
    code, out, _ = pull()
    assert code == 0
    assert out.startswith(f"cpu-vllm: pulled {server.host}/lab/vllm@{digest}\n")
    assert left(tmp_path) == ["cpu-vllm.oci.tar", "cpu-vllm.oci.tar.digest"]
    with tarfile.open(tmp_path / "images/cpu-vllm.oci.tar") as archive:
        names = [member.name for member in archive if member.isfile()]
        blobs = {name: archive.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    assert len(names) == len(set(names))
    held = {f"blobs/{digest_of(blob).replace(':', '/')}" for blob in server.blobs.values()}
    manifest = f"blobs/{digest.replace(':', '/')}"
    assert set(names) == {"oci-layout", "index.json", "manifest.json", manifest, *held}
    for name in (manifest, *held):
        assert name == f"blobs/{digest_of(blobs[name]).replace(':', '/')}"
    (described,) = json.loads(blobs["index.json"])["manifests"]
    assert described["digest"] == digest
    assert described["annotations"]["io.containerd.image.name"] == (
        f"{server.host}/lab/vllm:cpu-vllm"
    )


def test_what_is_there_is_not_pulled_again_and_a_moved_tag_is_told(
    pull: Run, server: FakeRegistry, tmp_path: Path
) -> None:
    old = server.add_image(b"old", tag="cpu-vllm")
    pull()
    before = len(server.asked)
    assert "unchanged" in pull()[1]
    assert [method for method, _, _ in server.asked[before:]] == ["HEAD"]
    new = server.add_image(b"new", tag="cpu-vllm")
    assert f"@{new} (was {old} before)\n" in pull()[1]
    told = json.loads(pull("--digest", old, "--json")[1])
    assert (told["digest"], told["before"], told["changed"]) == (old, new, True)
    assert (tmp_path / "images/cpu-vllm.oci.tar.digest").read_text() == f"{old}\n"


@pytest.mark.parametrize("sif", [False, True])
def test_a_chosen_releases_file_has_the_name_that_build_gives_it(
    sif: bool, run: Run, server: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Apptainer, "problem", lambda _self: None)
    monkeypatch.setattr(Apptainer, "fetch", lambda _self, _source, file, *_: file.write_text("it"))
    server.add_image(*LAYERS, tag="cuda13.0-vllm-0.19.1")
    where = ("--to", str(tmp_path / "images"), *(("--sif",) if sif else ()))
    assert run("pull", "cuda13.0-vllm@0.19.1", *where)[0] == 0
    file = f"cuda13.0-vllm-0.19.1.{'sif' if sif else 'oci.tar'}"
    assert left(tmp_path) == [file, f"{file}.digest"]


def test_a_note_without_its_file_counts_for_nothing(
    pull: Run, server: FakeRegistry, tmp_path: Path
) -> None:
    server.add_image(b"it", tag="cpu-vllm")
    pull()
    (tmp_path / "images/cpu-vllm.oci.tar").unlink()
    told = json.loads(pull("--json")[1])
    assert (told["changed"], told["before"]) == (True, None)


@pytest.mark.parametrize("sif", [False, True])
def test_what_fails_leaves_what_was_there(
    sif: bool,
    pull: Run,
    server: FakeRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ("--sif",) if sif else ()
    fetched: list[tuple[str, Remote, tuple[str, str] | None]] = []

    def fetch(
        _self: Apptainer,
        source: str,
        target: Path,
        remote: Remote,
        login: tuple[str, str] | None,
        on_line: OnLine,
    ) -> None:
        fetched.append((source, remote, login))
        target.write_text("a SIF, or a part of one")
        if len(fetched) > 1:
            raise BuildError("`apptainer` failed with exit code 255")

    monkeypatch.setattr(Apptainer, "problem", lambda _self: None)
    monkeypatch.setattr(Apptainer, "fetch", fetch)
    digest = server.add_image(*LAYERS, tag="cpu-vllm")
    assert pull(*options)[0] == 0
    kept = left(tmp_path)
    assert len(kept) == 2
    server.add_image(b"new", tag="cpu-vllm")
    server.blobs[digest_of(b"new")] = b"n3w"
    code, _, err = pull(*options)
    assert code == 1
    assert "Traceback" not in err
    assert left(tmp_path) == kept
    (note,) = (tmp_path / "images").glob("*.digest")
    assert note.read_text() == f"{digest}\n"
    if sif:
        assert fetched[0] == (f"{server.host}/lab/vllm@{digest}", fetched[0][1], None)
        assert fetched[0][1].plain


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        ((), 1, "vllm:cpu-vllm is not there; `imgbuild push`"),
        (("--tag", "0.32.0-cpu"), 1, "vllm:0.32.0-cpu is not there"),
        (("--tag", "a b"), 2, "--tag: 'a b' is no tag"),
        (("--digest", "sha256:12"), 2, "--digest: 'sha256:12' is none; give sha256: and 64 hex"),
    ],
)
def test_what_cannot_be_pulled_is_told_and_no_folder_is_made(
    args: tuple[str, ...], code: int, told: str, pull: Run, tmp_path: Path
) -> None:
    ended, _, err = pull(*args)
    assert ended == code
    assert told in err
    assert not (tmp_path / "images").exists()

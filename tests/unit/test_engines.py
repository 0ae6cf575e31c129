"""Choosing an engine, and finding what one of them built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from builder import engines, proc
from builder.engines import buildkit
from builder.engines.apptainer import Apptainer, Squashfs
from builder.engines.base import Image
from builder.engines.buildah import Buildah
from builder.engines.buildkit import BuildKit
from builder.errors import BuildError, UserError
from builder.naming import Naming
from builder.proc import Command

NAMING = Naming(repository="vllm", cell_id="cpu-vllm", version_tag="0.32.0-cpu", content="0" * 12)


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Engine -> why it cannot be used; none holds any image."""
    found: dict[str, str | None] = {"docker": None, "buildah": None, "apptainer": None}
    for engine in (BuildKit, Buildah, Apptainer):
        name = engine.name
        monkeypatch.setattr(engine, "problem", lambda _self, name=name: found[name])
        monkeypatch.setattr(engine, "find", lambda _self, _naming: None)
        monkeypatch.setattr(engine, "latest", lambda _self, _naming: None)
    return found


def test_auto_takes_the_first_that_works(problems: dict[str, str | None]) -> None:
    assert engines.choose().name == "docker"
    problems["docker"] = "no Docker daemon answers"
    assert engines.choose().name == "buildah"
    problems["buildah"] = "buildah not installed"
    with pytest.raises(UserError) as error:
        engines.choose()
    assert str(error.value) == (
        "no engine can be used (docker: no Docker daemon answers; buildah: buildah not installed); "
        "`imgbuild doctor` says what to install"
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("auto", "with any engine; run `imgbuild build --matrix cpu-vllm`"),
        ("docker", "with docker; run `imgbuild build --matrix cpu-vllm --engine docker`"),
        ("apptainer", "with apptainer; run `imgbuild build --matrix cpu-vllm --engine apptainer`"),
    ],
)
@pytest.mark.usefixtures("problems")
def test_what_is_not_built_is_told_with_how_to_build_it(name: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        engines.built(name, (NAMING,))
    assert str(error.value) == f"cpu-vllm is not built {told}"


def test_an_engine_that_cannot_be_used_holds_nothing(problems: dict[str, str | None]) -> None:
    problems["docker"] = "no Docker daemon answers"
    with pytest.raises(UserError, match=r"can be used \(docker: no Docker daemon answers\)"):
        engines.built("docker", (NAMING,))


def test_an_old_image_is_told_from_none(
    problems: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Image(reference="localhost/vllm:cpu-vllm", size=1)
    monkeypatch.setattr(Buildah, "latest", lambda _self, _naming: old)
    with pytest.raises(UserError, match="localhost/vllm:cpu-vllm was built from something else"):
        engines.built("auto", (NAMING,))
    monkeypatch.setattr(Buildah, "find", lambda _self, _naming: old)
    engine, image, naming = engines.built("auto", (NAMING,))
    assert (engine.name, image, naming) == ("buildah", old, NAMING)


@pytest.mark.usefixtures("problems")
def test_sifs_are_looked_for_where_the_user_says(tmp_path: Path) -> None:
    chosen = engines.choose("apptainer", tmp_path)
    assert isinstance(chosen, Apptainer)
    assert vars(chosen) == {"_folder": tmp_path}


class Handle:
    """The docker SDK's container, whose every method raises or answers as a test says."""

    def __init__(self, **does: Any) -> None:
        self._does = does

    def __getattr__(self, name: str) -> Any:
        def call(*_args: object, **_options: object) -> Any:
            does = self._does[name]
            if isinstance(does, Exception):
                raise does
            return does

        return call


ENDED = docker.errors.APIError("409", explanation="container x is not running")
GONE = docker.errors.NotFound("404", explanation="No such container: x")


def test_a_docker_container_that_ended_just_now_has_its_exit_code() -> None:
    handle = Handle(kill=ENDED, wait={"StatusCode": 3})
    assert buildkit._DockerContainer(handle, "").stop(1) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wait", "says"),
    [
        (requests.exceptions.ReadTimeout(), "the server ignored SIGTERM for 1 s"),
        (GONE, "docker: No such container: x"),
    ],
)
def test_what_docker_refuses_is_a_failure_and_no_defect(wait: Exception, says: str) -> None:
    container = buildkit._DockerContainer(
        Handle(kill=None, wait=wait, logs=GONE, reload=GONE),  # type: ignore[arg-type]
        "",
    )
    with pytest.raises(BuildError, match=says):
        container.stop(1)
    with pytest.raises(BuildError, match="docker: No such container"):
        container.log()
    with pytest.raises(BuildError, match="docker: No such container"):
        container.exit_code()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ((), "-comp zstd -Xcompression-level 3"),
        ((Squashfs(level=19),), "-comp zstd -Xcompression-level 19"),
        ((Squashfs(block_size="1M"),), "-comp zstd -Xcompression-level 3 -b 1M"),
    ],
)
def test_a_sif_is_packed_as_asked(
    asked: tuple[Squashfs, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def stream(command: Command, _on_line: object) -> None:
        commands.append(command.args)
        Path(command.args[-2]).write_bytes(b"a SIF")

    monkeypatch.setattr(proc, "stream", stream)
    made = Apptainer(tmp_path).convert(NAMING, f"oci-archive:{tmp_path}/x.tar", print, *asked)
    assert made.size == 5
    (args,) = commands
    assert args[args.index("--mksquashfs-args") + 1] == told

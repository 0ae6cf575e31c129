"""Building: what is there is left alone, what fails is told, and nothing stays behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder import bases, build
from builder import matrix as matrices
from builder.build import Builder, BuildResult, Options
from builder.engines.base import BuildRequest, OnLine, Progress
from builder.errors import BuildError, UserError
from builder.facts import Matrix
from builder.model import BaseKind
from builder.prepare import Workbench
from builder.project import Project
from builder.site import SiteProfile
from tests.unit.fakeengine import FakeEngine, folder_of

PASSWORD = "Tr0ub4dor-horse-staple"
SITE = SiteProfile(
    proxies={"http_proxy": f"http://me:{PASSWORD}@proxy.corp.invalid:3128"}, apt_sources={}
)
Run = Callable[..., BuildResult]


@pytest.fixture
def steps() -> list[str]:
    return []


@pytest.fixture
def run(
    project: Project,
    matrix: Matrix,
    steps: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Build cpu-vllm with a scripted engine."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(engine: FakeEngine, site: SiteProfile = SITE, **options: Any) -> BuildResult:
        builder = Builder(Workbench(project, matrix), engine, site)
        cell = matrices.cell(matrix, "cpu-vllm")
        progress = Progress(step=steps.append, line=lambda _: None)
        return builder.build(cell, Options(**options), progress)

    return call


def test_an_unchanged_cell_is_left_alone(run: Run) -> None:
    engine = FakeEngine()
    first = run(engine)
    assert first.changed
    assert first.base == "registry"
    assert not run(engine).changed
    assert engine.builds == 1
    assert run(engine, force=True).changed
    assert run(engine, refresh_base=True).changed


def test_the_context_has_what_the_recipe_needs_and_goes_away(run: Run, steps: list[str]) -> None:
    seen: dict[str, Any] = {}

    def look(request: BuildRequest, on_line: OnLine) -> None:
        seen["files"] = {str(f.relative_to(request.context)) for f in request.context.rglob("*.*")}
        seen["times"] = {f.stat().st_mtime for f in request.context.rglob("*.txt")}
        seen["secret"] = (request.secret.stat().st_mode & 0o777, request.secret.read_text())
        seen["labels"] = request.labels
        seen["folder"] = folder_of(request)
        on_line("STEP 5/9: RUN --mount=source=images/locks/vllm-0.32.0-cpu-py311-x86_64/torch.txt")

    run(FakeEngine(on_build=look))
    own = {"builder/runtime/entrypoint.py", "builder/runtime/slim/command.py"}
    assert {*own, "images/locks/tools.txt"} <= seen["files"]
    assert len(seen["times"]) == 1
    mode, secret = seen["secret"]
    assert mode == 0o600
    assert PASSWORD in secret
    assert not seen["folder"].exists()
    assert seen["labels"]["io.imgbuild.base"] == "registry"
    assert seen["labels"]["org.opencontainers.image.created"] == "2026-10-25T00:00:00Z"
    assert steps[-1] == "layer torch"


def test_a_pinned_base_is_pulled_by_its_digest_and_called_by_its_tag(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, digest = "docker.io/library/debian:12-slim", f"sha256:{'0a' * 32}"
    monkeypatch.setattr(bases, "read", lambda _: {name: digest})
    seen: list[BuildRequest] = []
    run(FakeEngine(on_build=lambda request, _: seen.append(request)))
    (request,) = seen
    assert request.base.source == f"docker.io/library/debian@{digest}"
    assert request.labels["org.opencontainers.image.base.name"] == name
    assert request.labels["org.opencontainers.image.base.digest"] == digest


def test_a_build_cache_reaches_the_engine(run: Run) -> None:
    seen: list[BuildRequest] = []
    look = FakeEngine(on_build=lambda request, _: seen.append(request))
    run(look, cache_from="type=registry,ref=x", cache_to="type=inline")
    assert (seen[0].cache_from, seen[0].cache_to) == ("type=registry,ref=x", "type=inline")


def test_a_wheel_that_is_a_link_arrives_as_a_file(
    run: Run, tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Linux a hard link to a symbolic link is one itself, and dangles inside."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "elsewhere").write_text("a wheel")
    name = "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"
    (tmp_path / "wheels" / name).symlink_to(tmp_path / "elsewhere")
    site = SiteProfile(proxies={}, apt_sources={}, wheel_dirs=(tmp_path / "wheels",))
    found: list[tuple[bool, str]] = []

    def look(request: BuildRequest, _: OnLine) -> None:
        wheel = request.context / "images/wheels" / name
        found.append((wheel.is_symlink(), wheel.read_text()))

    run(FakeEngine(on_build=look), site=site)
    assert found == [(False, "a wheel")]


def test_a_failing_engine_names_the_step_the_log_and_no_secret(run: Run, tmp_path: Path) -> None:
    def fail(_: BuildRequest, on_line: OnLine) -> None:
        on_line("RUN --mount=source=images/locks/vllm-0.32.0-cpu-py311-x86_64/framework.txt")
        words = f"cannot reach http://me:{PASSWORD}@proxy.corp.invalid:3128"
        on_line(words)
        raise BuildError("`buildah` failed with exit code 1", tail=["x" * 500, words])

    with pytest.raises(BuildError) as error:
        run(FakeEngine(on_build=fail))
    log = tmp_path / "state/imgbuild/logs/cpu-vllm-fake.log"
    assert str(error.value) == (
        "cpu-vllm: step 'framework' failed: `buildah` failed with exit code 1; "
        f"the whole log: {log}"
    )
    assert error.value.tail == ("x" * build.LINE_WIDTH, "cannot reach <site>")
    assert "corp" not in log.read_text()
    assert "staple" not in log.read_text()


def test_without_any_base_each_reason_is_told_and_no_part_of_a_secret(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cut before it is redacted keeps the half of a password."""
    long = f"dial http://me:{PASSWORD}@proxy.corp.invalid:3128: " + "y" * 170

    def bootstrap(*_args: object, **_options: object) -> None:
        raise BuildError(
            "mmdebstrap failed",
            tail=["E: could not resolve deb.debian.org", "E: mmdebstrap failed to run"],
            hint="look at the network",
        )

    monkeypatch.setattr(build, "bootstrap", bootstrap)
    with pytest.raises(BuildError) as error:
        run(FakeEngine(no_base=BuildError("`podman pull` failed", tail=[long])))
    told = str(error.value)
    assert told.startswith("cpu-vllm: step 'bootstrapping Debian 12 (bookworm)' failed: no base")
    assert "registry: " in told
    assert "bootstrap: E: mmdebstrap failed to run" in told
    assert "look at the network" in told
    assert "the whole log: " in told
    assert "E: could not resolve deb.debian.org" in error.value.tail
    shown = told + "".join(error.value.tail)
    assert not any(PASSWORD[i : i + 6] in shown for i in range(len(PASSWORD) - 5))
    assert "corp.invalid" not in shown


def test_only_the_base_that_was_asked_for_is_tried(run: Run) -> None:
    with pytest.raises(BuildError) as error:
        run(FakeEngine(no_base=BuildError("no registry")), base=BaseKind.REGISTRY)
    assert "(registry: no registry)" in str(error.value)
    assert "bootstrap" not in str(error.value)


def test_source_date_epoch_must_be_a_number(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UserError, match="'yesterday', not a number of seconds"):
        run(FakeEngine())
    for odd in ("²", "9" * 21):
        monkeypatch.setitem(os.environ, "SOURCE_DATE_EPOCH", odd)
        with pytest.raises(UserError):
            run(FakeEngine())

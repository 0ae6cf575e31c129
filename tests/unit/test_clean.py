"""`imgbuild clean`: what a later build has replaced goes, what is current stays."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import cli, engines
from builder import matrix as matrices
from builder.engines.base import Engine, Image
from builder.facts import Matrix
from builder.naming import Naming
from builder.prepare import Workbench
from builder.project import Project
from builder.render import DOCKERFILE
from tests.unit.fakeengine import FakeEngine
from tests.unit.support import ROOT

OLD = "vllm:cpu-vllm-0123456789ab"
OTHERS = ("vllm:mine", "vllm:cpu-vllm-mine", "vllm:cpu-vllm-h100-0123456789ab", "x:cpu-vllm")


@pytest.fixture
def engine(
    project: Project, matrix: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FakeEngine:
    """With today's image of cpu-vllm, an old one, and some that are nobody's business."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fake = FakeEngine()
    bench = Workbench(project, matrix)
    (naming, *_) = bench.namings(matrices.cell(matrix, "cpu-vllm"), DOCKERFILE)
    today = Image(reference=naming.content_reference, size=2)
    fake.images = dict.fromkeys((*naming.references, "vllm:mine"), today)
    fake.images |= {name: Image(reference=name, size=10**9) for name in (OLD, *OTHERS[1:])}

    def usable(_name: str, _sifs: Path) -> Iterator[Engine]:
        yield fake

    monkeypatch.setattr(engines, "usable", usable)
    return fake


@pytest.fixture
def clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    def run(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["imgbuild", "clean", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    return run


def test_what_was_replaced_goes_and_nothing_else(
    engine: FakeEngine, clean: Callable[..., str]
) -> None:
    before = set(engine.images)
    assert clean("--dry-run") == f"would remove {OLD} (fake, 1.00 GB)\n"
    assert set(engine.images) == before
    rows = json.loads(clean("--json"))
    assert rows == [{"engine": "fake", "reference": OLD, "size": 10**9}]
    assert set(engine.images) == before - {OLD}
    assert clean() == ""


def test_an_old_image_that_nothing_has_replaced_yet_goes_with_the_cells_names(
    engine: FakeEngine, clean: Callable[..., str]
) -> None:
    """Its content tag alone would leave it under the cell's."""
    engine.images = dict.fromkeys((OLD, "vllm:cpu-vllm", "vllm:0.32.0-cpu"), engine.images[OLD])
    clean()
    assert engine.images == {}


def test_all_takes_the_current_one_too_but_not_the_users_own(
    engine: FakeEngine, clean: Callable[..., str]
) -> None:
    clean("--all")
    assert set(engine.images) == set(OTHERS)


def test_layers_that_pushes_kept_go_when_they_are_of_no_use_or_all_do(
    engine: FakeEngine, clean: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "imgbuild/layers"
    folder.mkdir(parents=True)
    for name in ("new", "old"):
        (folder / name).write_bytes(b"layer")
    os.utime(folder / "old", (0, 0))
    assert "layers" not in clean("--matrix", "cpu-vllm", "--all")
    assert json.loads(clean("--json")) == [
        {"engine": None, "reference": str(folder / "old"), "size": 5}
    ]
    assert [file.name for file in folder.iterdir()] == ["new"]
    told = f"{folder / 'new'} (a layer that a push compressed, 0.00 GB)"
    assert clean("--all") == f"removed {told}\n"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("reference", "own"),
    [
        ("vllm:cpu-vllm-0123456789ab", True),
        ("vllm:cpu-vllm-0123456789AB", False),
        ("vllm:cpu-vllm-0123456789abc", False),
        ("vllm:cpu-vllm-h100-0123456789ab", False),
        ("reg/vllm:cpu-vllm-0123456789ab", False),
        ("vllm:cpu-vllm", False),
    ],
)
def test_a_content_tag_is_told_from_others(reference: str, own: bool) -> None:
    naming = Naming(repository="vllm", cell_id="cpu-vllm", version_tag="1", content="0" * 12)
    assert naming.is_content(reference) is own

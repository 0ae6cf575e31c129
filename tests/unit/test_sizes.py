"""Sizes of images: what is measured, what a budget refuses, and what is told of a change."""

from __future__ import annotations

import json
import re
import sys
import sysconfig
from pathlib import Path

import pytest

from builder import cli, engines, sizes
from builder.engines.base import Compression, Image, OnLine, Progress
from builder.errors import BuildError, UserError
from builder.facts import Matrix
from builder.matrix import cell, load
from builder.proc import Result
from builder.project import Project
from builder.sizes import Sizes, inside
from tests.unit.fakeengine import FakeEngine
from tests.unit.fakeregistry import FakeRegistry
from tests.unit.support import ROOT, edited, line_of

OLD = Sizes(compressed=800_000_000, packages={"torch": 500_000_000, "gone": 3_000_000, "same": 7})
NEW = Sizes(compressed=900_000_000, packages={"torch": 650_500_000, "new": 2_000_000, "same": 7})


class Weighing(FakeEngine):
    """An engine that writes layouts of layers of 1 MB and of 100 bytes."""

    name = "docker"

    def compressions(self) -> tuple[Compression, ...]:
        return tuple(Compression)

    def identity(self, image: Image, compression: Compression) -> str:
        raise NotImplementedError

    def names(self, image: Image) -> tuple[str, ...]:
        raise NotImplementedError

    def layout(
        self, image: Image, folder: Path, compression: Compression, on_line: OnLine
    ) -> bytes:
        assert compression == "zstd"
        held = FakeRegistry()
        digest = held.add_image(b"x" * 1_000_000, b"y" * 100)
        blobs = folder / "blobs/sha256"
        blobs.mkdir(parents=True)
        (blobs / digest.removeprefix("sha256:")).write_bytes(held.manifests[digest])
        (folder / "index.json").write_text(json.dumps({"manifests": [{"digest": digest}]}))
        return b""


def weighing(code: int = 0, stdout: str = 'noise\n{"torch": 600}\n') -> Weighing:
    result = Result(code=code, stdout=stdout, stderr="no module named x\n")
    return Weighing(calls={"python3": result})


PROGRESS = Progress(step=lambda _name: None, line=lambda _line: None)
IMAGE = Image(reference="vllm:cpu-vllm", size=1)


def test_layers_count_compressed_and_packages_as_the_image_says(matrix: Matrix) -> None:
    measured = sizes.measure(cell(matrix, "cpu-vllm"), weighing(), IMAGE, PROGRESS)
    assert measured == Sizes(compressed=1_000_100, packages={"torch": 600})


def test_an_image_that_says_nothing_is_told(matrix: Matrix) -> None:
    with pytest.raises(BuildError, match="cpu-vllm: its packages cannot be measured") as error:
        sizes.measure(cell(matrix, "cpu-vllm"), weighing(code=1), IMAGE, PROGRESS)
    assert error.value.tail == ("no module named x",)


def test_a_sif_has_no_layers_to_measure(matrix: Matrix) -> None:
    with pytest.raises(UserError, match="measure with --engine docker or buildah"):
        sizes.measure(cell(matrix, "cpu-vllm"), FakeEngine(), IMAGE, PROGRESS)


@pytest.mark.parametrize(
    ("budget", "recorded", "told"),
    [
        (900, OLD, "cpu-x: 900 MB compressed of a budget of 900 MB"),
        (883, OLD, "cpu-x: 900 MB compressed of a budget of 883 MB"),
        (None, None, "cpu-x: 900 MB compressed, no budget"),
    ],
)
def test_two_per_cent_over_are_allowed(
    budget: int | None, recorded: Sizes | None, told: str
) -> None:
    assert sizes.check("cpu-x", NEW, budget, recorded) == told


@pytest.mark.parametrize(
    ("recorded", "hint"),
    [
        (OLD, "grew since it was recorded: torch +150.5 MB, new +2.0 MB"),
        (NEW, "nothing that is recorded grew"),
        (None, "no sizes are recorded to compare with"),
    ],
)
def test_more_is_refused_in_one_line_with_what_grew(recorded: Sizes | None, hint: str) -> None:
    with pytest.raises(BuildError) as error:
        sizes.check("cpu-x", NEW, 880, recorded)
    assert str(error.value) == (
        f"cpu-x: 900 MB compressed, 2.3 % over its budget of 880 MB; {hint}"
    )
    assert error.value.exit_code == 1


def test_a_change_is_told_package_by_package() -> None:
    assert sizes.table(NEW, OLD) == [
        "  (image, compressed)                 800.0 ->     900.0 MB     +100.0",
        "  torch                               500.0 ->     650.5 MB     +150.5",
        "  gone                                  3.0 ->       0.0 MB       -3.0",
        "  new                                   0.0 ->       2.0 MB       +2.0",
    ]
    assert sizes.table(NEW, NEW) == []


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "sizes/cpu-x.json"
    assert Sizes.read(file) is None
    NEW.write(file)
    assert Sizes.read(file) == NEW
    file.write_text('{"compressed": "much"}')
    with pytest.raises(UserError, match="is no record of sizes"):
        Sizes.read(file)


def test_the_committed_records_are_of_published_cells(matrix: Matrix) -> None:
    for file in (ROOT / "images/sizes").glob("*.json"):
        assert file.stem in matrix.cells
        assert Sizes.read(file)


def test_a_package_weighs_what_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RECORD says 9999 bytes of a file that has been thinned, and names one that has gone."""
    info = tmp_path / "Some_Thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Some.Thing\nVersion: 1.0\n")
    (info / "RECORD").write_text("thin.so,sha256=x,9999\ngone.py,,\nthin.pyc,,\n")
    (tmp_path / "thin.so").write_bytes(b"x" * 11)
    (tmp_path / "thin.pyc").write_bytes(b"x" * 500)
    monkeypatch.setattr(sys, "path", [str(tmp_path), sysconfig.get_path("stdlib")])
    assert inside.packages(set()) == {"some-thing": 11}


def test_a_file_with_several_names_weighs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyNvVideoCodec names FFmpeg's libraries four times; packages may share a file, too."""
    (tmp_path / "one.so").write_bytes(b"x" * 7)
    for name in ("two.so", "other.so"):
        (tmp_path / name).hardlink_to(tmp_path / "one.so")
    for name, files in (("b", "other.so,,\n"), ("a", "one.so,,\ntwo.so,,\n")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text(files)
    monkeypatch.setattr(sys, "path", [str(tmp_path), sysconfig.get_path("stdlib")])
    assert inside.packages(set()) == {"a": 7, "b": 0}


def test_what_is_no_packages_weighs_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """51 MB of a thin image's layers are bytecode, and the compilers are the system's."""
    site = tmp_path / "opt/venv/site-packages"
    (site / "a-1.0.dist-info").mkdir(parents=True)
    (site / "a-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: a\n")
    (site / "a-1.0.dist-info/RECORD").write_text("a.py,,\na.pyc,,\n")
    for name, size in (
        ("opt/venv/site-packages/a.py", 1),
        ("opt/venv/site-packages/a.pyc", 20),
        ("opt/imgbuild/seeds/model.json", 300),
        ("usr/bin/gcc", 4000),
        ("tmp/scratch", 50000),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    monkeypatch.setattr(sys, "path", [str(site), sysconfig.get_path("stdlib")])
    found = inside.sizes(str(tmp_path))
    records = sum(file.stat().st_size for file in (site / "a-1.0.dist-info").iterdir())
    assert found == {"a": 1, "(bytecode)": 20, "(other)": 300 + records, "(system)": 4000}


HOW = "write megabytes of 10^6 bytes, without a unit, as 1660"
ROW = next(
    line.strip()
    for line in (ROOT / "matrix.yaml").read_text().splitlines()
    if re.fullmatch(r"  cuda13\.0-vllm-h100: \d+", line)
)


def test_the_first_budget_that_matches_counts(tmp_path: Path) -> None:
    budgets = "\nbudgets:\n  cuda13.0-vllm: 5\n  cuda13.0-*: 7\n"
    matrix = load(edited(tmp_path, (f"\nbudgets:\n  {ROW}\n", budgets)))
    assert matrix.budget("cuda13.0-vllm") == 5
    assert matrix.budget("cuda13.0-sglang") == 7
    assert matrix.budget("cpu-ray") is None


NO_CELL = " names no published cell; "
NO_NUMBER = " is no whole number above 0; "


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("cpu-vlm: 880", f"{NO_CELL}did you mean 'cpu-vllm'?"),
        ("cpu-vllm@0.32.0: 880", f"{NO_CELL}did you mean 'cpu-vllm'?"),
        ("cuda13.0-vllm-debian12: 5", f"{NO_CELL}did you mean 'cuda13.0-vllm'?"),
        ("cuda13-*: 880", f"{NO_CELL}did you mean 'cuda13.0-*'?"),
        ("cuda13.0-vlm-[hb]*: 880", f"{NO_CELL}did you mean 'cuda13.0-vllm-*'?"),
        ("cpu-*,tpu-*: 880", f"{NO_CELL}give each id or glob a row"),
        ("cpu-vllm: 0", f": 0{NO_NUMBER}{HOW}"),
        ("cpu-vllm: -5", f": -5{NO_NUMBER}write 5"),
        ("cpu-vllm: 880.5", f": 880.5{NO_NUMBER}write 881"),
        ("cpu-vllm: 1.6 GB", f": 1.6 GB{NO_NUMBER}write 1600"),
        ("cpu-vllm: 1MiB", f": 1MiB{NO_NUMBER}write 2"),
        ("cpu-vllm: 880 MO", f": 880 MO{NO_NUMBER}{HOW}"),
        ("cpu-vllm: .inf", f": .inf{NO_NUMBER}{HOW}"),
        ("cpu-vllm: true", f": true{NO_NUMBER}{HOW}"),
        ("cpu-vllm:", f": nothing{NO_NUMBER}{HOW}"),
        ("cpu-vllm: [1]", f": a list or a mapping{NO_NUMBER}{HOW}"),
        ('cpu-vllm: "880"', ": '880' in quotes is text; take the quotes away"),
    ],
)
def test_a_bad_budget_is_told_with_its_line(row: str, told: str, tmp_path: Path) -> None:
    file = edited(tmp_path, (f"\n  {ROW}\n", f"\n  {row}\n"))
    with pytest.raises(UserError) as error:
        load(file)
    place = f"{file}:{line_of(file, f'  {row}')}: budgets.{row.partition(':')[0]}"
    assert str(error.value) == f"{place}{told}"


def test_a_budget_that_is_like_no_cell_is_told_where_cells_are_listed(tmp_path: Path) -> None:
    file = edited(tmp_path, (f"\n  {ROW}\n", "\n  rocm*: 880\n"))
    with pytest.raises(UserError, match=r"cells are published; `imgbuild matrix` lists them$"):
        load(file)


def built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path, *args: str
) -> tuple[int, str]:
    """`imgbuild build` of cpu-vllm with an engine that has it; returns exit code and stderr."""
    engine = weighing()
    everything = dict.fromkeys(["docker"], engine)
    monkeypatch.setattr(engines, "choose", lambda name, _folder: everything.get(name, engine))
    monkeypatch.setattr(engine, "find", lambda _naming: IMAGE)
    verb = ["imgbuild", "build", "--matrix", "cpu-vllm", "--file", str(file), *args]
    monkeypatch.setattr(sys, "argv", verb)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0), capsys.readouterr().err


def test_a_build_says_its_size_and_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = edited(tmp_path, (ROW, "cpu-vllm: 1"))
    code, err = built(monkeypatch, capsys, file, "--record-sizes")
    assert (code, err.splitlines()[-1]) == (0, "cpu-vllm: 1 MB compressed of a budget of 1 MB")
    record = Project.find(file).sizes("cpu-vllm")
    assert Sizes.read(record) == Sizes(compressed=1_000_100, packages={"torch": 600})
    Sizes(compressed=10, packages={}).write(record)
    _, err = built(monkeypatch, capsys, file)
    assert "  (image, compressed)                   0.0 ->       1.0 MB       +1.0" in err


def test_a_build_that_cannot_be_weighed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Docker's old store keeps gzip; a user's build does not fail for it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Weighing, "compressions", lambda _self: (Compression.GZIP,))
    file = edited(tmp_path, (ROW, "cpu-vllm: 1"))
    code, err = built(monkeypatch, capsys, file)
    assert code == 0
    assert "cpu-vllm: budget not checked: docker makes no zstd layers here" in err

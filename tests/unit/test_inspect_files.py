"""Files: kinds of their bytes, GPU code by SM, packages, and the gate."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from builder import inspect
from builder.cli.inspect import command
from builder.errors import ImgbuildError, UserError
from builder.facts import GpuCodeException, Matrix
from builder.inspect import Report, examine, frames, kinds
from builder.inspect.squeeze import BLOCK, EACH, Squeeze
from builder.runtime.slim import elf, fatbin
from builder.runtime.slim import frames as slimmer
from tests.unit.archives import zstd_of
from tests.unit.elves import CUBIN, LTO, PTX, Library, container, entry

KB = 1 << 10
HOPPER = container(entry(CUBIN, 90, 6 * KB, "a"), entry(PTX, 80, 3 * KB))
BLACKWELL = container(entry(CUBIN, 100, 5 * KB, "f"))
LINKED = container(entry(LTO, 75, 2 * KB))
RULE = GpuCodeException(library="pkg/new*.so", below="10.0", why="newer GPUs only", source="a test")


def quiet(_files: int, _size: int) -> None:
    pass


def look(path: Path, sms: tuple[int, ...] = (), rules: tuple[GpuCodeException, ...] = ()) -> Report:
    return inspect.report(inspect.read_path(path, quiet), sms, rules)


def by(rows: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in rows}


def counts(library: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """SM -> containers and frames that have nothing for it."""
    return {sm: (gap["containers"], gap["frames"]) for sm, gap in library["uncovered"].items()}


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A venv with one distribution, which owns all but one file."""
    site = tmp_path / "venv/lib/python3.11/site-packages"
    made: dict[str, bytes] = {
        "pkg/old.so": Library([HOPPER], debug=500).made(),
        "pkg/new.so": Library([BLACKWELL, BLACKWELL]).made(),
        "pkg/mixed.so": Library([HOPPER, BLACKWELL, LINKED]).made(),
        "pkg/plain.so": Library().made(),
        "pkg/broken.so": Library().made()[:70],
        "pkg/a.py": b"pass\n",
        "pkg/__pycache__/a.cpython-311.pyc": b"compiled",
        "../../../bin/pkg": b"#!",
        "stray.txt": b"nobody's",
    }
    listed = [name for name in made if "__pycache__" not in name and name != "stray.txt"]
    rows = [*(f"{name},," for name in listed), '"pkg-1.0.dist-info/RECORD",,']
    made["pkg-1.0.dist-info/RECORD"] = "\n".join(rows).encode()
    for name, content in made.items():
        file = site / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    os.link(site / "pkg/a.py", site / "pkg/b.py")
    (site / "pkg/l.py").symlink_to("a.py")
    return tmp_path / "venv"


def test_every_byte_is_of_one_kind_and_of_one_package(venv: Path) -> None:
    found = look(venv)
    size = sum(
        file.stat().st_size
        for file in venv.rglob("*")
        if file.is_file() and not file.is_symlink() and file.name != "b.py"
    )
    assert found["size"] == size
    assert sum(row["size"] for row in found["kinds"]) == size
    assert sum(row["size"] for row in found["packages"]) == size
    sorts = by(found["kinds"], "kind")
    assert sorts["sm_90a cubin"]["size"] == 2 * (6 * KB + 64)
    assert sorts["sm_100f cubin"]["size"] == 3 * (5 * KB + 64)
    assert sorts["sm_75 lto"]["size"] == 2 * KB + 64
    assert sorts["machine code"]["size"] >= 4 * 250
    assert sorts["debug"]["size"] > 500
    assert sorts["bytecode"]["size"] == 8
    assert sorts["Python source"]["size"] == 5
    packages = by(found["packages"], "name")
    assert (packages["pkg"]["version"], packages["pkg"]["source"]) == ("1.0", "python")
    assert packages["other"]["size"] == len("nobody's")
    assert found["refused"] == [
        {"path": "lib/python3.11/site-packages/pkg/broken.so",
         "why": "program headers lie outside the file"},
    ]  # fmt: skip


def test_coverage_is_told_by_library(venv: Path) -> None:
    found = look(venv, (90, 100))
    rows = {Path(row["path"]).name: row for row in found["gpu"]["libraries"]}
    assert rows.keys() == {"old.so", "new.so", "mixed.so"}
    old, new, mixed = rows["old.so"], rows["new.so"], rows["mixed.so"]
    assert (old["cubins"], old["ptx"], old["lto"]) == (("sm_90a",), ("sm_80",), ())
    assert counts(old) == {"90": (0, 0), "100": (0, 0)}  # PTX of sm_80
    assert (new["containers"], counts(new)) == (2, {"90": (2, 0), "100": (0, 0)})
    assert (counts(mixed), mixed["lto"]) == ({"90": (1, 0), "100": (0, 0)}, ("sm_75",))
    path = "lib/python3.11/site-packages/pkg/new.so"
    assert inspect.failing(found) == {90: [path]}
    text = "\n".join(inspect.lines(found, 5))
    assert "sm_90: 2 of 3 libraries with GPU code have some that runs there\n" in text
    assert f"\n  none in {path}\n\nsm_100" in text
    assert "sm_100: 3 of 3" in text


def test_parts_for_other_gpus_alone_are_told_and_fail_only_who_asks(venv: Path) -> None:
    """A library with kernels of one generation each is sound, and looks as one that lacks some."""
    found = look(venv, (90, 100), (RULE,))
    path = "lib/python3.11/site-packages/pkg/mixed.so"
    assert (inspect.failing(found), inspect.lacking(found)) == ({}, {90: [path]})
    gap = by(found["gpu"]["libraries"], "path")[path]["uncovered"]["90"]
    assert gap == {
        "containers": 1, "frames": 0, "size": 5 * KB + 64, "holding": {"sm_100f cubin": 1},
    }  # fmt: skip
    text = "\n".join(inspect.lines(found, 5))
    assert "; 1 container (0.0 MB) without sm_90: 1 sm_100f cubin\n" in text
    assert "  parts of 1 of them are for other GPUs alone, 0.0 MB together: as a rule" in text
    excused = GpuCodeException(library="pkg/mixed.so", why="x", source="a test")
    assert inspect.lacking(look(venv, (90,), (RULE, excused))) == {}

    def run(*args: str) -> int:
        return CliRunner().invoke(command, [str(venv), *args], catch_exceptions=False).exit_code

    assert run("--sm", "100", "--strict") == 0
    with pytest.raises(
        ImgbuildError, match=r"new.so; not all code of lib\S+/mixed.so is for sm_90; a row"
    ) as raised:
        run("--sm", "90", "--strict")
    assert raised.value.exit_code == 1
    with pytest.raises(UserError, match=r"^--strict says how --sm fails; give the GPU, as --sm 90"):
        run("--strict")


def test_a_rule_with_a_reason_excuses_a_library(venv: Path) -> None:
    found = look(venv, (90,), (RULE,))
    assert inspect.failing(found) == {}
    assert found["gpu"]["excused"][0]["why"] == "newer GPUs only"
    assert "and it needs none: newer GPUs only" in "\n".join(inspect.lines(found, 5))
    above = GpuCodeException(library="pkg/new*.so", below="9.0", why="x", source="a test")
    assert inspect.failing(look(venv, (90,), (above,)))


def test_what_was_emptied_is_no_coverage(tmp_path: Path) -> None:
    """A thinned library keeps the headers of what it had."""
    blank = container(bytes(entry(CUBIN, 90, 0)), bytes(entry(PTX, 75, 0)))
    (tmp_path / "thin.so").write_bytes(Library([blank]).made())
    found = look(tmp_path, (90,))
    assert inspect.failing(found) == {90: ["thin.so"]}
    assert found["gpu"]["libraries"][0]["cubins"] == ()
    assert "without sm_90: 1 emptied" in "\n".join(inspect.lines(found, 5))


def test_names_that_are_no_text_are_shown_escaped(tmp_path: Path) -> None:
    """As UTF-8 they could not be printed, and a terminal would do as they say."""
    for name in (b"a\xff.so", b"b\n\x1b[2J.so"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(Library([HOPPER]).made())
    text = list(inspect.lines(look(tmp_path, (70,)), 5))
    assert "  none in a\\udcff.so" in text
    assert r"  none in b\n\x1b[2J.so" in text
    with pytest.raises(ImgbuildError) as raised:
        CliRunner().invoke(command, [str(tmp_path), "--sm", "70"], catch_exceptions=False)
    assert str(raised.value).startswith(r"no code for sm_70 in a\udcff.so, b\n\x1b[2J.so; ")


def test_a_fatbin_of_its_own_is_a_library(tmp_path: Path) -> None:
    (tmp_path / "kernels.fatbin").write_bytes(HOPPER)
    found = look(tmp_path, (120, 70))
    assert inspect.failing(found) == {70: ["kernels.fatbin"]}


def frame(sm: int, *, new: bool = False) -> bytes:
    """Machine code as cublasLt has it in no container; `new`: as CUDA 13 writes its header."""
    head = bytearray(b"\x7fELF\x02\x01\x01" + (b"\x41" if new else b"\x33") + bytes(56))
    head[18:20] = (190).to_bytes(2, "little")
    head[48:52] = (sm << 8 if new else sm).to_bytes(4, "little")
    return zstd_of(bytes(head) + random.Random(sm).randbytes(9 * KB))


def test_code_in_no_container_is_told_by_its_gpu_and_gated(tmp_path: Path) -> None:
    ampere, hopper, blackwell = frame(80), frame(90), frame(100, new=True)
    (tmp_path / "frames.so").write_bytes(Library([ampere, blackwell, blackwell]).made())
    (tmp_path / "mixed.so").write_bytes(Library([BLACKWELL, hopper]).made())
    (tmp_path / "neither.so").write_bytes(Library([BLACKWELL, ampere]).made())
    found = look(tmp_path, (90, 89))
    assert inspect.failing(found) == {
        90: ["frames.so", "neither.so"],
        89: ["mixed.so"],  # 8.0's runs on 8.9
    }
    sorts = by(found["kinds"], "kind")
    assert sorts["sm_100 zstd"]["size"] == 2 * len(blackwell)
    assert sorts["sm_80 zstd"]["size"] == 2 * len(ampere)
    row = by(found["gpu"]["libraries"], "path")["frames.so"]
    assert (row["containers"], row["frames"], row["packed"]) == (0, 3, ("sm_80", "sm_100"))
    assert counts(row) == {"90": (0, 3), "89": (0, 2)}
    text = "\n".join(inspect.lines(found, 5))
    assert "frames.so: 0.0 MB in 3 zstd frames\n      frames sm_80, sm_100; 3 zstd frames" in text


def test_frames_are_those_that_the_slimmer_finds() -> None:
    held = frame(80)
    parts = [
        frame(75), frame(103, new=True), zstd_of(b"no GPU's" * 99), b"\x28\xb5\x2f\xfd",
        container(entry(CUBIN, 80, len(held))[:64] + held), frame(90)[:-1],
    ]  # fmt: skip
    data = b"--".join(parts)
    own = frames.found(data, fatbin.containers(data, len(data)), len(data))
    assert [one.sm for one in own] == [75, 103]
    data = b"--".join(parts[:-1])  # one that has no end it refuses
    theirs = slimmer.found(data, fatbin.containers(data, len(data)), len(data))
    assert theirs in (None, own)  # None: no libzstd.so.1 is on this host


def test_a_file_made_to_look_like_frames_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_MOST_ASTRAY", 10)
    with pytest.raises(elf.Refused, match="looks like zstd frames"):
        frames.found(b"\x28\xb5\x2f\xfd" * 11, [], 44)


def test_the_command_fails_by_name_and_only_where_it_was_asked(venv: Path) -> None:
    def run(*args: str) -> str:
        return CliRunner().invoke(command, [str(venv), *args], catch_exceptions=False).output

    assert "packages" in run()
    assert json.loads(run("--sm", "100", "--json"))["gpu"]["failing"] == {"100": []}
    with pytest.raises(
        ImgbuildError, match=r"^no code for sm_90 in lib/\S+/pkg/new.so; a row below"
    ) as raised:
        run("--sm", "9.0")
    assert raised.value.exit_code == 1
    with pytest.raises(UserError, match=r"^--sm: 'h100' is no SM; write 90 or 9"):
        run("--sm", "h100")
    with pytest.raises(UserError, match=r"^--sm: '' is no SM; write 90 or 9") as raised:
        run("--sm", "")  # a variable that is not set is no wish for no check
    assert raised.value.exit_code == 2


def test_a_wheel_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its large libraries become temporary files; its last is gone with it."""
    monkeypatch.setattr(examine, "_IN_MEMORY", 100)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    wheel = tmp_path / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pkg/new.so", Library([BLACKWELL]).made())
        archive.writestr("pkg-1.0.dist-info/RECORD", "pkg/new.so,,\npkg-1.0.dist-info/RECORD,,\n")
    found = look(wheel, (90,))
    assert found["packages"][0]["name"] == "pkg"
    assert found["layers"][0]["stored"] == wheel.stat().st_size
    assert inspect.failing(found) == {90: ["pkg/new.so"]}
    assert not list((tmp_path / "scratch").iterdir())
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ImgbuildError, match=r"0 MB free, and to look into pkg/new.so") as raised:
        look(wheel)
    assert raised.value.hint == "set TMPDIR to a larger folder"


def test_distributions_packages_are_those_of_dpkg(tmp_path: Path) -> None:
    made = {
        "etc/os-release": b"ID=debian\n",
        "var/lib/dpkg/status": b"Package: libc6\nStatus: x\nVersion: 2.36-9\n\nPackage: y\n",
        "var/lib/dpkg/info/libc6:amd64.list": b"/.\n/lib\n/lib/libc.so.6\n/usr/bin/ldd\n",
        "usr/lib/libc.so.6": b"c" * 30,  # /lib is a link to usr/lib
        "usr/bin/ldd": b"l" * 12,
        "usr/bin/own": b"o" * 7,
        "usr/local/bin/x": b"x" * 3,
        "models/weights": b"w" * 5,
    }
    for name, content in made.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    packages = by(look(tmp_path)["packages"], "name")
    assert packages["libc6"] | {"compressed": 0} == {
        "name": "libc6", "version": "2.36-9", "source": "deb", "size": 42, "files": 2, "gpu": 0,
        "compressed": 0, "kinds": {"data": 42},
    }  # fmt: skip
    assert packages["other"]["size"] == 8
    assert packages["os"]["size"] == sum(map(len, made.values())) - 42 - 8


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("./nothing.sif", "./nothing.sif: no such file; give a file"),
        ("README.txt", "README.txt: nothing that is known; a folder"),
        ("./READNE.txt", "./READNE.txt: no such file; did you mean 'README.txt'"),
    ],
)
def test_what_cannot_be_read_is_told_with_what_can(
    target: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.txt").write_text("words")
    with pytest.raises(UserError) as raised:
        CliRunner().invoke(command, [target], catch_exceptions=False)
    assert str(raised.value).startswith(why)


@pytest.mark.parametrize(
    ("target", "why"), [("", "nothing is named; "), ("pipe", "pipe: neither a file nor a folder; ")]
)
def test_what_names_no_file_is_not_read(
    target: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(UserError) as raised:
        CliRunner().invoke(command, [target], catch_exceptions=False)
    assert str(raised.value).startswith(why)


def test_estimates_are_of_a_part_and_keep_kinds_apart() -> None:
    squeeze = Squeeze()
    noise = random.Random(2).randbytes(BLOCK * EACH * 2)
    squeeze.offer("noise", noise)
    squeeze.offer("zeros", bytes(len(noise)))
    assert squeeze.ratio("noise") > 0.99
    assert squeeze.ratio("zeros") < 0.01
    assert squeeze.ratio("never seen") == 1
    assert squeeze.estimate({"noise": 100, "zeros": 1_000_000}) < 10_000


def chunks() -> Iterator[bytes]:
    yield from (Library([HOPPER, LINKED], debug=300, between=200).made(), HOPPER, b"\x7fELF")


@given(st.sampled_from(list(chunks())), st.data())
def test_regions_cover_any_file_exactly_once(content: bytes, data: st.DataObject) -> None:
    broken = bytearray(content)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at] = data.draw(st.integers(0, 255))
    try:
        spans = kinds.look(bytes(broken)).regions
    except elf.Refused:
        return
    assert [begin for _, begin, _ in spans] == [0, *(end for _, _, end in spans[:-1])]
    assert spans[-1][2] == len(broken)


def test_exceptions_of_the_matrix_name_libraries_below_packages(matrix: Matrix) -> None:
    ends = (".so", ".so*", ".cubin")
    assert all(row.library.endswith(ends) for row in matrix.gpu_code_exceptions)

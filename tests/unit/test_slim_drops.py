"""Files that leave by a rule, copies that become one, and RECORDs that stay true."""

from __future__ import annotations

import base64
import csv
import ctypes.util
import hashlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from builder.runtime.slim import command, copies, drops, elf, frames, one, records, tree
from tests.unit.elves import CUBIN, LTO, Library, container, entry
from tests.unit.support import ROOT
from tests.unit.test_slim_tree import NEW, OLD

FOR_90 = one.Options((90,))
TWIN = "nvidia_cutlass_dsl/dsl_packages/cutlass/_mlir/_mlir_libs/_cutlass_ir.cu12.cpython-311.so"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An environment's site-packages with a twin of each kind."""
    place = tmp_path / "venv/lib/python3.11/site-packages"
    for name in (
        "nvidia/cu13/lib/libcudart.so.13",
        "nvidia_cutlass_dsl/cu12/lib/libcute_dsl_runtime.so",
        "nvidia_cutlass_dsl/cu13/lib/libcute_dsl_runtime.so",
        TWIN,
        "tokenspeed_mla/__init__.py",
        "tokenspeed_triton/__init__.py",
        "tokenspeed_triton/backends/compiler.py",
        "numpy/__init__.py",
        "numpy/tests/test_all.py",
        "numpy/testing/__init__.py",
        "torch/testing/tests/own.py",
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)
    recorded(place)
    return place


def recorded(place: Path) -> None:
    """Have a package bring all that is there."""
    record = place / "all-1.dist-info/RECORD"
    record.parent.mkdir(exist_ok=True)
    record.unlink(missing_ok=True)
    rows = [f"{name},,\n" for name in sorted(left(place)) if ".dist-info/" not in name]
    record.write_text("".join(rows))


def left(site: Path) -> set[str]:
    return {file.relative_to(site).as_posix() for file in site.rglob("*") if file.is_file()}


def test_each_rule_says_why_where_from_and_how_to_check() -> None:
    rules = drops.rules()
    assert len({rule.name for rule in rules}) == len(rules)
    for rule in rules:
        assert all((rule.paths, rule.why, rule.source)), rule
        assert rule.check.startswith("import "), rule
        assert rule.code in {"", "lto"}, rule
        assert all(re.match(r"(\.\./\.\./\.\./)?[A-Za-z_]+/", path) for path in rule.paths), rule


def test_twins_leave_and_neighbours_stay(site: Path) -> None:
    before = left(site)
    report = tree.slim(str(site.parents[2]), FOR_90)
    assert before - left(site) == {
        "nvidia_cutlass_dsl/cu12/lib/libcute_dsl_runtime.so",
        TWIN,
        "tokenspeed_triton/__init__.py",
        "tokenspeed_triton/backends/compiler.py",
        "numpy/tests/test_all.py",
    }
    # A folder that stays would be imported as a package without modules.
    assert not (site / "tokenspeed_triton").exists()
    assert set(report["dropped"]) == {"cutlass-for-cuda-12", "tokenspeed-triton", "tests-of-numpy"}
    assert report["total"]["dropped"]["tests-of-numpy"] == len("numpy/tests/test_all.py")


def test_of_a_file_with_several_names_those_leave_that_a_rule_names(site: Path) -> None:
    tools = site / "torch/bin"
    tools.mkdir()
    (site / "torch/__init__.py").touch()
    (tools / "protoc-3.13.0.0").write_bytes(b"#!")
    (tools / "protoc").hardlink_to(tools / "protoc-3.13.0.0")
    (site / "kept.py").hardlink_to(site / "numpy/tests/test_all.py")
    recorded(site)
    report = tree.slim(str(site.parents[2]), FOR_90)
    assert not tools.exists()
    assert report["total"]["dropped"]["protobuf-compiler"] == len(b"#!")
    assert (site / "kept.py").is_file()
    assert not (site / "numpy/tests").exists()
    assert report["total"]["dropped"]["tests-of-numpy"] == 0


def test_a_rule_holds_for_its_gpus_only(site: Path) -> None:
    tree.slim(str(site), one.Options((90, 100)))
    assert (site / "tokenspeed_triton/__init__.py").exists()
    assert not (site / TWIN).exists()


def test_a_rule_holds_only_where_the_other_twin_is(site: Path) -> None:
    (site / "nvidia/cu13/lib/libcudart.so.13").unlink()
    tree.slim(str(site), FOR_90)
    assert (site / TWIN).exists()


def test_all_files_can_be_kept_and_a_dry_run_keeps_them(site: Path) -> None:
    before = left(site)
    assert tree.slim(str(site), FOR_90, files=False)["dropped"] == {}
    assert tree.slim(str(site), FOR_90, dry=True)["total"]["dropped"]["tests-of-numpy"]
    assert left(site) == before


def test_a_file_that_is_named_itself_stays(site: Path) -> None:
    tree.slim(str(site / TWIN), FOR_90)
    assert (site / TWIN).exists()


def test_the_folder_that_is_slimmed_stays_however_it_is_spelled(site: Path) -> None:
    (site / "tokenspeed_triton/__init__.py").unlink()
    tests = site.parent / "own/site-packages"
    (tests / "nvidia/cu13/lib").mkdir(parents=True)
    (tests / "nvidia/cu13/lib/libnvrtc.alt.so.13").touch()
    recorded(tests)
    tree.slim(f"{tests}/", FOR_90)
    assert [entry.name for entry in tests.iterdir()] == ["all-1.dist-info"]


def test_what_was_there_before_the_step_stays(site: Path) -> None:
    later = int((site / TWIN).stat().st_ctime) + 60
    before = left(site)
    tree.slim(str(site), FOR_90, since=later)
    assert left(site) == before


def test_rules_are_asked_for_their_checks(site: Path) -> None:
    names = {rule.name for rule in drops.Places(str(site.parents[2]), (90,)).installed()}
    assert {"cutlass-for-cuda-12", "tokenspeed-triton", "tests-of-numpy"} <= names
    assert "video-sources" not in names


def test_cufft_has_no_lto_ir_left_and_others_keep_theirs(tmp_path: Path) -> None:
    data = Library(containers=[container(entry(LTO, 75, 300_000))]).made()
    for name in ("libcufft.so.12", "libcusparse.so.12"):
        file = tmp_path / "site-packages/nvidia/cu13/lib" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    tree.slim(str(tmp_path / "site-packages"), FOR_90)
    folder = tmp_path / "site-packages/nvidia/cu13/lib"
    assert (folder / "libcufft.so.12").stat().st_size < len(data)
    assert (folder / "libcusparse.so.12").read_bytes() == data


def test_copies_become_links(tmp_path: Path) -> None:
    content = os.urandom(copies.LEAST)
    names = [tmp_path / name for name in ("liba.so", "liba.so.1", "other", "private", "small")]
    for name in names[:2]:
        name.write_bytes(content)
    names[2].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    names[3].write_bytes(content)
    names[3].chmod(0o600)
    names[4].write_bytes(b"x")
    files = [copies.File([str(name)], name.stat().st_size, 0) for name in names]
    assert copies.link(files, dry=True) == copies.LEAST
    assert names[1].stat().st_nlink == 1
    assert copies.link(files) == copies.LEAST
    assert [name.stat().st_nlink for name in names] == [2, 2, 1, 1, 1]
    assert names[1].read_bytes() == content
    assert sorted(tmp_path.iterdir()) == sorted(names)


def test_all_names_of_a_copy_become_links_or_none_and_what_is_saved_is_true(site: Path) -> None:
    work = site / "torch/lib"
    work.mkdir()
    library = Library([container(entry(CUBIN, 80, 300_000), entry(CUBIN, 90, 400_000))]).made()
    for name in ("a.so", "b.so", "c.so"):
        (work / name).write_bytes(library)
    data = os.urandom(copies.LEAST)
    for name in ("a.bin", "b.bin", "c.bin"):
        (work / name).write_bytes(data)
    for name in ("b.so", "b.bin"):
        (work / f"{name}.1").hardlink_to(work / name)
        (work / f"{name}.2").hardlink_to(work / name)
    recorded(site)
    cache = site.parents[3] / "cache"
    cache.mkdir()
    for name in ("c.so", "c.bin"):
        (cache / name).hardlink_to(work / name)
    would = tree.slim(str(site), FOR_90, dry=True)["total"]["linked"]
    report = tree.slim(str(site), FOR_90)["total"]
    thin = (work / "a.so").stat().st_size
    assert thin < len(library)
    # c.so is a file of its own after it was slimmed; c.bin's bytes would stay in the cache.
    assert would == report["linked"] == 2 * thin + len(data)
    assert {file.stat().st_nlink for file in work.glob("*.so*")} == {5}
    assert {file.name for file in work.glob("*.bin*") if file.stat().st_nlink == 4} == {
        *("a.bin", "b.bin", "b.bin.1", "b.bin.2")
    }
    assert (work / "c.bin").samefile(cache / "c.bin")


def test_records_say_what_is_there(site: Path) -> None:
    info = site / "numpy-2.0.dist-info"
    info.mkdir()
    (info / "RECORD").write_text(
        'numpy/__init__.py,sha256=old,1\nnumpy/tests/test_all.py,sha256=x,2\n"a,b",,\n'
    )
    untouched = site / "torch-2.dist-info"
    untouched.mkdir()
    (untouched / "RECORD").write_text("torch/testing/tests/own.py,sha256=y,3\r\n")
    changed = str(site / "numpy/__init__.py")
    left = site / "numpy/tests/test_all.py"
    left.unlink()
    records.rewrite([str(site)], {changed: None}, gone=lambda name: name == str(left))
    digest = hashlib.sha256(b"numpy/__init__.py").digest()
    spelled = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert (info / "RECORD").read_text() == f'numpy/__init__.py,sha256={spelled},17\n"a,b",,\n'
    assert (untouched / "RECORD").read_bytes().endswith(b"\r\n")


def cubin(sm: int, *, new: bool = False) -> bytes:
    """An ELF file for a GPU, as far as its header."""
    head = bytearray(b"\x7fELF\x02\x01\x01" + (b"\x41" if new else b"\x33") + bytes(56))
    head[18:20] = (190).to_bytes(2, "little")
    head[48:52] = (0x6000002 | sm << 8 if new else sm << 16 | 0x500 | sm).to_bytes(4, "little")
    return bytes(head) + os.urandom(100_000)


def packed(data: bytes) -> bytes:
    """A zstd frame of raw blocks (RFC 8878, 3.1.1.2.2)."""
    out = b"\x28\xb5\x2f\xfd\x00\x58"  # no size, a window of 2 MiB
    parts = [data[at : at + 65536] for at in range(0, len(data), 65536)]
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        out += (len(part) << 3 | int(last)).to_bytes(3, "little") + part
    return out


needs_zstd = pytest.mark.skipif(
    ctypes.util.find_library("zstd") is None, reason="no libzstd.so.1 on this host"
)


@needs_zstd
def test_what_only_begins_as_frames_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_MOST_ASTRAY", 10)
    data = b"\x28\xb5\x2f\xfd" * 11
    with pytest.raises(elf.Refused, match="looks like zstd frames"):
        frames.found(data, [], len(data))


@needs_zstd
def test_frames_are_known_by_what_they_hold() -> None:
    parts = [cubin(80), cubin(90), cubin(100, new=True), b"\x7fELF no GPU's" + bytes(200)]
    data = b"??" + b"--".join(map(packed, parts)) + b"\x28\xb5\x2f\xfd"
    found = frames.found(data, [], len(data))
    assert found is not None
    assert [one.sm for one in found] == [80, 90, 100]
    assert [data[one.at : one.end] for one in found] == [packed(part) for part in parts[:3]]


@needs_zstd
def test_frames_within_containers_are_theirs() -> None:
    frame = packed(cubin(80))
    held = container(entry(CUBIN, 80, len(frame))[:64] + frame)
    data = Library(containers=[held]).made()
    report, _ = one.examine(data, FOR_90)
    assert not [name for name in report["removed"] if "zstd" in name]


@needs_zstd
@pytest.mark.parametrize("inner", [container(entry(CUBIN, 90)), packed(b"\x7fELF"), b"\xff" * 8])
def test_a_frame_without_an_end_is_refused(inner: bytes) -> None:
    """What stands in it may be its own, or not: it spans a container, or its blocks are broken."""
    spanning = bytearray(packed(cubin(80)))
    spanning[65536 + 9 : 65536 + 9 + len(inner)] = inner  # from its second block's head on
    with pytest.raises(elf.Refused, match="has no end"):
        one.examine(Library(containers=[bytes(spanning)]).made(), FOR_90)


def test_without_libzstd_a_library_with_frames_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_library", lambda: None)
    data = b"\x28\xb5\x2f\xfd" + bytes(100)
    assert frames.found(data, [], len(data)) is None
    assert frames.found(bytes(100), [], 100) == []


@pytest.mark.parametrize(("works", "code"), [(True, 0), (False, 1)])
def test_checks_run_in_one_process_and_name_the_rule(
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    works: bool,
    code: int,
) -> None:
    programs = []

    def run(args: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        programs.append(args[-1])
        assert args[0] == str(site.parents[2] / "bin/python3")
        return subprocess.CompletedProcess(args, 0 if works else 1)

    monkeypatch.setattr(subprocess, "run", run)
    assert command.main([str(site.parents[2]), "--sm", "90", "--check"]) == code
    (program,) = programs
    assert ("rules hold: cutlass-for-cuda-12" in capfd.readouterr().out) is works
    compile(program, "checks", "exec")
    assert "import cutlass" in program


def rows(record: Path) -> dict[str, tuple[str, str]]:
    with record.open(newline="") as file:
        return {name: (told, size) for name, told, size in csv.reader(file)}


def told(data: bytes) -> tuple[str, str]:
    spelled = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"sha256={spelled}", str(len(data))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """What pip --target fills, with two libraries."""
    place = tmp_path / "target"
    (place / "made-1.dist-info").mkdir(parents=True)
    (place / "made").mkdir()
    text = ""
    for name in ("a.so", "b.so"):
        (place / "made" / name).write_bytes(OLD)
        text += f"made/{name},{','.join(told(OLD))}\n"
    (place / "made-1.dist-info/RECORD").write_text(text)
    return place


def test_a_run_that_fails_leaves_records_true(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = one.slim

    def failing(path: str, *args: Any, **kwargs: Any) -> Any:
        if path.endswith("b.so"):
            raise OSError(28, "No space left on device", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(one, "slim", failing)
    with pytest.raises(OSError, match="No space"):
        tree.slim(str(target), FOR_90)
    found = rows(target / "made-1.dist-info/RECORD")
    assert found == {"made/a.so": told(NEW), "made/b.so": told(OLD)}


@pytest.mark.parametrize("named", ["venv", "venv/lib/python3.11/site-packages/made", "venv/lib64"])
def test_a_link_into_an_environment_is_the_environment(tmp_path: Path, named: str) -> None:
    place = tmp_path / "venv/lib/python3.11/site-packages"
    (place / "made-1.dist-info").mkdir(parents=True)
    (place / "made").mkdir()
    (place / "made/a.so").write_bytes(OLD)
    (place / "sympy/core/tests").mkdir(parents=True)
    (place / "sympy/core/tests/test_all.py").touch()
    (place / "sympy/__init__.py").touch()
    record = place / "made-1.dist-info/RECORD"
    record.write_text(f"made/a.so,{','.join(told(OLD))}\nsympy/core/tests/test_all.py,,\n")
    (tmp_path / "venv/lib64").symlink_to("lib")
    link = tmp_path / "elsewhere"
    link.symlink_to(named)
    report = tree.slim(str(link), FOR_90)
    assert report["path"] == str(link)
    assert rows(record)["made/a.so"] == told(NEW)
    assert (place / "sympy/core").exists() is named.endswith("made")


def test_the_next_run_mends_what_a_killed_one_left(site: Path) -> None:
    library = site / "torch/lib.so"
    library.write_bytes(NEW)
    (site / "numpy/tests/test_all.py").unlink()
    record = site / "made-1.dist-info/RECORD"
    record.parent.mkdir()
    text = ",".join(told(OLD))
    record.write_text(
        f"torch/lib.so,{text}\nnumpy/tests/test_all.py,{text}\nnumpy/__init__.py,{text}\nno.py,,\n"
    )
    assert tree.slim(str(site), FOR_90)["total"]["changed"] == 0
    expected = {"torch/lib.so": told(NEW), "numpy/__init__.py": told(OLD), "no.py": ("", "")}
    assert rows(record) == expected


@pytest.mark.parametrize("mode", [one.ZERO, one.COMPACT])
def test_the_next_run_mends_also_a_record_of_files_that_kept_their_size(
    target: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = target / "made-1.dist-info/RECORD"
    old = Library([container(entry(CUBIN, 80, 300_000), entry(CUBIN, 90, 900))], program=True)
    made = target / "made/a.so"
    made.write_bytes(old.made())
    record.write_text(f"made/a.so,{','.join(told(old.made()))}\n")
    options = one.Options((90,), mode)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(records, "rewrite", killed)
        with pytest.raises(KeyboardInterrupt):
            tree.slim(str(target), options)
    assert len(made.read_bytes()) == len(old.made())
    assert rows(record) == {"made/a.so": told(old.made())}
    assert made.read_bytes() != old.made()
    assert tree.slim(str(target), options)["total"]["changed"] == 0
    assert rows(record) == {"made/a.so": told(made.read_bytes())}


def test_files_that_were_there_before_their_record_are_not_read_for_it(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.slim(str(target), FOR_90)
    monkeypatch.setattr(records, "hashed", lambda name: pytest.fail(f"{name} is read"))
    later = max(file.stat().st_ctime_ns for file in (target / "made").iterdir())
    record = target / "made-1.dist-info/RECORD"
    while record.stat().st_ctime_ns <= later:
        record.touch()
    assert tree.slim(str(target), FOR_90)["total"]["changed"] == 0


@pytest.mark.parametrize("text", [b"a\xff,,\n", b'"' + b"x" * 200_000 + b'",,\n'])
def test_a_record_that_is_none_is_told(
    target: Path, text: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (target / "bad-1.dist-info").mkdir()
    (target / "bad-1.dist-info/RECORD").write_bytes(text)
    report = tree.slim(str(target), FOR_90)
    lines = [line for line in command.lines(report) if "no RECORD" in line]
    assert len(lines) == 1
    assert f"{target}/bad-1.dist-info/RECORD: " in lines[0]
    assert rows(target / "made-1.dist-info/RECORD")["made/a.so"] == told(NEW)


def test_a_script_that_leaves_leaves_its_record(site: Path) -> None:
    (site / "z3/lib").mkdir(parents=True)
    (site / "z3/lib/libz3.so").touch()
    script = site.parents[2] / "bin/z3"
    script.parent.mkdir()
    script.write_text("#!")
    record = site / "z3_solver-1.dist-info/RECORD"
    record.parent.mkdir()
    record.write_text("../../../bin/z3,sha256=x,2\nz3/lib/libz3.so,,\n")
    tree.slim(str(site.parents[2]), FOR_90)
    assert not script.exists()
    assert rows(record) == {"z3/lib/libz3.so": ("", "")}


def test_data_that_a_package_brings_to_its_environment_leaves(site: Path) -> None:
    root = site.parents[2]
    archive = root / "external/ffmpeg/src/ffmpeg-8.1.1.tar.xz"
    others = [root / name for name in ("external/own.xz", "x/external/ffmpeg/src/ffmpeg.tar.xz")]
    for name in (archive, *others, site / "PyNvVideoCodec/__init__.py"):
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(b"xz")
    record = site / "pynvvideocodec-2.0.4.dist-info/RECORD"
    record.parent.mkdir()
    record.write_text(f"../../../{archive.relative_to(root)},,\nPyNvVideoCodec/__init__.py,,\n")
    tree.slim(str(root), FOR_90)
    assert not archive.parent.parent.exists()
    assert all(name.exists() for name in others)
    assert rows(record) == {"PyNvVideoCodec/__init__.py": ("", "")}


def test_files_that_no_package_brought_stay_and_stay_apart(site: Path) -> None:
    work = site.parents[3]
    data = os.urandom(copies.LEAST)
    for name in ("numpy/tests/own.py", "bin/z3", "venv/numpy/tests/own.py", "venv/data/b.bin"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(data)
    (work / "z3/lib").mkdir(parents=True)
    (work / "z3/lib/libz3.so").touch()
    report = tree.slim(str(work), FOR_90)
    assert report["total"]["dropped"]["tests-of-numpy"] == len("numpy/tests/test_all.py")
    for name in ("numpy/tests/own.py", "bin/z3", "venv/numpy/tests/own.py", "venv/data/b.bin"):
        assert (work / name).stat().st_nlink == 1
    assert report["total"]["linked"] == 0


def test_what_no_record_names_stays_where_rules_name_it(site: Path, target: Path) -> None:
    """Somebody's own files, beside those of the package that the rule is about."""
    root = site.parents[2]
    own = [root / "external/ffmpeg/src/own.c", target / "bin/z3", site / "numpy/tests/own.py"]
    brought = root / "external/ffmpeg/src/ffmpeg.tar.xz"
    bytecode = site / "numpy/tests/__pycache__/test_all.cpython-311.pyc"
    data = os.urandom(copies.LEAST)
    twins = [site / "a.bin", site / "b.bin"]
    packages = [target / "z3/lib/libz3.so", site / "PyNvVideoCodec/__init__.py"]
    for name in (brought, *own, *twins, bytecode, *packages):
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(b"" if name in packages else data)
    with (site / "all-1.dist-info/RECORD").open("a") as record:
        record.write("../../../external/ffmpeg/src/ffmpeg.tar.xz,,\na.bin,,\n")
    for folder in (root, target):
        tree.slim(str(folder), FOR_90)
    assert not brought.exists()
    assert not bytecode.exists()
    assert all(name.exists() for name in own)
    assert {name.stat().st_nlink for name in twins} == {1}


def test_rules_hold_below_a_target_and_within_a_package(site: Path, target: Path) -> None:
    for place in (target, site):
        (place / "sympy/core/tests").mkdir(parents=True)
        (place / "sympy/core/tests/test_all.py").touch()
        (place / "sympy/__init__.py").touch()
        recorded(place)
    tree.slim(str(target), FOR_90)
    assert not (target / "sympy/core").exists()
    tree.slim(str(site / "sympy"), FOR_90)
    assert not (site / "sympy/core").exists()


@pytest.mark.parametrize("written", ["a", "b", "b2"])
def test_copies_of_which_one_changes_meanwhile_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(copies.LEAST))
    (tmp_path / "b2").hardlink_to(tmp_path / "b")
    names = {name: str(tmp_path / name) for name in ("a", "b", "b2")}
    real = copies._attributes

    def meanwhile(name: str) -> Any:  # once its content is known
        if name == names["b"]:
            Path(names[written]).unlink()
            Path(names[written]).write_bytes(b"mine".ljust(copies.LEAST))
        return real(name)

    monkeypatch.setattr(copies, "_attributes", meanwhile)
    files = [copies.File([names["a"]], copies.LEAST, 0)]
    files += [copies.File([names["b"], names["b2"]], copies.LEAST, 0)]
    assert copies.link(files) == 0
    assert Path(names[written]).read_bytes().startswith(b"mine")
    others = {name for name in names if name != written}
    assert {Path(names[name]).read_bytes() for name in others} == {bytes(copies.LEAST)}


def test_copies_with_other_attributes_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [tmp_path / "a", tmp_path / "b"]
    for name in names:
        name.write_bytes(bytes(copies.LEAST))
    monkeypatch.setattr(os, "listxattr", lambda name, **_: ["user.x"] * name.endswith("b"))
    monkeypatch.setattr(os, "getxattr", lambda *_, **__: b"1")
    assert copies.link(copies.File([str(name)], copies.LEAST, 0) for name in names) == 0
    assert names[0].stat().st_nlink == 1


# A module, or a folder of `where`, and the distribution that brings it where it is not its name.
BROUGHT_BY = {
    "cuda": "cuda-core",
    "cutlass": "nvidia-cutlass-dsl",
    "flashinfer": "flashinfer-python",
    "mistral_common": "mistral-common",
    "nccl": "nccl4py",
    "nvidia_cutlass_dsl": "nvidia-cutlass-dsl",
    "pydantic_extra_types": "pydantic-extra-types",
    "PyNvVideoCodec": "pynvvideocodec",
    "tokenspeed_mla": "tokenspeed-mla",
    "z3": "z3-solver",
}
CLOSURES = sorted(folder for folder in (ROOT / "images/locks").glob("*-cu1*") if folder.is_dir())


def _brings(closure: Path) -> set[str]:
    text = "".join(file.read_text() for file in closure.glob("*.txt"))
    return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))


@pytest.mark.parametrize("closure", CLOSURES, ids=lambda folder: str(folder.name))
def test_what_a_rule_imports_is_there_wherever_it_holds(closure: Path) -> None:
    """Else smoke fails for a module that the image never had."""
    there = _brings(closure)
    assert "torch" in there
    for rule in drops.rules():
        needs = {place.partition("/")[0] for place in rule.where} - {"nvidia"}
        if all(BROUGHT_BY.get(name, name) in there for name in needs):
            modules = {name.partition(".")[0] for name in rule.check[len("import ") :].split(", ")}
            assert {BROUGHT_BY.get(name, name) for name in modules} <= there, rule.name

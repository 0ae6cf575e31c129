"""A library with GPU code and none for the GPU fails a build, unless a row excuses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import inspect
from builder.facts import GpuCodeException, Matrix
from builder.runtime.slim import command
from tests.unit.elves import CUBIN, PTX, Library, container, entry

pytestmark = pytest.mark.python

OTHER = Library([container(entry(CUBIN, 80, 3000), entry(CUBIN, 100, 900))]).made()
OWN = Library([container(entry(CUBIN, 80, 3000), entry(PTX, 80, 900))]).made()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "lib/python3.11/site-packages"
    (folder / "few").mkdir(parents=True)
    (folder / "few/_C.so").write_bytes(OTHER)
    (folder / "few/_D.so").write_bytes(OWN)
    info = folder / "few-1.2.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("few/_C.so,,\nfew/_D.so,,\n")
    return folder


def gate(path: Path, excused: str, *more: str) -> int:
    asked = ["--sm", "90", "--uncovered", "empty", "--excuse", excused]
    return command.main([str(path), *asked, *more])


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--json",)])
def test_library_package_and_way_out_are_named(
    site: Path, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(site, "", *more) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told == (
        f"slim: {site}/few/_C.so of few 1.2: no code for sm_90, only sm_100 cubin, sm_80 cubin; a "
        "row below gpu_code_exceptions: in matrix.yaml excuses it, with its reason"
    )


def test_it_fails_again_when_it_is_emptied(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(site, "") == 1
    assert gate(site, "") == 1
    assert "/_C.so of few 1.2: no code for sm_90, only nothing;" in capsys.readouterr().err


@pytest.mark.parametrize("excused", ["few/_C*.so", "x.so,_C.so", "*/few/_C.so"])
def test_a_row_excuses(site: Path, excused: str) -> None:
    assert gate(site, excused) == 0


def test_a_row_of_another_does_not(site: Path) -> None:
    assert gate(site, "few/_D.so,w/_C.so") == 1


def test_without_the_option_it_is_told_only(site: Path) -> None:
    assert command.main([str(site), "--sm", "90"]) == 0


@pytest.mark.parametrize(("content", "fails"), [(OTHER[:-64], 1), (b"\x7fELF" + OTHER[4:60], 0)])
def test_what_cannot_be_read_and_has_gpu_code_fails(
    site: Path, content: bytes, fails: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "few/_C.so").write_bytes(content)
    assert gate(site, "") == fails
    told = capsys.readouterr().err
    assert (
        "/few/_C.so of few 1.2: GPU code stands in it, and it cannot be read: " in told
    ) == fails
    assert gate(site, "few/_C.so") == 0


ROW = {"library": "few/_C*.so", "why": "a reason", "source": "a source"}


@pytest.mark.parametrize(
    ("bounds", "sms"),
    [
        ({}, {"7.5", "9.0", "10.3", "12.0"}),
        ({"below": "9.0"}, {"7.5"}),
        ({"above": "9.0"}, {"10.3", "12.0"}),
        ({"below": "9.0", "above": "10.3"}, {"7.5", "12.0"}),
    ],
)
def test_rows_hold_below_and_above(bounds: dict[str, str], sms: set[str]) -> None:
    row = GpuCodeException.model_validate({**ROW, **bounds})
    assert {sm for sm in ("7.5", "9.0", "10.3", "12.0") if row.holds(sm)} == sms
    assert bool(inspect.coverage.excuse("a/few/_C.so", 90, [row])) == ("9.0" in sms)


def test_a_matrix_tells_what_it_excuses(matrix: Matrix) -> None:
    assert "vllm/_qutlass_C*.so" in matrix.excused("9.0")
    assert "vllm/_qutlass_C*.so" not in matrix.excused("10.0")
    assert "vllm/vllm_flash_attn/_vllm_fa3_C*.so" in matrix.excused("10.0")
    assert "vllm/vllm_flash_attn/_vllm_fa3_C*.so" not in matrix.excused("9.0")


@pytest.mark.parametrize("library", ["a b.so", "a,b.so", "a'.so", "$(x).so"])
def test_globs_that_a_shell_would_read_are_refused(library: str) -> None:
    with pytest.raises(ValueError, match="library"):
        GpuCodeException.model_validate({**ROW, "library": library})

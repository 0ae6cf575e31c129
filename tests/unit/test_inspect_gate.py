"""`inspect --sm` passes nothing that it could not read, and says where nothing is to pass."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.cli.inspect import command
from builder.errors import ImgbuildError
from tests.unit.elves import CUBIN, Library, container, entry
from tests.unit.test_inspect_files import BLACKWELL, HOPPER, by, frame, look

GATED = Library([HOPPER, frame(90)]).made()
HEADERS = GATED[: GATED.index(HOPPER)]


def run(*args: str) -> str:
    return CliRunner().invoke(command, list(args), catch_exceptions=False).output


def cubin(sm: int, *, new: bool = False) -> bytes:
    head = bytearray(b"\x7fELF\x02\x01\x01" + (b"\x41" if new else b"\x33") + bytes(56))
    struct.pack_into("<HH", head, 16, 2, 190)
    struct.pack_into("<I", head, 48, sm << 8 if new else sm)
    return bytes(head) + b"x" * 1000


@pytest.mark.parametrize(
    ("content", "fails"),
    [
        (GATED[:-64], True),
        (Library([frame(80)]).made()[:-64], True),
        (GATED[: len(HEADERS)], False),
        (Library().made()[:-64], False),
    ],
    ids=["container", "frame", "cut before it", "no GPU code"],
)
def test_a_library_that_is_cut_short_fails_where_gpu_code_stands_in_it(
    content: bytes, fails: bool, tmp_path: Path
) -> None:
    (tmp_path / "cut.so").write_bytes(content)
    assert bool(look(tmp_path)["refused"])
    assert "not understood: cut.so: " in run(str(tmp_path))
    if not fails:
        assert "sm_90: no library with GPU code is there" in run(str(tmp_path), "--sm", "90")
        return
    with pytest.raises(
        ImgbuildError, match=r"^GPU code stands in cut.so, which cannot be read; a row below"
    ) as raised:
        run(str(tmp_path), "--sm", "90")
    assert raised.value.exit_code == 1
    found = look(tmp_path, (90, 80))
    assert found["gpu"]["unread"] == {"90": ["cut.so"], "80": ["cut.so"]}


def test_a_row_excuses_what_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "vllm"
    folder.mkdir()
    (folder / "_deepselect_C.abi3.so").write_bytes(GATED[:-64])
    run(str(tmp_path), "--sm", "90")
    with pytest.raises(ImgbuildError, match="which cannot be read"):
        run(str(tmp_path), "--sm", "90,100")


@pytest.mark.parametrize("new", [False, True])
def test_a_bare_cubin_counts_by_what_its_header_says(tmp_path: Path, new: bool) -> None:
    (tmp_path / "k.cubin").write_bytes(cubin(80, new=new))
    found = look(tmp_path, (89, 90))
    assert found["gpu"]["failing"] == {"89": [], "90": ["k.cubin"]}
    row = by(found["gpu"]["libraries"], "path")["k.cubin"]
    assert (row["cubins"], row["code"]) == (("sm_80",), {"sm_80 cubin": 1064})
    with pytest.raises(ImgbuildError, match=r"^no code for sm_90 in k.cubin; "):
        run(str(tmp_path / "k.cubin"), "--sm", "90")


def test_a_cubin_for_no_gpu_that_is_known_fails(tmp_path: Path) -> None:
    (tmp_path / "k.cubin").write_bytes(cubin(3))
    with pytest.raises(ImgbuildError, match=r"^GPU code stands in k.cubin, which cannot be read"):
        run(str(tmp_path), "--sm", "90")


def test_nothing_to_pass_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.so").write_bytes(Library().made())
    assert "\nsm_90: no library with GPU code is there\n" in run(str(tmp_path), "--sm", "90")
    assert json.loads(run(str(tmp_path), "--sm", "90", "--json"))["gpu"]["libraries"] == []


def test_both_reasons_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.so").write_bytes(GATED[:-64])
    (tmp_path / "new.so").write_bytes(Library([BLACKWELL, container(entry(CUBIN, 80, 9))]).made())
    with pytest.raises(ImgbuildError) as raised:
        run(str(tmp_path), "--sm", "90")
    assert str(raised.value).startswith(
        "no code for sm_90 in new.so; GPU code stands in cut.so, which cannot be read; a row"
    )

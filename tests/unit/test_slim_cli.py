"""`imgbuild slim`: a thin verb over the runtime's."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from builder.cli.slim import command
from builder.errors import ImgbuildError, UserError
from tests.unit.test_slim_tree import NEW, OLD

pytestmark = pytest.mark.python


def run(*args: str) -> Result:
    return CliRunner().invoke(command, list(args), catch_exceptions=False)


def test_a_library_is_slimmed_and_counted(tmp_path: Path) -> None:
    library = tmp_path / "libtorch.so"
    library.write_bytes(OLD)
    done = run(str(tmp_path), "--sm", "9.0", "--json")
    assert json.loads(done.stdout)["total"]["after"] == len(NEW)
    assert library.read_bytes() == NEW


def test_an_sm_that_is_none_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--sm: 'h100' is no SM; write 90 or 9"):
        run(str(tmp_path), "--sm", "h100")


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    library = tmp_path / "libtorch.so"
    library.write_bytes(OLD)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(ImgbuildError, match=r": another slim works on it$") as raised:
            run(str(tmp_path), "--sm", "90")
    finally:
        os.close(handle)
    assert raised.value.exit_code == 1
    assert library.read_bytes() == OLD


def test_a_named_file_that_stays_is_a_failure_with_the_reason(tmp_path: Path) -> None:
    library = tmp_path / "libtorch.so"
    library.write_bytes(OLD + b"an archive")
    with pytest.raises(ImgbuildError, match=rf"^{library}: data behind") as raised:
        run(str(library), "--sm", "90")
    assert raised.value.exit_code == 1


@pytest.mark.parametrize(
    ("output", "why"),
    [("not/there/o.whl", r"not/there: no such folder$"), ("a.whl", r"a\.whl: is there already; ")],
)
def test_an_output_that_cannot_be_is_the_users_mistake(
    tmp_path: Path, output: str, why: str
) -> None:
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"")
    with pytest.raises(UserError, match=rf"^--output: .*{why}"):
        run(str(wheel), "--sm", "90", "--output", str(tmp_path / output))
    assert wheel.read_bytes() == b""

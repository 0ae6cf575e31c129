"""Where caches go: every place is tried, and what the user set stays."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.facts import Matrix
from builder.project import Project
from builder.runtime import caches
from tests.unit.support import ROOT, recipe_of, recipes_of

OWN = f"imgbuild-{os.getuid()}"
ROWS = [{"variable": "HF_HOME", "folder": "huggingface"}, {"variable": "T", "folder": "triton"}]
REFUSED = (
    f"cannot be written by uid {os.getuid()} (chown it to that, or start as its owner with --user)"
)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The shared folders that are tried, here below tmp_path."""
    found = [tmp_path / name for name in ("tmp", "var-tmp", "shm")]
    for place in found:
        place.mkdir()
    monkeypatch.setattr(caches, "SHARED", tuple(map(str, found)))
    # The folder of a test has a long name itself.
    monkeypatch.setattr(caches, "LONGEST_TMPDIR", len(str(tmp_path)) + 60)
    return found


def read_only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Make folders refuse files, as a mount does: mode bits do not bind root."""
    original = os.open

    def refusing(path: Any, *args: Any, **options: Any) -> int:
        if any(Path(path).is_relative_to(folder) for folder in folders):
            raise OSError(30, "Read-only file system")
        return original(path, *args, **options)

    monkeypatch.setattr(os, "open", refusing)


def test_a_home_that_can_be_written_stays(tmp_path: Path, places: list[Path]) -> None:
    assert caches.home({"HOME": str(tmp_path)}) == str(tmp_path)
    assert caches.home({"HOME": str(tmp_path / "new")}) == str(tmp_path / "new")
    assert [*places[0].iterdir()] == []


def test_what_is_tried_leaves_nothing(tmp_path: Path) -> None:
    assert caches.writable(str(tmp_path))
    assert [*tmp_path.iterdir()] == []


def test_a_read_only_home_is_replaced_by_a_private_folder(
    tmp_path: Path, places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "home"
    read_only(monkeypatch, own)
    found = caches.home({"HOME": str(own)})
    assert found == str(places[0] / OWN)
    assert Path(found).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": "/"}, {"HOME": "/proc/none"}])
def test_no_home_at_all(places: list[Path], home: dict[str, str]) -> None:
    """An arbitrary uid has no passwd entry, and "/" for a home."""
    assert caches.home(home) == str(places[0] / OWN)


def test_the_places_are_tried_in_order(
    tmp_path: Path, places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    assert caches.home({"TMPDIR": str(mine)}) == str(mine / OWN)
    read_only(monkeypatch, mine, places[0])
    assert caches.home({"TMPDIR": str(mine)}) == str(places[1] / OWN)
    read_only(monkeypatch, *places)
    assert caches.home({}) is None


def test_a_folder_that_somebody_else_made_is_not_trusted(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apptainer shows the host's /tmp, and what lies in HOME is run."""
    (places[0] / OWN).symlink_to(places[2])
    (places[1] / OWN).mkdir()
    original = os.lstat

    def foreign(path: Any, *args: Any, **options: Any) -> Any:
        status = original(path, *args, **options)
        if Path(path) == places[1] / OWN:
            values = list(status)
            values[4] += 1  # st_uid
            return os.stat_result(values)
        return status

    monkeypatch.setattr(os, "lstat", foreign)
    assert caches.home({}) == str(places[2] / OWN)


def test_every_cache_is_below_one_root(tmp_path: Path) -> None:
    """With the rows that images carry."""
    about = json.loads((ROOT / "images/manifests/vllm-0.32.0-cu130.json").read_text())
    chosen, wrong = caches.placed({"HOME": str(tmp_path)}, about["caches"])
    assert wrong == []
    root = tmp_path / ".cache"
    for row in about["caches"]:
        assert chosen.pop(row["variable"]) == str(root / row["folder"])
    home, user = str(tmp_path), "imgbuild"
    assert chosen == {"HOME": home, "XDG_CACHE_HOME": str(root), "USER": user}


def test_the_root_that_the_user_names(tmp_path: Path) -> None:
    mine, xdg = tmp_path / "mine", tmp_path / "xdg"
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(xdg)}
    assert caches.placed(environment, ROWS)[0]["T"] == str(xdg / "triton")
    environment["IMGBUILD_CACHE"] = str(mine)
    chosen, _ = caches.placed(environment, ROWS)
    assert chosen["T"] == str(mine / "triton")
    # The user's own, though ours go elsewhere.
    assert chosen["XDG_CACHE_HOME"] == str(xdg)
    del environment["XDG_CACHE_HOME"]
    assert caches.placed(environment, ROWS)[0]["XDG_CACHE_HOME"] == str(mine)


@pytest.mark.parametrize("name", ["IMGBUILD_CACHE", "XDG_CACHE_HOME"])
def test_a_root_that_cannot_be_written_is_told(tmp_path: Path, name: str) -> None:
    chosen, wrong = caches.placed({"HOME": str(tmp_path), name: "/proc/none"}, ROWS)
    assert wrong == [f"{name}=/proc/none {REFUSED}; caches go to {tmp_path}/.cache"]
    assert chosen["XDG_CACHE_HOME"] == str(tmp_path / ".cache")
    assert chosen["T"] == str(tmp_path / ".cache/triton")


def test_what_the_user_set_stays(tmp_path: Path) -> None:
    given_ = {
        "HOME": str(tmp_path),
        "USER": "alice",
        "HF_HOME": "/models",
        "T": "/proc/none",
        "XDG_CACHE_HOME": str(tmp_path / "xdg"),
    }
    chosen, _ = caches.placed(given_, ROWS)
    assert {name: chosen.get(name, value) for name, value in given_.items()} == given_


@pytest.mark.parametrize("name", ["IMGBUILD_CACHE", "XDG_CACHE_HOME"])
def test_a_relative_root_is_meant_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Servers change folders later."""
    monkeypatch.chdir(tmp_path)
    chosen, wrong = caches.placed({"HOME": str(tmp_path), name: "mine"}, ROWS)
    assert wrong == []
    assert chosen["T"] == str(tmp_path / "mine/triton")
    assert chosen["XDG_CACHE_HOME"] == str(tmp_path / "mine")


def test_a_home_below_a_relative_tmpdir(
    tmp_path: Path, places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert caches.placed({"TMPDIR": "mine"}, [])[0]["HOME"] == str(tmp_path / "mine" / OWN)


_PLACES = st.sampled_from(["", "/", "/proc/none", "a", "b", "a/b"])


@given(st.dictionaries(st.sampled_from(["HF_HOME", "T", "USER", "TMPDIR"]), _PLACES))
def test_no_variable_of_a_cache_is_overridden(
    tmp_path: Path, places: list[Path], environment: dict[str, str]
) -> None:
    made = {
        k: v if v.startswith("/") or not v else str(tmp_path / v) for k, v in environment.items()
    }
    made["HOME"] = str(tmp_path)
    before = dict(made)
    chosen, _ = caches.placed(made, ROWS)
    assert made == before
    for name, value in made.items():
        if value:
            assert chosen.get(name, value) == value


def test_a_uid_without_a_passwd_entry_gets_a_user_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, _ = caches.placed({"HOME": str(tmp_path)}, [])
    assert chosen["USER"] == "imgbuild"
    # getpass.getuser() asks the environment before it asks for the passwd entry.
    import getpass  # noqa: PLC0415
    import pwd  # noqa: PLC0415

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", chosen["USER"])
    assert getpass.getuser() == "imgbuild"


def test_no_place_at_all_is_told(places: list[Path]) -> None:
    for place in places:
        shutil.rmtree(place)
        place.touch()  # a file: no folder can be made in it
    chosen, wrong = caches.placed({"HOME": "/proc/none"}, ROWS)
    assert chosen == {"USER": "imgbuild"}
    told = "no writable folder for caches; mount one and set IMGBUILD_CACHE and HOME"
    assert wrong == [told]


# A socket's path has at most 107 bytes.


def test_a_long_tmpdir_gets_a_short_name(places: list[Path]) -> None:
    long = places[0].parent / ("x" * 90)
    long.mkdir()
    chosen, _ = caches.placed({"HOME": str(places[0]), "TMPDIR": str(long)}, [])
    short = Path(chosen["TMPDIR"])
    assert short.parent == places[0] / OWN
    (short / "file").touch()
    assert [file.name for file in long.iterdir() if file.name != OWN] == ["file"]
    # Once more, and a shared /tmp does not fill with links.
    assert caches.short_tmpdir({"TMPDIR": str(long)}) == str(short)
    assert len([*short.parent.iterdir()]) == 1


def test_a_short_tmpdir_stays(places: list[Path]) -> None:
    assert caches.short_tmpdir({"TMPDIR": "/tmp"}) is None
    assert caches.short_tmpdir({}) is None


def test_a_relative_tmpdir_is_linked_from_here(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(places[1])
    relative = "/".join(["y" * 50] * 4)
    Path(relative).mkdir(parents=True)
    short = caches.short_tmpdir({"TMPDIR": relative})
    assert short
    assert Path(short).resolve() == (places[1] / relative).resolve()


def test_a_name_that_is_taken_is_not_followed(places: list[Path]) -> None:
    long = str(places[0].parent / ("z" * 90))
    short = caches.short_tmpdir({"TMPDIR": long})
    assert short
    Path(short).unlink()
    Path(short).symlink_to("/etc")
    assert caches.short_tmpdir({"TMPDIR": long}) == short.replace(str(places[0]), str(places[1]))


def test_a_volume_below_a_read_only_home_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    cache = home / ".cache"
    cache.mkdir(parents=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    original = caches.writable
    monkeypatch.setattr(caches, "writable", lambda f: f != str(home) and original(f))
    monkeypatch.setattr(caches, "SHARED", (str(scratch),))
    environment = {"HOME": str(home), "TMPDIR": str(scratch)}
    chosen, wrong = caches.placed(environment, [{"variable": "HF_HOME", "folder": "huggingface"}])
    assert chosen["HF_HOME"] == f"{cache}/huggingface"
    assert chosen["HOME"].startswith(str(scratch))
    assert wrong == [f"HOME={home} cannot be written; it is {chosen['HOME']} now"]


def mounted(monkeypatch: pytest.MonkeyPatch, *folders: Path, read_only: bool = False) -> None:
    """Let volumes be mounted at `folders`."""
    original = os.statvfs

    def statvfs(path: Any) -> Any:
        values = list(original(path))
        values[8] |= os.ST_RDONLY if read_only and Path(path) in folders else 0
        return os.statvfs_result(values)

    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) in folders)
    monkeypatch.setattr(os, "statvfs", statvfs)


@pytest.fixture
def roots(tmp_path: Path, places: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of ours whose .cache is root's, as `-v hf:~/.cache/huggingface` makes it."""
    cache = tmp_path / "home/.cache"
    (cache / "huggingface").mkdir(parents=True)
    original = os.open

    def refusing(path: Any, *args: Any, **options: Any) -> int:
        if Path(path).parent == cache:
            raise PermissionError(13, "Permission denied")
        return original(path, *args, **options)

    monkeypatch.setattr(os, "open", refusing)
    return cache


def test_a_cache_folder_of_root_in_a_home_of_ours(roots: Path, places: list[Path]) -> None:
    chosen, wrong = caches.placed({"HOME": str(roots.parent)}, ROWS)
    root = f"{places[0] / OWN}/.cache"
    assert chosen["HOME"] == str(roots.parent)
    assert (chosen["XDG_CACHE_HOME"], chosen["T"]) == (root, f"{root}/triton")
    assert wrong == [f"{roots} {REFUSED}; caches go to {root}"]
    # What the user names is written, and nothing is wrong.
    mine = str(places[1])
    chosen, wrong = caches.placed({"HOME": str(roots.parent), "IMGBUILD_CACHE": mine}, ROWS)
    assert (chosen["T"], wrong) == (f"{mine}/triton", [])


def test_a_volume_below_a_cache_folder_of_root_is_used(
    roots: Path, places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(monkeypatch, roots / "huggingface")
    chosen, wrong = caches.placed({"HOME": str(roots.parent)}, ROWS)
    assert chosen["HF_HOME"] == f"{roots}/huggingface"
    assert chosen["T"] == f"{places[0] / OWN}/.cache/triton"
    assert len(wrong) == 1
    # Also where the user names a place for the others.
    environment = {"HOME": str(roots.parent), "IMGBUILD_CACHE": str(places[1])}
    assert caches.placed(environment, ROWS)[0]["HF_HOME"] == f"{roots}/huggingface"


@pytest.mark.parametrize("for_reading", [True, False])
def test_a_volume_that_cannot_be_written(
    roots: Path, places: list[Path], monkeypatch: pytest.MonkeyPatch, for_reading: bool
) -> None:
    """One that is mounted read-only has models to be read; root's own is of no use."""
    mounted(monkeypatch, roots / "huggingface", read_only=for_reading)
    read_only(monkeypatch, roots / "huggingface")
    chosen, wrong = caches.placed({"HOME": str(roots.parent)}, ROWS)
    elsewhere = f"{places[0] / OWN}/.cache/huggingface"
    assert chosen["HF_HOME"] == (f"{roots}/huggingface" if for_reading else elsewhere)
    told = f"{roots}/huggingface {REFUSED}; HF_HOME is {elsewhere}"
    assert wrong[1:] == ([] if for_reading else [told])


def test_no_place_for_caches_in_a_home_of_ours(
    roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "SHARED", ())
    chosen, wrong = caches.placed({"HOME": str(roots.parent)}, ROWS)
    assert "T" not in chosen
    assert wrong == [f"{roots} {REFUSED}; caches go nowhere: set IMGBUILD_CACHE"]


def test_a_relative_tmpdir_is_meant_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(caches, "LONGEST_TMPDIR", 1000)
    assert caches.placed({"HOME": str(tmp_path), "TMPDIR": "t"}, [])[0]["TMPDIR"] == f"{tmp_path}/t"
    absolute = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    assert "TMPDIR" not in caches.placed(absolute, [])[0]


def test_a_cache_folder_is_a_home_where_nothing_else_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a place for temporary files, which Python insists on."""
    monkeypatch.setattr(caches, "SHARED", ())
    original = caches.writable
    monkeypatch.setattr(caches, "writable", lambda f: f.startswith(str(tmp_path)) and original(f))
    chosen, _ = caches.placed({"HOME": "/root", "IMGBUILD_CACHE": str(tmp_path)}, [])
    assert chosen["HOME"] == chosen["TMPDIR"] == f"{tmp_path}/imgbuild-{os.getuid()}"


def test_no_image_places_a_cache_itself(project: Project, matrix: Matrix, tmp_path: Path) -> None:
    """What stands in an image's environment looks as if the user had set it."""
    variables = {row.variable for row in matrix.caches}
    for recipe in recipes_of(project, matrix):
        env = dict(recipe.env)
        assert not [name for name in variables if env.get(name)], recipe
    # TGI's base has HF_HOME=/data, so ours is there, and is empty.
    env = dict(recipe_of(project, matrix, "cuda12.4-tgi").env)
    chosen, _ = caches.placed({**env, "HOME": str(tmp_path)}, ROWS)
    assert chosen["HF_HOME"] == f"{tmp_path}/.cache/huggingface"

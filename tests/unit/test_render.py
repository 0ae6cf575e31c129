"""Rendering: the committed images/ are its golden files."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builder import matrix as matrices
from builder import render
from builder.errors import UserError
from builder.facts import Matrix
from builder.prepare import Workbench
from builder.project import Project
from builder.render import RenderedImage, Renderer
from builder.render.templates import _quoted, _run
from tests.unit.support import ROOT, recipe_of, recipes_of


@pytest.fixture(scope="module")
def images(project: Project, matrix: Matrix) -> list[RenderedImage]:
    """Every published cell, rendered."""
    renderer = Renderer(project.template_dirs)
    return [renderer.render(recipe) for recipe in recipes_of(project, matrix)]


@pytest.fixture(scope="module")
def texts(images: list[RenderedImage]) -> dict[str, str]:
    return {f"{i.cell_id}/{name}": text for i in images for name, text in i.files.items()}


def test_the_committed_images_are_what_is_rendered(
    project: Project, matrix: Matrix, images: list[RenderedImage]
) -> None:
    carried = Workbench(project, matrix).manifests(matrices.select(matrix, None))
    # Not `assert ... == ""`: pytest would shorten the diff.
    if drift := render.check(ROOT / "images", [*images, carried], orphans=True):
        pytest.fail(f"run `imgbuild render`:\n{drift}")


_RENDER = """
import json, sys
from pathlib import Path
from builder.project import Project
from tests.unit.support import ROOT, recipes_of
from builder.matrix import load
from builder.render import Renderer
project = Project.find(ROOT / "matrix.yaml")
recipes = recipes_of(project, load(project.matrix_file))
renderer = Renderer(project.template_dirs)
images = [renderer.render(recipe) for recipe in recipes]
sys.stdout.write(json.dumps({i.cell_id: i.files for i in images}))
"""


@pytest.mark.python
@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONHASHSEED": "1", "LANG": "C", "LC_ALL": "C", "TZ": "Pacific/Kiritimati"},
        {"PYTHONHASHSEED": "2", "LC_ALL": "tr_TR.UTF-8", "PYTHONUTF8": "0", "HOME": "/nonexistent"},
    ],
    ids=["C", "Turkish"],
)
def test_rendering_is_the_same_everywhere(
    images: list[RenderedImage], env: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RENDER],
        env={**env, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == {image.cell_id: image.files for image in images}


def test_rendering_twice_gives_the_same(
    project: Project, matrix: Matrix, images: list[RenderedImage]
) -> None:
    renderer = Renderer(project.template_dirs)
    backwards = [renderer.render(recipe) for recipe in reversed(recipes_of(project, matrix))]
    assert backwards[::-1] == images


FORBIDDEN = {
    "latest": r"latest",
    "heredoc": r"<<",
    "syntax line": r"(?i)^#\s*syntax\s*=",
    "COPY --link": r"--link",
    "ADD from a URL": r"^ADD ",
    "template's own braces": r"\{%|\{#",
    "trailing space": r"[ \t]$",
    "undefined": r"(?i)undefined|\bNone\b",
    "two blank lines": r"\n\n\n",
    "build ARG of a secret": r"(?i)^ARG .*(token|password|proxy|index)",
}


@pytest.mark.parametrize("pattern", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_no_rendered_file_has(texts: dict[str, str], pattern: str) -> None:
    for name, text in texts.items():
        assert not re.search(pattern, text, re.MULTILINE), name
        assert text.endswith("\n"), name


WRAPPED = ("cuda12.4-tgi", "cuda13.0-tensorrt-llm")


def test_every_image_is_named_with_a_tag_or_built_here(texts: dict[str, str]) -> None:
    for name, text in texts.items():
        if name.endswith("Dockerfile"):
            assert re.search(
                r"^ARG BASE=[a-z.]+/\S+:\S*\d|^# [a-z.]+/\S+:\S*\d\S*\nARG BASE=\S+@sha256:\w{64}$",
                text,
                re.MULTILINE,
            ), name
            stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
            # Upstream's image needs no uv.
            assert (
                stages == ["${BASE}", "os"] if name.startswith(WRAPPED) else ["${BASE}", "os", "os"]
            )


def test_a_dockerfile_mounts_nothing_that_stays(texts: dict[str, str]) -> None:
    """What the site gives is a secret, a tmpfs, a bind or a cache: no COPY brings it in."""
    for name, text in texts.items():
        if name.endswith("Dockerfile"):
            copies = re.findall(r"^COPY .*", text, re.MULTILINE)
            runtime = "COPY builder/runtime /opt/imgbuild/runtime"
            servers = "COPY builder/servers /opt/imgbuild/servers"
            manifest = copies.pop()
            assert re.fullmatch(
                r"COPY images/manifests/[\w.-]+\.json /opt/imgbuild/manifest\.json", manifest
            )
            assert (ROOT / manifest.split()[1]).is_file()
            assert copies in ([runtime], [servers, runtime]), name
            offline = text.count(" -m compileall ")
            runs = text.count("RUN ") - offline
            assert (runs, offline) == (text.count("--mount=type=secret,id=site "), 1), name


# Drift.

IMAGE = RenderedImage("x-y", {"Dockerfile": "FROM a\nRUN b\n", "apptainer.def": "From: a\n"})


def test_write_then_check(tmp_path: Path) -> None:
    assert render.write(tmp_path, [IMAGE]) == [
        tmp_path / "x-y/Dockerfile",
        tmp_path / "x-y/apptainer.def",
    ]
    assert render.check(tmp_path, [IMAGE], orphans=True) == ""
    assert (tmp_path / "x-y/Dockerfile").stat().st_mode & 0o777 == 0o644


def test_write_changes_only_what_differs(tmp_path: Path) -> None:
    render.write(tmp_path, [IMAGE])
    same, other = tmp_path / "x-y/Dockerfile", tmp_path / "x-y/apptainer.def"
    for file in (same, other):
        os.utime(file, (1, 1))
    other.write_text("From: b\n")
    assert render.write(tmp_path, [IMAGE]) == [other]
    assert same.stat().st_mtime == 1
    assert other.read_text() == "From: a\n"
    assert render.write(tmp_path, [IMAGE]) == []


def drift_of(tmp_path: Path) -> str:
    return render.check(tmp_path, [IMAGE], orphans=True).replace(str(tmp_path), "T")


def test_check_shows_a_changed_line(tmp_path: Path) -> None:
    render.write(tmp_path, [IMAGE])
    (tmp_path / "x-y/Dockerfile").write_text("FROM a\nRUN c\n")
    assert drift_of(tmp_path) == (
        "--- a/T/x-y/Dockerfile\n+++ b/T/x-y/Dockerfile\n@@ -1,2 +1,2 @@\n FROM a\n-RUN c\n+RUN b\n"
    )


def test_check_shows_a_missing_file(tmp_path: Path) -> None:
    render.write(tmp_path, [IMAGE])
    (tmp_path / "x-y/apptainer.def").unlink()
    assert drift_of(tmp_path) == (
        "--- /dev/null\n+++ b/T/x-y/apptainer.def\n@@ -0,0 +1 @@\n+From: a\n"
    )


def test_check_shows_a_missing_end_of_line(tmp_path: Path) -> None:
    render.write(tmp_path, [IMAGE])
    (tmp_path / "x-y/apptainer.def").write_text("From: a")
    assert drift_of(tmp_path).endswith("-From: a\n\\ No newline at end of file\n+From: a\n")


def test_check_shows_carriage_returns(tmp_path: Path) -> None:
    """Apptainer takes them for a part of the line."""
    render.write(tmp_path, [IMAGE])
    (tmp_path / "x-y/apptainer.def").write_bytes(b"From: a\r\n")
    assert drift_of(tmp_path).endswith("-From: a\r\n+From: a\n")
    assert len(render.write(tmp_path, [IMAGE])) == 1
    assert (tmp_path / "x-y/apptainer.def").read_bytes() == b"From: a\n"


@pytest.mark.parametrize(
    ("content", "body"),
    [(b"FROM z\n", "@@ -1 +0,0 @@\n-FROM z\n"), (b"", ""), (b"\xff\xfe", "")],
    ids=["text", "empty", "binary"],
)
def test_check_shows_orphans(tmp_path: Path, content: bytes, body: str) -> None:
    render.write(tmp_path, [IMAGE])
    (tmp_path / "old-cell").mkdir()
    (tmp_path / "old-cell/Dockerfile").write_bytes(content)
    for other in ("locks", "wheels"):  # these are no cell's
        (tmp_path / other).mkdir()
        (tmp_path / other / "file").write_text("x")
    assert drift_of(tmp_path) == f"--- a/T/old-cell/Dockerfile\n+++ /dev/null\n{body}"
    assert render.check(tmp_path, [IMAGE], orphans=False) == ""


@pytest.mark.parametrize("target", ["nowhere", ".", "x-y/Dockerfile"])
def test_check_shows_links_that_no_cell_owns(tmp_path: Path, target: str) -> None:
    render.write(tmp_path, [IMAGE])
    (tmp_path / "x-y/link").symlink_to(tmp_path / target)
    assert drift_of(tmp_path).startswith("--- a/T/x-y/link\n+++ /dev/null\n")
    assert render.check(tmp_path, [IMAGE], orphans=False) == ""


def test_a_link_to_nowhere_in_place_of_a_file_is_drift(tmp_path: Path) -> None:
    render.write(tmp_path, [IMAGE])
    file = tmp_path / "x-y/Dockerfile"
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    assert drift_of(tmp_path).startswith("--- /dev/null\n+++ b/T/x-y/Dockerfile\n")
    assert render.write(tmp_path, [IMAGE]) == [file]
    assert not file.is_symlink()


@pytest.mark.parametrize("failing", ["replace", "fchmod"])
def test_nothing_is_half_written_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    render.write(tmp_path, [IMAGE])
    new = RenderedImage("x-y", dict.fromkeys(IMAGE.files, "something new\n"))

    def fail(*_args: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(OSError, match="disk full"):
            render.write(tmp_path, [new])
    assert render.check(tmp_path, [IMAGE], orphans=True) == ""
    assert sorted(f.name for f in (tmp_path / "x-y").iterdir()) == sorted(IMAGE.files)


def test_two_that_write_a_new_folder_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one makes it between the look and the making."""
    mkdir = Path.mkdir

    def second(folder: Path, *args: Any, **options: Any) -> None:
        monkeypatch.setattr(Path, "mkdir", mkdir)  # which calls itself
        mkdir(folder, parents=True)
        mkdir(folder, *args, **options)

    monkeypatch.setattr(Path, "mkdir", second)
    image = RenderedImage("x-y", {"Dockerfile": "a\n"})
    assert render.write(tmp_path / "images", [image]) == [tmp_path / "images/x-y/Dockerfile"]


def test_two_of_one_number_write_each_their_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers number their processes alike: a name aside is nobody else's."""
    image = RenderedImage("x-y", {"Dockerfile": "a\n"})
    replace, seen = os.replace, list[str]()

    def meanwhile(aside: str, file: Path) -> None:
        seen.append(aside)
        if len(seen) == 1:
            render.write(tmp_path, [RenderedImage("x-y", {"Dockerfile": "b\n"})])
        replace(aside, file)

    monkeypatch.setattr(os, "replace", meanwhile)
    render.write(tmp_path, [image])
    assert len(set(seen)) == 2
    assert (tmp_path / "x-y/Dockerfile").read_text() == "a\n"
    assert [file.name for file in (tmp_path / "x-y").iterdir()] == ["Dockerfile"]


def test_a_file_aside_that_is_somebody_elses_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    taken = tmp_path / f"x-y/.Dockerfile-{'00' * 8}"
    taken.parent.mkdir()
    taken.write_text("theirs")
    with pytest.raises(FileExistsError):
        render.write(tmp_path, [RenderedImage("x-y", {"Dockerfile": "a\n"})])
    assert taken.read_text() == "theirs"


# Projects' own templates.


def test_a_systems_template_sees_the_contents(
    project: Project, matrix: Matrix, tmp_path: Path
) -> None:
    (tmp_path / "os").mkdir()
    shipped = (ROOT / "templates/os/debian.j2").read_text()
    install = "{% macro install(packages) -%}\n"
    assert install in shipped
    own = shipped.replace(install, f"{install}# for {{{{ contents.version }}}}\n")
    (tmp_path / "os/debian.j2").write_text(own)
    recipe = recipe_of(project, matrix, "cpu-vllm")
    files = Renderer([tmp_path, *project.template_dirs]).render(recipe).files
    for text in files.values():
        assert f"    # for {recipe.cell.release.version}\n" in text


# Broken templates.


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "Dockerfile.j2",
            "FROM a\n\n{{ recipe.basse }}\n",
            ":3: bad template: 'builder.model.Recipe object' has no attribute 'basse'",
        ),
        (
            "frameworks/vllm.j2",
            "true\n{{ nothing.here }}\n",
            ":2: bad template: 'nothing' is undefined",
        ),
        (
            # Layers are shared by cells, so none may know whose they are.
            "frameworks/vllm.j2",
            "true\n# {{ recipe.cell.id }}\n",
            ":2: bad template: 'recipe' is undefined",
        ),
        (
            "os/debian.j2",
            "{% set caches, unpinned = [], '' %}{% macro install(p) %}\n{{ p.x.y }}{% endmacro %}",
            ":2: bad template: 'tuple object' has no attribute 'x'",
        ),
        (
            "apptainer.def.j2",
            "a\n{% if %}\n",
            ":2: bad template: Expected an expression, got 'end of statement block'",
        ),
        (
            "Dockerfile.j2",
            "a\n{{ 'x' | quotedd }}\n",
            ":2: bad template: No filter named 'quotedd'.",
        ),
        (
            "frameworks/vllm.j2",
            "true\n{{ contents.version + 1 }}\n",
            ':2: bad template: can only concatenate str (not "int") to str',
        ),
        ("frameworks/vllm.j2", "true\n{{ 1 / 0 }}\n", ":2: bad template: division by zero"),
        (
            "frameworks/vllm.j2",
            "true\n{% macro f() %}{{ f() }}{% endmacro %}\n{{ f() }}\n",
            ":2: bad template: maximum recursion depth exceeded",
        ),
        (
            "Dockerfile.j2",
            "a\n{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}\n",
            ": bad template: maximum recursion depth exceeded",
        ),
        ("Dockerfile.layers.j2", "a\n{{ run() }}\n", ":2: bad template: run() has no command"),
        (
            "apptainer.layers.j2",
            "a\n{{ run('# why', '') }}\n",
            ":2: bad template: run() has no command",
        ),
        (
            "Dockerfile.layers.j2",
            "a\n{{ wheels_of(contents) }}\n",
            ":2: bad template: 'Contents' object has no attribute 'steps'",
        ),
        ("frameworks/vllm.j2", "true\n# \udcff\n", ":2: is not UTF-8"),
        ("Dockerfile.j2", "\udcc3", ":1: is not UTF-8"),
    ],
)
def test_a_broken_template_is_told_with_its_line(
    project: Project, matrix: Matrix, tmp_path: Path, name: str, text: str, says: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text.encode(errors="surrogateescape"))
    renderer = Renderer([tmp_path, *project.template_dirs])
    with pytest.raises(UserError) as error:
        renderer.render(recipe_of(project, matrix, "cpu-vllm"))
    told = str(error.value)
    # Python says more of some recursions than of others.
    assert told.startswith(f"{file}{says}") if "recursion" in says else told == f"{file}{says}"
    assert "\n" not in told


def test_a_missing_template(project: Project, matrix: Matrix, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Renderer([tmp_path]).render(recipe_of(project, matrix, "cpu-vllm"))
    assert str(error.value) == "no template 'Dockerfile.layers.j2'; see templates/"


# Quoting.


def docker_word(word: str) -> str:
    """What BuildKit's shell lexer (frontend/dockerfile/shell/lex.go) makes of a quoted word."""
    value, quote, rest = "", "", iter(word)
    for sign in rest:
        if quote == "'" or (quote and sign == quote) or (not quote and sign in "'\""):
            if sign == quote or not quote:
                quote = "" if quote else sign
            else:
                value += sign
        elif sign == "\\":
            following = next(rest)
            # Within double quotes it escapes these only, and stays otherwise.
            value += following if not quote or following in '"$\\' else sign + following
        else:
            assert quote or sign not in " \t", f"{word} ends at a blank"
            assert sign != "$", f"{word} is expanded"
            value += sign
    assert not quote, f"{word} is not closed"
    return value


_VALUES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=30)


@given(_VALUES | st.text(alphabet="'\"\\$` {}a", max_size=12))
@example("`id`")
@example("$HOME ${HOME} $(id)")
@example("it's")
@example("C:\\")
@example("")
def test_a_quoted_value_is_read_back_by_docker_and_by_a_shell(value: str) -> None:
    word = _quoted(value)
    assert shlex.split(word) == [value]
    assert docker_word(word) == value
    for part in re.findall(r"'[^']*'|\"[^\"]*\"", word):
        assert part.startswith("'") or not set(part) & set("$`\\"), "a shell expands this"


def test_nasty_values_reach_both_files(project: Project, matrix: Matrix) -> None:
    value = 'a\'b "c" $HOME `id` \\'
    stack = matrix.stacks["cpu"].model_copy(update={"env": {"NASTY": value}, "title": value})
    nasty = matrix.model_copy(update={"stacks": {**matrix.stacks, "cpu": stack}})
    files = Renderer(project.template_dirs).render(recipe_of(project, nasty, "cpu-vllm")).files
    docker = re.search(r"^    NASTY=(.*?)(?: \\)?$", files["Dockerfile"], re.MULTILINE)
    assert docker
    assert docker_word(docker[1]) == value
    shell = re.search(r"^    export NASTY=(.*)$", files["apptainer.def"], re.MULTILINE)
    assert shell
    assert shlex.split(shell[1]) == [value]


def test_comments_stay_where_they_stand_and_the_last_command_ends() -> None:
    assert _run("a", "# why\nb\n\n  c  ", "# end") == (
        "a && \\\n    # why\n    b && \\\n    c\n    # end"
    )


def test_a_plain_docker_build_sees_what_is_copied(texts: dict[str, str]) -> None:
    seen = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()[1:]
    }
    for name, text in texts.items():
        assert set(re.findall(r"^COPY (builder/\S+)", text, re.MULTILINE)) <= seen, name


def test_a_plain_docker_build_sees_what_the_files_name(texts: dict[str, str]) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    seen = [line.removeprefix("!") for line in lines if line.startswith("!")]
    named = {
        source
        for name, text in texts.items()
        if name.endswith("/Dockerfile")
        for pair in re.findall(r"^COPY (\S+)|type=bind,source=([^,\s]+)", text, re.MULTILINE)
        for source in pair
        if source
    }
    assert named
    for source in named:
        assert any(f"{source}/".startswith(f"{folder}/") for folder in seen), source

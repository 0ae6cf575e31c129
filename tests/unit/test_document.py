"""YAML with places: what cannot be read is told in one line, with its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builder.errors import UserError
from builder.matrix import document

DEEP = 1100

# content -> the whole message, FILE standing for the file's path
BAD: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "FILE: is empty"),
    "comments only": ("# nothing\n\n", "FILE: is empty"),
    "not UTF-8": (
        b"\xffa: b\n",
        (
            "FILE: cannot be read: 'utf-8' codec can't decode byte 0xff in position 0: "
            "invalid start byte"
        ),
    ),
    "unclosed list": (
        "a: 1\nb: [1, 2\nc: 3\n",
        "FILE:3: not YAML: while parsing a flow sequence: expected ',' or ']', but got ':'",
    ),
    "tab": (
        "a:\n\tb: 1\n",
        (
            r"FILE:2: not YAML: while scanning for the next token: "
            r"found character '\t' that cannot start any token"
        ),
    ),
    "control character": (
        "a: 1\nb: \x00\n",
        "FILE:2: not YAML: special characters are not allowed",
    ),
    "two documents": (
        "a: 1\n---\nb: 2\n",
        "FILE:2: not YAML: expected a single document in the stream: but found another document",
    ),
    "unknown alias": ("a: 1\nb: *c\n", "FILE:2: not YAML: found undefined alias 'c'"),
    "recursive alias": ("a: &a\n  - 1\n  - *a\n", "FILE:1: an alias refers to what it stands in"),
    "nested too deeply": ("[" * DEEP + "]" * DEEP, "FILE: not YAML: nested too deeply"),
    "aliases nested too deeply": (
        "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, DEEP)),
        "FILE: not YAML: nested too deeply",
    ),
    "duplicate key": ("a: 1\nb: 2\na: 3\n", "FILE:3: duplicate key 'a'; first given in line 1"),
    "duplicate key, nested": (
        "top:\n  - a: x\n    b: y\n    a: z\n",
        "FILE:4: duplicate key 'a'; first given in line 2",
    ),
    "duplicate key, flow style": (
        'a:\n  {b: "1",\n   b: "2"}\n',
        "FILE:3: duplicate key 'b'; first given in line 2",
    ),
    "duplicate key, quoted once": (
        'a: x\n"a": y\n',
        "FILE:2: duplicate key 'a'; first given in line 1",
    ),
    "key is a number": ("a: x\n12: y\n", 'FILE:2: the key 12 is not text; quote it: "12"'),
    "key is true": ("on: y\n", 'FILE:1: the key on is not text; quote it: "on"'),
    "key is a version": ("12.10: y\n", 'FILE:1: the key 12.10 is not text; quote it: "12.10"'),
    "key is a list": ("[a, b]: y\n", "FILE:1: the key this is not text"),
    "merge key": ("a: &a {b: c}\nd:\n  <<: *a\n", 'FILE:3: the key << is not text; quote it: "<<"'),
    "unquoted version": (
        "cuda:\n  version: 12.10\n",
        'FILE:2: 12.10 without quotes is a number, and loses its last zero; quote it: "12.10"',
    ),
    "unquoted version in a list": (
        'sms: ["8.0",\n  9.0]\n',
        'FILE:2: 9.0 without quotes is a number, and loses its last zero; quote it: "9.0"',
    ),
    "bad date": (
        "a: 1\nday: 2026-13-01\n",
        "FILE:2: cannot be understood: month must be in 1..12",
    ),
    "tag of another language": (
        "a: !!python/name:os.system x\n",
        "FILE:1: unknown tag 'tag:yaml.org,2002:python/name:os.system'",
    ),
    "tag that its text does not fit": ("a: !!bool maybe\n", "FILE:1: 'maybe' is not a YAML bool"),
    "int tag on nothing": ('a: !!int ""\n', "FILE:1: '' is not a YAML int"),
    "timestamp tag on text": ("a: !!timestamp soon\n", "FILE:1: 'soon' is not a YAML timestamp"),
    "long key": (f"? [{'z' * 5000}]\n: 1\n", "FILE:1: the key this is not text"),
    "long number as key": (
        f"{'1' * 100}: y\n",
        f'FILE:1: the key {"1" * 59}… is not text; quote it: "{"1" * 59}…"',
    ),
    "long key twice": (
        f"{'z' * 100}: y\n{'z' * 100}: y\n",
        f"FILE:2: duplicate key '{'z' * 59}…'; first given in line 1",
    ),
    "long version": (
        f"a: 1.{'1' * 5000}\n",
        'FILE:1: N without quotes is a number, and loses its last zero; quote it: "N"'.replace(
            "N", f"1.{'1' * 57}…"
        ),
    ),
    "long tag": (f"a: !{'z' * 5000} x\n", f"FILE:1: unknown tag '!{'z' * 58}…'"),
    "long text under a tag": (
        f"a: !!bool {'z' * 5000}\n",
        f"FILE:1: '{'z' * 59}…' is not a YAML bool",
    ),
    "long alias": (
        f"a: *{'z' * 5000}\n",
        f"FILE:1: not YAML: found undefined alias '{'z' * 59}…'",
    ),
    "map tag on text": ("a: !!map x\n", "FILE:1: unknown tag 'tag:yaml.org,2002:map'"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_with_its_place(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    file = tmp_path / "m.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        document.read(file)
    assert str(error.value) == message.replace("FILE", str(file))
    assert error.value.exit_code == 2


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        document.read(tmp_path / "none.yaml")
    assert str(error.value) == f"{tmp_path}/none.yaml: no such file"


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r": cannot be read: .*Is a directory"):
        document.read(tmp_path)


def test_places_are_the_lines_of_the_keys_and_items(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(
        "# a comment\n"
        "a:\n"
        "  b: text\n"
        "  c: >\n"
        "    folded\n"
        "    text\n"
        "  d: [x,\n"
        "      y]\n"
        "e:\n"
        "  - f: 1\n"
        "    g: no\n"
        "  - h\n"
    )
    read = document.read(file)
    assert read.data == {
        "a": {"b": "text", "c": "folded text\n", "d": ("x", "y")},
        "e": ({"f": 1, "g": False}, "h"),
    }
    assert read.lines == {
        (): 2,
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 4,
        ("a", "d"): 7,
        ("a", "d", 0): 7,
        ("a", "d", 1): 8,
        ("e",): 9,
        ("e", 0): 10,
        ("e", 0, "f"): 10,
        ("e", 0, "g"): 11,
        ("e", 1): 12,
    }
    assert read.written["e", 0, "g"] == "no"


def test_a_place_that_is_not_in_the_file_is_that_of_its_nearest_ancestor(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("a:\n  b: x\n")
    read = document.read(file)
    assert read.place(("a", "b", "c", 3)).line == 2
    assert read.place(("z",)).line == 1


def test_an_alias_is_its_anchor(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("a: &x [p, q]\nb: *x\nc: [*x, *x]\n")
    assert document.read(file).data["c"] == (("p", "q"), ("p", "q"))


def lines_in(text: str) -> int:
    """Lines as YAML counts them."""
    return len(re.split("\r\n|[\n\r\x85\u2028\u2029]", text))


# Text that is close to YAML gets further into the parser than random text does.
_PIECES = (
    "a|b|: |\n|  |- |[|]|{|}|, |&x |*x|'|\"|# |12.10|1e3|on|~|2026-99-01|? |> |<<|%|@|---\n|...\n"
    "|\t|\x00|\x85|\u2028|\r|\ufeff|0x|1:30|=|é|!t |!!int |!!set |!!bool |!!timestamp |!!binary "
    "|!!float |!!str |!!omap |!!null "
)
_YAMLISH = st.lists(st.sampled_from([*_PIECES.split("|"), "| "]), max_size=25).map("".join)


def problem(file: Path) -> UserError | None:
    try:
        document.read(file)
    except UserError as error:
        return error
    return None


@settings(max_examples=300)
@given(st.one_of(_YAMLISH, st.text(max_size=60)))
@example("!!float a\x85\x85a")
def test_any_text_is_read_or_a_user_error_within_the_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(text, encoding="utf-8", newline="")
    if error := problem(file):
        assert error.place is not None
        assert error.place.line is None or 1 <= error.place.line <= lines_in(text)
        assert len(error.what.splitlines()) == 1


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_a_user_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "m.yaml"
    file.write_bytes(content)
    if error := problem(file):
        assert len(error.what.splitlines()) == 1


def frozen(data: Any) -> Any:
    """Lists as the tuples that read() makes of them."""
    if isinstance(data, dict):
        return {key: frozen(value) for key, value in data.items()}
    return tuple(map(frozen, data)) if isinstance(data, list) else data


_DATA = st.recursive(
    st.text(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=15,
)


@settings(max_examples=200)
@given(_DATA, st.sampled_from([None, True, False]))
def test_what_safe_dump_wrote_is_read_back(tmp_path: Path, data: Any, flow: bool | None) -> None:
    file = tmp_path / "m.yaml"
    dumped = yaml.safe_dump(data, default_flow_style=flow)
    file.write_text(dumped, encoding="utf-8", newline="")
    assert document.read(file).data == frozen(data)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,6}", fullmatch=True), st.integers(0, 3), min_size=1, max_size=8
    ),
    st.integers(0, 4),
)
def test_line_numbers_are_those_of_the_text(
    tmp_path: Path, gaps: dict[str, int], indent: int
) -> None:
    lines: list[str] = []
    wanted: dict[tuple[str | int, ...], int] = {}
    for key, gap in gaps.items():
        lines += [["", "# comment", "   "][n % 3] for n in range(gap)]
        lines.append(f'"{key}":')
        wanted[(key,)] = len(lines)
        for index in range(gap):
            lines.append(" " * indent + f'- "{index}"')
            wanted[key, index] = len(lines)
    file = tmp_path / "m.yaml"
    file.write_text("\n".join(lines) + "\n")
    found = document.read(file).lines
    del found[()]
    assert found == wanted

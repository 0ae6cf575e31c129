"""The report for people: the largest first, megabytes of 1,000,000 bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from builder.errors import brief
from builder.inspect.report import Report
from builder.runtime.slim.command import printable

_PREAMBLE = re.compile(
    r"^RUN |^(\|\d+ (\S+=\S* )*)?(/bin/)?sh -c |^/bin/bash .*? -c |#\(nop\) "
    r"|if \[ -f /run/secrets/site \]; then \. /run/secrets/site; fi && |export .*? && "
)
Rows = list[dict[str, Any]]
_SORTS = 3  # of containers without code for a GPU that are named; JSON has all


def lines(found: Report, top: int) -> Iterator[str]:
    """Tables of at most `top` rows each; what is left out is summed."""
    return map(printable, _lines(found, top))


def _lines(found: Report, top: int) -> Iterator[str]:
    yield _head(found)
    if len(found["layers"]) > 1 or found["layers"][0]["stored"] is not None:
        yield from _layers(found["layers"])
    yield from _table(
        "packages", ("MB", "compressed", "files", "GPU code"), found["packages"], top, _package
    )
    yield from _table("kinds", ("MB", "compressed"), found["kinds"], top, _kind)
    yield from _table(
        "stored more than once", ("MB too much",), found["duplicates"], top, _duplicate
    )
    yield from _libraries(found["gpu"], top)
    for row in found["refused"]:
        yield f"not understood: {row['path']}: {row['why']}"
    yield from _gate(found["gpu"])


def _head(found: Report) -> str:
    compressed = found["compressed"]
    if compressed["stored"] is None:
        small = f"compressed about {_mb(compressed['estimate'])} ({compressed['how']})"
    else:
        small = (
            f"{_mb(compressed['stored'])} as stored; compressed sizes below are {compressed['how']}"
        )
    hidden = f", {_mb(found['hidden'])} more that no container sees" if found["hidden"] else ""
    return (
        f"{found['name']}: {found['kind']}, {_mb(found['size'])} in {found['files']} files"
        f"{hidden}; {small}"
    )


def _layers(rows: Rows) -> Iterator[str]:
    yield ""
    yield f"{'layers, the lowest first':<40}{_heads(('MB', 'stored', 'files', 'hidden'))}"
    for row in rows:
        digest = row["digest"].removeprefix("sha256:")[:12]
        what = f"{digest:<13}{row['name'] or _short(row['created_by'])}"[:37]
        stored = "" if row["stored"] is None else _number(row["stored"])
        cells = (_number(row["size"]), stored, str(row["files"]), _number(row["hidden"]))
        yield f"  {what:<38}{_cells(cells)}"


def _short(created_by: str) -> str:
    """What a layer's line of the Dockerfile does, without what all of them do."""
    return brief(_PREAMBLE.sub("", created_by.partition(" # buildkit")[0]))


def _package(row: dict[str, Any]) -> tuple[str, ...]:
    name = f"{row['name']} {row['version']}{' (deb)' if row['source'] == 'deb' else ''}"
    gpu = _number(row["gpu"]) if row["gpu"] else ""
    return name, _number(row["size"]), _number(row["compressed"]), str(row["files"]), gpu


def _kind(row: dict[str, Any]) -> tuple[str, ...]:
    return row["kind"], _number(row["size"]), _number(row["compressed"])


def _duplicate(row: dict[str, Any]) -> tuple[str, ...]:
    return f"{row['copies']} x {row['paths'][0]}", _number(row["wasted"])


def _table(title: str, heads: tuple[str, ...], rows: Rows, top: int, shown: Any) -> Iterator[str]:
    if not rows:
        return
    yield ""
    yield f"{title:<40}{_heads(heads)}"
    for row in rows[:top]:
        name, *cells = shown(row)
        yield f"  {_cut(name, 37):<38}{_cells(cells)}"
    if rest := rows[top:]:
        key = "wasted" if "wasted" in rest[0] else "size"
        size = _number(sum(row[key] for row in rest))
        yield f"  {f'{len(rest)} more':<38}{_cells((size,))}"


def _libraries(gpu: dict[str, Any], top: int) -> Iterator[str]:
    rows: Rows = gpu["libraries"]
    if not rows:
        return
    yield ""
    yield f"{_mb(gpu['size'])} of GPU code in {len(rows)} libraries"
    for row in rows[:top]:
        code = sum(row["code"].values())
        yield f"  {row['path']}: {_mb(code)} in {_counted(row)}"
        held = [("cubin", row["cubins"]), ("PTX", row["ptx"]), ("LTO", row["lto"])]
        held.append(("frames", row["packed"]))
        told = [f"{what} {', '.join(names)}" for what, names in held if names]
        told += [_gap(sm, gap) for sm, gap in row["uncovered"].items() if gap["holding"]]
        told += [f"not understood: {why}" for why in row["strange"]]
        yield f"      {'; '.join(told) or 'blank'}"
    if len(rows) > top:
        size = sum(sum(row["code"].values()) for row in rows[top:])
        yield f"  {len(rows) - top} more: {_mb(size)}"


def _counted(row: dict[str, Any]) -> str:
    counts = ((row["containers"], "container"), (row["frames"], "zstd frame"))
    return " and ".join(f"{count} {what}{'s' * (count > 1)}" for count, what in counts if count)


def _gap(sm: str, gap: dict[str, Any]) -> str:
    """What of a library has nothing for a GPU, and which others that is for."""
    sorts = list(gap["holding"].items())
    told = [
        f"{count} {'emptied' if names == 'nothing' else names.replace(', ', ' + ')}"
        for names, count in sorts[:_SORTS]
    ]
    if rest := sum(count for _, count in sorts[_SORTS:]):
        told.append(f"{rest} others")
    return f"{_counted(gap)} ({_mb(gap['size'])}) without sm_{sm}: {', '.join(told)}"


def _gate(gpu: dict[str, Any]) -> Iterator[str]:
    for sm in gpu["sms"]:
        without, every = gpu["failing"][str(sm)], len(gpu["libraries"])
        excused = [row for row in gpu["excused"] if row["sm"] == sm]
        covered = every - len(without) - len(excused)
        yield ""
        if every:
            yield f"sm_{sm}: {covered} of {every} libraries with GPU code have some that runs there"
        else:
            yield f"sm_{sm}: no library with GPU code is there"
        yield from _partly(gpu, sm)
        yield from (f"  none in {row['path']}, and it needs none: {row['why']}" for row in excused)
        yield from (f"  none in {path}" for path in without)
        yield from (f"  not read: {path}, and GPU code is in it" for path in gpu["unread"][str(sm)])


def _partly(gpu: dict[str, Any], sm: int) -> Iterator[str]:
    """That the libraries which cover a GPU do not do so with all that they have."""
    lacking = gpu["lacking"][str(sm)]
    gaps = [row["uncovered"][str(sm)] for row in gpu["libraries"] if row["path"] in lacking]
    if gaps:
        yield (
            f"  parts of {len(gaps)} of them are for other GPUs alone, "
            f"{_mb(sum(gap['size'] for gap in gaps))} together: as a rule kernels that a library "
            "chooses by the GPU; --strict fails for them"
        )


def _heads(names: Sequence[str]) -> str:
    return "".join(f"{name:>12}" for name in names)


def _cells(values: Sequence[str]) -> str:
    return "".join(f"{value:>12}" for value in values).rstrip()


def _cut(text: str, width: int) -> str:
    """The end tells most of a path."""
    if len(text) <= width:
        return text
    begin = width // 3
    return f"{text[:begin]}…{text[begin + 1 - width :]}"


def _number(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _mb(size: int) -> str:
    return f"{_number(size)} MB"

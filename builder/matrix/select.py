"""Cell ids and selectors: `<stack>-<framework>[-<gpu>][-<os>][@<version>]`, globs and commas."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import permutations
from operator import itemgetter

from builder.errors import Place, UserError, nearest, quoted
from builder.facts import Matrix
from builder.matrix import rules
from builder.model import Cell

_SIGNS = "*?["  # that make a pattern
_PARTS = 7  # with the dashes that names have; 5,040 orders
_ORDERS = 24  # of the parts of an id, tried against all cells: four parts


@dataclass(frozen=True, kw_only=True)
class CellId:
    """A cell id, taken apart. `gpu` None means any GPU, `os` None the stack's default.

    "cpu-vllm-debian12" is "cpu-vllm": one combination has one id.
    """

    stack: str
    framework: str
    gpu: str | None
    os: str | None
    version: str | None = None  # a release that the user chose; None: the rules choose

    def __str__(self) -> str:
        parts = "-".join(filter(None, (self.stack, self.framework, self.gpu, self.os)))
        return f"{parts}@{self.version}" if self.version else parts


def parse_id(matrix: Matrix, text: str, place: Place | None = None) -> CellId:
    """Take a cell id apart; raises UserError that names the part nobody knows."""
    name, _, version = text.partition("@")
    stack, rest = _take(name, matrix.stacks)
    if stack is None:
        raise _unknown(
            matrix, text, "no stack", text.partition("-")[0], known=matrix.stacks, place=place
        )
    framework, rest = _take(rest, matrix.frameworks)
    if framework is None and not rest:
        fitting = ", ".join(f"{stack}-{name}" for name in matrix.frameworks)
        raise UserError(
            f"cell {quoted(text)} names no framework", place=place, hint=f"known: {fitting}"
        )
    if framework is None:
        raise _unknown(matrix, text, "no framework", rest, known=matrix.frameworks, place=place)
    gpu, rest = _take(rest, matrix.gpus)
    os, rest = _take(rest, matrix.os)
    if rest:
        known = {**matrix.gpus, **matrix.os}
        raise _unknown(matrix, text, "no GPU or OS", rest, known=known, place=place)
    releases = [release.version for release in matrix.frameworks[framework].releases]
    if "@" in text and version not in releases:
        raise UserError(
            f"unknown cell {quoted(text)}: no release {quoted(version)} of {framework}",
            place=place,
            hint=nearest(version, releases),
        )
    parts = CellId(stack=stack, framework=framework, gpu=gpu, os=os, version=version or None)
    return _normal(matrix, parts)


def _normal(matrix: Matrix, parts: CellId) -> CellId:
    """The one id of a combination: a stack's own OS has no name in it."""
    own = parts.os == matrix.stacks[parts.stack].os
    return dataclasses.replace(parts, os=None) if own else parts


def cell(matrix: Matrix, text: str) -> Cell:
    """The cell of an id, with the release that the rules choose.

    Raises UserError; where the rules refuse, it has their reasons and the nearest cell that they
    admit.
    """
    if text == "all" or is_glob(text) or pieces(text) != [text.strip()]:
        raise _not_one(matrix, text)
    parts = parse_id(matrix, text.strip())
    try:
        return resolve(matrix, parts)
    except UserError as error:
        near = _nearest_possible(matrix, parts)
        hint = f"{error.hint}; the nearest that fits is {near!r}" if near else error.hint
        raise UserError(error.what, hint=hint) from None


def _not_one(matrix: Matrix, text: str) -> UserError:
    """What to say of a selector where one id is taken."""
    parts = ["*"] if text == "all" else pieces(text)
    if not parts:
        return UserError(f"{quoted(text)} names no cell", hint=_published(matrix))
    first = parts[0]
    if is_glob(first):
        bare = "".join(sign for sign in first if sign not in _SIGNS)
        named = [name for name in matrix.cells if fnmatchcase(name, first)]
        named = named or difflib.get_close_matches(bare, matrix.cells, n=1, cutoff=0.5)
        hint = f"did you mean {named[0]!r}?" if named else _published(matrix)
    else:
        hint = f"did you mean {quoted(first)}?"
    kind = "a pattern" if parts == [text.strip()] else "a list"
    return UserError(f"{quoted(text)} is {kind}, and one cell id is taken", hint=hint)


def _nearest_possible(matrix: Matrix, parts: CellId) -> str | None:
    """An admitted cell that differs in one part: the OS, the stack or that it names no GPU.

    Stacks for which the cell is published come first, then the nearest, then the newer.
    """
    stacks = list(matrix.stacks)
    here = stacks.index(parts.stack)

    def by_distance(other: CellId) -> tuple[bool, int, int]:
        index = stacks.index(other.stack)
        return (str(other) not in matrix.cells, abs(index - here), -index)

    candidates = [dataclasses.replace(parts, version=None)] if parts.version else []
    candidates += [dataclasses.replace(parts, os=name) for name in (None, *matrix.os)]
    candidates += sorted(
        (dataclasses.replace(parts, stack=name) for name in stacks), key=by_distance
    )
    candidates.append(dataclasses.replace(parts, gpu=None))
    for candidate in candidates:
        try:
            return resolve(matrix, _normal(matrix, candidate)).id
        except UserError:
            continue
    return None


@lru_cache(maxsize=20_000)  # `load` asks for each published cell, and `select` again
def resolve(matrix: Matrix, parts: CellId) -> Cell:
    """The cell of known parts; raises UserError with the rules' reasons when they admit none."""
    place = place_of(matrix, parts)
    framework = matrix.frameworks[parts.framework]
    os_name = parts.os or place.stack.os
    bootstrap_os_name = _bootstrapped(matrix, os_name)
    cell_id = str(parts)
    release, build = rules.choose(cell_id, framework, place, parts.version)
    if build.wrap:
        os_name, bootstrap_os_name = build.wrap.os, None
    return Cell(
        id=cell_id,
        stack_name=parts.stack,
        framework_name=parts.framework,
        gpu_name=parts.gpu,
        os_name=os_name,
        os_is_default=parts.os is None,
        stack=place.stack,
        framework=framework,
        gpu=place.gpu,
        os=matrix.os[os_name],
        bootstrap_os_name=bootstrap_os_name,
        bootstrap_os=matrix.os[bootstrap_os_name] if bootstrap_os_name else None,
        release=release,
        build=build,
    )


def place_of(matrix: Matrix, parts: CellId) -> rules.Place:
    """Where a cell of these parts would run."""
    stack = matrix.stacks[parts.stack]
    os_name = parts.os or stack.os
    names = (os_name, _bootstrapped(matrix, os_name))
    return rules.Place(
        stack=stack,
        gpu=matrix.gpus[parts.gpu] if parts.gpu else None,
        systems=tuple(matrix.os[name] for name in names if name),
        os_named=parts.os is not None,
        torch_of=os_name if matrix.os[os_name].brings else None,
        as_of=matrix.as_of,
    )


def _bootstrapped(matrix: Matrix, os_name: str) -> str | None:
    """The OS to put together from packages in place of `os_name`, if any can be."""
    name = matrix.os[os_name].bootstrap_as or os_name
    return name if matrix.os[name].archive else None


def select(matrix: Matrix, selector: str | None) -> tuple[Cell, ...]:
    """The cells that a selector names, in the matrix's order, each once.

    None or "all" is every published cell. A glob picks among the published; a plain id may also
    name a cell that is not published, as long as its parts exist and the rules admit it.
    """
    if selector in (None, "all"):
        return tuple(cell(matrix, text) for text in matrix.cells)
    wanted: dict[str, None] = {}
    for part in pieces(selector):
        if is_glob(part):
            matches = [text for text in matrix.cells if fnmatchcase(text, part)]
            if not matches:
                raise UserError(f"no cell matches {quoted(part)}", hint=_published(matrix))
            wanted.update(dict.fromkeys(matches))
        else:
            wanted[str(parse_id(matrix, part))] = None
    if not wanted:
        raise UserError(f"{quoted(selector)} selects nothing", hint=_published(matrix))
    order = {text: index for index, text in enumerate(matrix.cells)}
    chosen = sorted(wanted, key=lambda text: (order.get(text, len(order)), text))
    return tuple(cell(matrix, text) for text in chosen)


def near(matrix: Matrix, part: str) -> str:
    """What may have been meant by an id or a glob that is of no published cell."""
    if len(pieces(part)) > 1:
        return "give each id or glob a row"
    with suppress(UserError):
        own_id = str(parse_id(matrix, part.partition("@")[0]))
        if own_id in matrix.cells:
            return f"did you mean {own_id!r}?"
    known = set(matrix.cells)
    if is_glob(part):
        for name in matrix.cells:
            stems = ["-".join(name.split("-")[:end]) for end in range(1, name.count("-") + 1)]
            known |= {f"{stem}{end}" for stem in stems for end in ("*", "-*")}
    hint = nearest(part, known)
    return hint if hint.startswith("did") else _published(matrix)


def _published(matrix: Matrix) -> str:
    """The published cells, where they fit on a line."""
    if len(matrix.cells) > 8:
        return f"{len(matrix.cells)} cells are published; `imgbuild matrix` lists them"
    return f"cells: {', '.join(matrix.cells)}"


def pieces(selector: str) -> list[str]:
    """The ids and globs of a selector."""
    return [piece.strip() for piece in selector.split(",") if piece.strip()]


def is_glob(text: str) -> bool:
    """Whether a part of a selector is a pattern, and no id."""
    return any(sign in text for sign in _SIGNS)


def _take(text: str, names: Container[str]) -> tuple[str | None, str]:
    """Split the longest known name off the front of `text`, with the dash behind it."""
    end = len(text)
    while end > 0:
        if text[:end] in names and end != len(text) - 1:  # a last dash has nothing behind it
            return text[:end], text[end + 1 :]
        end = text.rfind("-", 0, end)
    return None, text


def _exists(matrix: Matrix, text: str) -> bool:
    """Whether each part of a cell id is known."""
    stack, rest = _take(text, matrix.stacks)
    framework, rest = _take(rest, matrix.frameworks)
    for names in (matrix.gpus, matrix.os):
        _, rest = _take(rest, names)
    return None not in (stack, framework) and not rest


def _unknown(
    matrix: Matrix, text: str, what: str, part: str, *, known: Iterable[str], place: Place | None
) -> UserError:
    close = difflib.get_close_matches(part, known, n=1, cutoff=0.5)
    mended = [text.replace(part, close[0], 1)] if close else []
    orders = list(_orders(text))
    for candidate in (*mended, *orders):
        if candidate != text and _exists(matrix, candidate.partition("@")[0]):
            hint = f"did you mean {candidate!r}?"
            break
    else:
        hint = _similar(set(matrix.cells) - {text}, orders[:_ORDERS]) or nearest(part, known)
    return UserError(f"unknown cell {quoted(text)}: {what} {quoted(part)}", place=place, hint=hint)


def _orders(text: str) -> Iterator[str]:
    """An id with its parts in every order, its own first; a version stays behind them.

    Of more parts than any id has, only its own order.
    """
    name, at, version = text.partition("@")
    found = name.split("-")
    for parts in permutations(found) if len(found) <= _PARTS else [found]:
        yield "-".join(parts) + at + version


def _similar(known: Iterable[str], texts: Iterable[str]) -> str:
    """The hint that names which of `known` is nearest to any of `texts`, or ""."""
    pairs = ((text, name) for text in texts for name in sorted(known))
    scored = ((difflib.SequenceMatcher(None, name, text).ratio(), name) for text, name in pairs)
    ratio, name = max(scored, default=(0.0, ""), key=itemgetter(0))
    return f"did you mean {name!r}?" if ratio >= 0.5 else ""

"""Every combination that the axes allow, and what the rules say of each."""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from builder.errors import UserError
from builder.facts import Accelerator, Matrix
from builder.matrix.select import CellId, is_glob, parse_id, pieces, resolve
from builder.model import Cell


@dataclass(frozen=True, kw_only=True)
class Row:
    """One combination: the cell that it is, or why it is none."""

    id: str
    parts: CellId
    published: bool
    cell: Cell | None
    why: str  # "" where there is a cell

    @property
    def serves_on_cpu(self) -> bool:
        """Whether the image serves where there is a CPU alone, as smoke has it do."""
        if self.cell is None:
            return False
        accelerator = self.cell.stack.accelerator
        told = self.cell.framework.smoke[accelerator]
        return accelerator is Accelerator.CPU or told.cpu_env is not None


def survey(matrix: Matrix, selector: str | None) -> tuple[Row, ...]:
    """What the rules say of each combination that `selector` names, in the order of the axes.

    None or "all" is every combination on its stack's own OS, with a GPU where the stack has CUDA,
    and every published cell. Other than `select`, a glob picks among all combinations, on every
    OS: also those that nobody publishes.
    Raises UserError for a part that names nothing.
    """
    published = frozenset(matrix.cells)
    if selector is None or selector == "all":
        return tuple(
            _row(matrix, parts, published)
            for parts in combinations(matrix)
            if _usual(matrix, parts) or str(parts) in published
        )
    everything = {str(parts): parts for parts in combinations(matrix)}
    ids: dict[str, CellId] = {}
    for part in pieces(selector):
        if is_glob(part):
            found = {text: parts for text, parts in everything.items() if fnmatchcase(text, part)}
            if not found:
                raise UserError(f"no combination matches {part!r}", hint=_near(matrix, part))
            ids |= found
        else:
            parts = parse_id(matrix, part)
            ids[str(parts)] = parts
    if not ids:
        raise UserError(f"{selector!r} selects nothing", hint="give ids or globs")
    order = {text: index for index, text in enumerate(everything)}
    return tuple(
        _row(matrix, ids[text], published)
        for text in sorted(ids, key=lambda text: order[text.partition("@")[0]])
    )


def _near(matrix: Matrix, glob: str) -> str:
    """What may be meant by a glob that matches nothing."""
    known = [f"{stack}-{name}*" for stack in matrix.stacks for name in matrix.frameworks]
    if close := difflib.get_close_matches(glob, known, n=1, cutoff=0.7):
        return f"did you mean {close[0]!r}?"
    return f"ids begin with {', '.join(matrix.stacks)}"


def _usual(matrix: Matrix, parts: CellId) -> bool:
    """Whether somebody would ask for it without being told that it makes no sense."""
    cuda = matrix.stacks[parts.stack].accelerator is Accelerator.CUDA
    return parts.os is None and (cuda or parts.gpu is None)


def combinations(matrix: Matrix) -> Iterator[CellId]:
    """The product of all axes; the stack's own OS stands as None, and comes first."""
    for stack_name, stack in matrix.stacks.items():
        systems = (None, *(name for name in matrix.os if name != stack.os))
        for framework in matrix.frameworks:
            for gpu in (None, *matrix.gpus):
                for os in systems:
                    yield CellId(stack=stack_name, framework=framework, gpu=gpu, os=os)


def _row(matrix: Matrix, parts: CellId, published: Container[str]) -> Row:
    """Ask the rules about one combination."""
    text = str(parts)
    found, why = None, ""
    try:
        found = resolve(matrix, parts)
    except UserError as error:
        why = error.hint
    return Row(id=text, parts=parts, published=text in published, cell=found, why=why)

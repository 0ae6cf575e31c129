"""Sizes against a cell's budget and against those that were recorded."""

from __future__ import annotations

from builder.errors import BuildError
from builder.sizes.measure import Sizes

ALLOWANCE = 0.02  # of a budget; compression and base images are not the same every day
_MB = 1e6
_GREW = 3  # packages that a failure names


def check(cell_id: str, sizes: Sizes, budget: int | None, recorded: Sizes | None) -> str:
    """What to say of an image's size; raises BuildError where it is over its budget."""
    size = f"{sizes.compressed / _MB:.0f} MB compressed"
    if budget is None:
        return f"{cell_id}: {size}, no budget"
    if sizes.compressed > budget * _MB * (1 + ALLOWANCE):
        over = 100 * (sizes.compressed / (budget * _MB) - 1)
        raise BuildError(
            f"{cell_id}: {size}, {over:.1f} % over its budget of {budget} MB",
            hint=_grew(sizes, recorded),
        )
    return f"{cell_id}: {size} of a budget of {budget} MB"


def changes(sizes: Sizes, recorded: Sizes) -> list[tuple[str, int, int]]:
    """Packages whose size is another one, with the old and the new; the most changed first."""
    old, new = recorded.packages, sizes.packages
    rows = [(name, old.get(name, 0), new.get(name, 0)) for name in sorted(old | new)]
    return sorted((row for row in rows if row[1] != row[2]), key=lambda row: -abs(row[2] - row[1]))


def table(sizes: Sizes, recorded: Sizes) -> list[str]:
    """Package by package what changed, a line each."""
    rows = [("(image, compressed)", recorded.compressed, sizes.compressed)]
    rows += changes(sizes, recorded)
    return [
        f"  {name:<32}{old / _MB:9.1f} -> {new / _MB:9.1f} MB  {(new - old) / _MB:+9.1f}"
        for name, old, new in rows
        if abs(new - old) >= _MB / 10
    ]


def _grew(sizes: Sizes, recorded: Sizes | None) -> str:
    if recorded is None:
        return "no sizes are recorded to compare with"
    grown = [row for row in changes(sizes, recorded) if row[2] > row[1]][:_GREW]
    told = ", ".join(f"{name} {(new - old) / _MB:+.1f} MB" for name, old, new in grown)
    return f"grew since it was recorded: {told}" if told else "nothing that is recorded grew"

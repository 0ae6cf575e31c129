"""What fits into an instance: sizes of models, and cells whose images run on the card."""

from __future__ import annotations

from dataclasses import dataclass

from builder import matrix
from builder.errors import UserError
from builder.facts import Accelerator, Matrix
from builder.host.mig.cards import Card, Fit
from builder.matrix import parse_id
from builder.model import Cell

_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Room:
    """What one instance holds."""

    profile: str
    memory_gib: float  # as the driver says
    weights_gib: float  # of them are left for weights
    # Type of the weights -> billions of parameters (10^9) that fit, and the largest usual size.
    most: tuple[tuple[str, float], ...]
    usual: tuple[tuple[str, float | None], ...]


def room(card: Card, profile: str, fit: Fit) -> Room:
    """How large a model an instance holds, by the margins of cards.yaml."""
    memory = card.profiles[profile].gib
    # What a server takes, less what is no weights, less what its KV cache is to have.
    left = max(0.0, memory * fit.server - fit.overhead_gib - memory * fit.kv_share)
    most = {kind: left * _GIB / size / 1e9 for kind, size in fit.types.items()}
    usual = {
        kind: max((size for size in fit.billions if size <= limit), default=None)
        for kind, limit in most.items()
    }
    return Room(
        profile=profile,
        memory_gib=memory,
        weights_gib=round(left, 2),
        most=tuple((kind, round(limit, 1)) for kind, limit in most.items()),
        usual=tuple(usual.items()),
    )


def cells(loaded: Matrix, card: Card) -> tuple[Cell, ...]:
    """Published cells whose images run on the card.

    Those made for its compute capability, and those for any GPU where the rules would admit one
    made for this: the same wheels have its code then.
    """
    return tuple(
        cell
        for cell in matrix.select(loaded, None)
        if cell.stack.accelerator is Accelerator.CUDA and _runs(loaded, cell, card)
    )


def _runs(loaded: Matrix, cell: Cell, card: Card) -> bool:
    if cell.gpu is not None:
        return cell.gpu.sm == card.sm and cell.arch == "amd64"
    parts = parse_id(loaded, cell.id)
    made = "-".join(filter(None, (parts.stack, parts.framework, card.gpu, parts.os)))
    try:
        matrix.cell(loaded, f"{made}@{parts.version}" if parts.version else made)
    except UserError:
        return False
    return True

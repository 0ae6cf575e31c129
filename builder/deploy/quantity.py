"""Quantities as Kubernetes writes them: `32Gi`, `8`, `500m`."""

from __future__ import annotations

import re

from builder.errors import UserError, quoted

# k8s.io/apimachinery/pkg/api/resource/quantity.go; exponents and milli-bytes are nobody's memory.
_BYTES = re.compile(r"^([1-9][0-9]{0,17})(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?\Z")
_UNITS: dict[str, int] = {
    "": 1,
    **{f"{letter}i": 1 << (10 * power) for power, letter in enumerate("KMGTP", start=1)},
    **{letter: int(1000**power) for power, letter in enumerate("kMGTP", start=1)},
}
_MEANT = re.compile(r"^([0-9]+)\s*([kmgtp])(i?)b?\Z", re.IGNORECASE)


def in_bytes(text: str) -> int:
    """Bytes of a quantity of memory or storage that `memory` has let pass."""
    found = _BYTES.match(text)
    assert found, text  # noqa: S101 - checked where it came in
    return int(found[1]) * _UNITS[found[2] or ""]


def memory(text: str, option: str) -> str:
    """A quantity of memory or storage; raises UserError with what was probably meant."""
    if _BYTES.match(text):
        if in_bytes(text) >= 1 << 63:  # what Kubernetes counts in
            raise UserError(f"{option}: {text} is more than there can be")
        return text
    hint = "a whole number with Ki, Mi, Gi, Ti, k, M, G or T, as 32Gi"
    if meant := _MEANT.match(text):
        unit = meant[2].upper()
        hint = f"did you mean '{meant[1]}{unit}i' ({1 << 10} a step)?"
    raise UserError(f"{option}: {quoted(text)} is no quantity", hint=hint)


def text_of(size: int) -> str:
    """Bytes with the largest binary unit that loses nothing."""
    for letter in "TGMK":
        if size % _UNITS[f"{letter}i"] == 0:
            return f"{size // _UNITS[f'{letter}i']}{letter}i"
    return str(size)

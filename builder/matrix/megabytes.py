"""What somebody meant who wrote a size otherwise than as whole megabytes."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_SIZE = re.compile(r"-?(\d{1,9}(?:\.\d{1,9})?)\s*([a-z]*)", re.IGNORECASE)
# Megabytes (10^6 bytes) of one; the powers of 1024 are those of IEC 80000-13.
_UNITS = {
    "": Fraction(1),
    "mb": Fraction(1),
    "gb": Fraction(1000),
    "mib": Fraction(1 << 20, 10**6),
    "gib": Fraction(1 << 30, 10**6),
}


def hint(written: str) -> str:
    """The number to write, never of a smaller size; where none is meant, how they are written."""
    match = _SIZE.fullmatch(written.strip())
    unit = match[2].lower() if match else None
    if match and unit in _UNITS and (size := Fraction(match[1]) * _UNITS[unit]):
        return f"write {math.ceil(size)}"
    return "write megabytes of 10^6 bytes, without a unit, as 1660"

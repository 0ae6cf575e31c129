"""How large an image is, what it may have, and what grew since the sizes that were recorded."""

from builder.sizes.budget import ALLOWANCE, check, table
from builder.sizes.measure import Sizes, measure

__all__ = ["ALLOWANCE", "Sizes", "check", "measure", "table"]

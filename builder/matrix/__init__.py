"""matrix.yaml: load and validate it, choose releases by rule, select cells."""

from builder.matrix.load import load
from builder.matrix.select import cell, select

__all__ = ["cell", "load", "select"]

"""matrix.yaml: load and validate it, choose releases by rule, select and survey cells."""

from builder.matrix.load import load
from builder.matrix.select import cell, parse_id, place_of, select
from builder.matrix.survey import Row, survey

__all__ = ["Row", "cell", "load", "parse_id", "place_of", "select", "survey"]

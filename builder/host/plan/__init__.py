"""`imgbuild host plan`: what would put a host right, as data and as text; nothing is run.

`make(subject, wishes)` has the steps, and `formats.FORMATS` the ways to write them.
"""

from builder.host.plan.make import make
from builder.host.plan.steps import Left, Plan, Step
from builder.host.plan.wishes import Wishes

__all__ = ["Left", "Plan", "Step", "Wishes", "make"]

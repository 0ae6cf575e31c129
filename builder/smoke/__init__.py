"""Checks that prove an image by using it as its users will."""

from builder.smoke.contract import check_contract
from builder.smoke.report import Check, SmokeReport, Status
from builder.smoke.run import smoke

__all__ = ["Check", "SmokeReport", "Status", "check_contract", "smoke"]

"""Where every byte of an image, a SIF, a folder or a wheel is: by layer, package, kind and GPU."""

from __future__ import annotations

from builder.inspect.coverage import sms
from builder.inspect.report import Report, failing, lacking, report, unread
from builder.inspect.sources import Contents, read_image, read_path
from builder.inspect.text import lines
from builder.runtime.slim.command import printable

__all__ = [
    "Contents",
    "Report",
    "failing",
    "lacking",
    "lines",
    "printable",
    "read_image",
    "read_path",
    "report",
    "sms",
    "unread",
]

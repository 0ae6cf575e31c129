"""What the image says of itself: rules, caches and settings, as matrix.yaml has them.

`manifest.json` stands beside the runtime's folder; imgbuild renders it.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

FILE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "manifest.json")
# An image without one, or with a broken one, still starts.
NOTHING: Dict[str, Any] = {
    "schema": 1,
    "title": "the server",
    "accelerator": "cpu",
    "driver_floor": None,
    "cuda": None,
    "sms": [],
    "kernel_sms": [],
    "server": {"model_flags": ["--model"]},
    "rules": {},
    "caches": [],
    "device_choices": [],
    "tuning": [],
    "not_set": [],
}


def read(file: str = FILE) -> Dict[str, Any]:
    """The manifest; `NOTHING` where it cannot be read."""
    try:
        with open(file, encoding="utf-8") as opened:
            return {**NOTHING, **json.load(opened)}
    except (OSError, ValueError, TypeError):
        return dict(NOTHING)

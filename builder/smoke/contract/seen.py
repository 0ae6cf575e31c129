"""What an image is asked from within: inside.py is run there, and answers in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builder.errors import BuildError
from builder.smoke.contract import inside
from builder.smoke.subject import LOG_TAIL, Subject

INSIDE = Path(inside.__file__).read_text(encoding="utf-8")
SCRATCH = "/tmp"  # noqa: S108 - the container's
# The strictest that a cluster has: nowhere to be at home, and one folder to write to.
ANYWHERE: dict[str, Any] = {"home": False, "read_only": True, "tmpfs": (SCRATCH,)}


def sees(subject: Subject, part: str, *args: str, **how: Any) -> dict[str, Any]:
    """What a part of inside.py finds, started as the image starts a user's command."""
    own = () if "entrypoint" in how else (subject.python,)
    printed = subject.says(*own, "-c", INSIDE, part, *args, **how)
    lines = printed.splitlines()
    try:
        seen = json.loads(lines[-1])
    except (IndexError, ValueError):
        seen = None
    if not isinstance(seen, dict):
        raise BuildError(f"`{subject.python}` prints something else", tail=lines[-LOG_TAIL:])
    return seen

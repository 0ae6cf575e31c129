"""Bytecode that images bring: the same bytes wherever it is made, and never looked at again."""

from __future__ import annotations

import importlib.util
import os
import py_compile
from pathlib import Path

import pytest

from builder.runtime.slim import ready

CHECKED = b"\0\0\0\0"  # PEP 552: by the time that the source was changed
UNCHECKED = b"\1\0\0\0"


@pytest.mark.python
def test_bytecode_is_made_anew_of_the_source_alone(tmp_path: Path) -> None:
    made = []
    for when in (1_000_000_000, 1_700_000_000):
        source = tmp_path / "module.py"
        source.write_text("NAMES = {'a', 'b', 'c'}\n\n\ndef one(x):\n    return x in {'d', 'e'}\n")
        os.utime(source, (when, when))
        compiled = Path(importlib.util.cache_from_source(str(source)))
        # An import has left it, as one in a process of its own does.
        py_compile.compile(str(source), doraise=True)
        assert compiled.read_bytes()[4:8] == CHECKED
        ready.bytecode([str(source)])
        made.append(compiled.read_bytes())
    assert made[0][4:8] == UNCHECKED
    assert made[0] == made[1]

"""What CONTRIBUTING.md says of adding a row is true: its diffs, put into matrix.yaml, work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder.matrix import load, survey
from tests.unit.support import ROOT, edited

DIFF = re.compile(r"```diff\n (\w+):\n((?:\+.*\n)+)```")
DIFFS = {match[1]: match[2] for match in DIFF.finditer((ROOT / "CONTRIBUTING.md").read_text())}


def added(tmp_path: Path, table: str) -> tuple[Path, str]:
    """matrix.yaml with the rows that CONTRIBUTING.md adds to a table, and their name."""
    rows = re.sub(r"^\+", "", DIFFS[table], flags=re.MULTILINE)
    name = rows.strip().partition(":")[0]
    return edited(tmp_path, (f"\n{table}:\n", f"\n{table}:\n{rows}")), name


@pytest.mark.parametrize("table", ["gpus", "stacks"])
def test_a_row_in_matrix_yaml_is_enough(tmp_path: Path, table: str) -> None:
    file, name = added(tmp_path, table)
    text = f"{name}-vllm" if table == "stacks" else f"cuda13.0-vllm-{name}"
    (row,) = survey(load(file), text)
    assert row.cell
    assert row.cell.release.version == "0.32.0"


def test_a_made_up_os_is_a_row_too(tmp_path: Path) -> None:
    row = """
  debian99:
    title: Debian 99
    family: debian
    python: "3.13"
    packages: [ca-certificates, python3, python3-dev]
    init: tini
    glibc: "2.41"
    image: docker.io/library/debian:99-slim
    end_of_life: 2040-06-30
    archive:
      mirror: http://deb.debian.org/debian
      security: http://deb.debian.org/debian-security
      suite: made-up
    source: a test
"""
    file = edited(tmp_path, ("\nos:\n", f"\nos:{row}"))
    (found,) = survey(load(file), "cuda13.0-vllm-debian99")
    assert found.cell

"""Helm's own engine, loaded by a Python of its own: Go's runtime stays out of the tests'.

`rendered(folder, runs)` renders a chart once for each run, a dict with `name`, `namespace` and
`values`, and gives objects by template, or what Helm said against it.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # Python's own takes a minute here

# As helm-python-sdk has it; it has wheels for Linux on x86-64, among others.
needed = pytest.mark.skipif(
    importlib.util.find_spec("helm_python") is None, reason="no helm-python-sdk for this platform"
)

_CODE = """
import json, sys
import helm_python.chart as charts
folder, runs = json.load(sys.stdin)
made = {"lint": charts.lint(folder, strict=False), "runs": []}
with charts.Chart.load(folder) as chart:
    for run in runs:
        try:
            # As `helm install` does, which render() alone does not.
            chart.validate_schema(chart.merge_values(run["values"]))
            texts = chart.render(run["values"], name=run["name"], namespace=run["namespace"])
            made["runs"].append({"texts": texts})
        except Exception as error:
            made["runs"].append({"refused": str(error)})
print(json.dumps(made))
"""


def asked(folder: Path, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What Helm makes of a chart, as JSON; starts this Python."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE],
        input=json.dumps([str(folder), runs]),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def objects(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Template's stem -> its object, of a run that Helm did not refuse."""
    assert "refused" not in run, run["refused"]
    made = {}
    for path, text in run["texts"].items():
        name = Path(path).name
        if name.endswith(".yaml") and (read := list(yaml.load_all(text, _LOADER))) and read[0]:
            assert len(read) == 1
            made[name.removesuffix(".yaml")] = read[0]
    return made

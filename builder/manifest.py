"""What an image carries of matrix.yaml: the rules for its preflight, its caches, its settings.

One for each build of a release, which cells share, and one beside it for each SM that images of it
are thinned for; `builder/runtime/` reads it.
"""

from __future__ import annotations

import json
from typing import Any

from builder.facts import Build, DeviceChoice, Framework, Matrix, NotSet, Release, Setting
from builder.matrix import rules
from builder.model import Cell

# Those that a running container can ask again.
_ASKED = ("driver", "gpu_code", "kernel_code")


def name(cell: Cell) -> str:
    """The file's name, the same for all cells of a build that hold the same GPU code."""
    thin = f"-sm{cell.slim_sm.replace('.', '')}" if cell.slim_sm else ""
    return f"{cell.framework_name}-{cell.release.version}-{cell.build.name}{thin}.json"


def text(matrix: Matrix, cell: Cell) -> str:
    """The file."""
    made = contents(matrix, cell.framework_name, cell.framework, cell.release, cell.build)
    if cell.slim_sm:  # what else there was is left out
        made |= {key: [cell.slim_sm] for key in ("sms", "kernel_sms") if made[key]}
    return json.dumps(made, indent=1) + "\n"


def contents(
    matrix: Matrix, framework_name: str, framework: Framework, release: Release, build: Build
) -> dict[str, Any]:
    """What the runtime reads, as plain data."""

    def holds(row: Setting | NotSet | DeviceChoice) -> bool:
        ours = not row.frameworks or framework_name in row.frameworks
        return ours and (not row.accelerators or build.accelerator in row.accelerators)

    flags = framework.server.flags
    settings = [
        row
        for row in matrix.tuning.settings
        if holds(row) and (row.kind != "flag" or flags.parallel)
    ]
    return {
        "schema": 1,
        "framework": framework_name,
        "title": framework.title,
        "version": release.version,
        "build": build.name,
        "accelerator": build.accelerator.value,
        "cuda": build.cuda,
        "driver_floor": build.driver_floor,
        "sms": list(build.sms),
        "kernel_sms": list(build.kernel_sms),
        "server": {
            "port": framework.server.port,
            "health": framework.server.health,
            "model_flags": [flag for flag in (flags.model, *flags.model_also) if flag],
            "model_variable": flags.model_variable,
            "parallel_flags": [flags.parallel, *flags.parallel_also] if flags.parallel else [],
            "parallel_variable": flags.parallel_variable,
            "parallel_all": flags.parallel_all,
            "spreading_flags": list(flags.spreading),
            "shrinking_flags": list(flags.shrinking),
            "hosts_flags": list(flags.hosts),
            "binding_flags": list(flags.binding),
            "dtype_flag": flags.dtype,
        },
        "rules": {
            rule.name: {"demands": rule.demands, "why": rule.why, "source": rule.source}
            for rule in rules.RULES
            if rule.name in _ASKED and build.driver_floor
        },
        "caches": [{"variable": row.variable, "folder": row.folder} for row in matrix.caches],
        "device_choices": [
            {"variable": row.variable, "ours": list(row.ours)}
            for row in matrix.device_choices
            if holds(row)
        ],
        "tuning": [
            {
                "kind": row.kind,
                "name": flags.parallel if row.kind == "flag" else row.name,
                "rule": row.rule,
                "instead": list(row.instead),
                "enabled": row.enabled,
                "why": row.why,
                "source": row.source,
                "effect": row.effect,
            }
            for row in settings
        ],
        "not_set": [
            {"name": row.name, "why": row.why, "source": row.source, "effect": row.effect}
            for row in matrix.tuning.not_set
            if holds(row)
        ],
    }

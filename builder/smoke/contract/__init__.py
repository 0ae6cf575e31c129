"""What everybody may expect of an image, whatever it serves: ten checks, and more by framework.

A check is a function: it returns what it saw, and raises BuildError for what is wrong; what was
asked of an engine and did not come about is wrong, too. A check is skipped where the engine says
by an UnsupportedError that it cannot, or where a program needs a device that this host has not.
Images inherit them: `ALL`, `INSTALLED` where there are wheels in it, `OWN` of its framework.
"""

from __future__ import annotations

from functools import partial

from builder.engines.base import Engine
from builder.model import Cell
from builder.smoke.contract import confinement, description, leaks, processes, release
from builder.smoke.report import OnCheck, SmokeReport, checked
from builder.smoke.subject import Subject

Named = tuple[str, release.Check]
ALL: tuple[Named, ...] = (
    ("user", confinement.user),
    ("any-uid", confinement.any_uid),
    ("read-only", confinement.read_only),
    ("no-home", confinement.no_home),
    ("no-network", confinement.no_network),
    ("sigterm", processes.sigterm),
    ("zombies", processes.zombies),
    ("tmpdir", confinement.tmpdir),
    ("contents", leaks.contents),
    ("metadata", description.metadata),
)
# Of images that we install a framework into; upstream's are their own affair.
INSTALLED: tuple[Named, ...] = (("version", release.version),)
# What README.md has users type after an image's name, and what upstream's images can tell.
OWN: dict[str, tuple[Named, ...]] = {
    "ray": (("program", release.program("ray", "--version")),),
    "tensorrt-llm": (("version", release.distribution("tensorrt_llm")),),
    # That of 3.3.7 calls itself 3.3.6-dev0:
    # https://github.com/huggingface/text-generation-inference/blob/v3.3.7/Cargo.toml
    "tgi": (
        ("program", release.program("text-generation-launcher", "--version", is_release=False)),
    ),
    # Its options depend on the device, which it looks for before it reads them.
    "vllm": (("program", release.program("vllm", "--version", on_device=True)),),
}


def check_contract(
    cell: Cell,
    engine: Engine,
    image: str,
    on_check: OnCheck,
    *,
    static: bool = False,
    timeout: float = 600.0,
) -> SmokeReport:
    """Run all checks, also after one fails; `static` starts no server.

    `timeout` is how many seconds the server may take to become healthy.
    """
    subject = Subject(cell=cell, engine=engine, image=image, static=static, timeout=timeout)
    checks = []
    for name, check in checks_of(cell):
        on_check(name)
        checks.append(checked(name, partial(check, subject)))
    return SmokeReport(cell_id=cell.id, image=image, engine=engine.name, checks=tuple(checks))


def checks_of(cell: Cell) -> tuple[Named, ...]:
    """Those of every image, then of every one with wheels, then the framework's own."""
    installed = () if cell.build.wrap else INSTALLED
    return (*ALL, *installed, *OWN.get(cell.framework_name, ()))

"""Who may import whom: the third column of the table of rooms."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.support import ROOT

BUILDER = ROOT / "builder"
FILES = sorted(BUILDER.rglob("*.py"))

# Room -> what of ours it may import, itself aside; None: everything but what is named as closed.
MAY: dict[str, set[str] | None] = {
    "facts": set(),
    "model": {"errors", "facts"},
    "errors": set(),
    "project": set(),
    "naming": set(),
    "zstd": set(),
    "manifest": {"facts", "matrix", "model"},
    "proc": {"errors"},
    "matrix": {"facts", "model", "errors"},
    "plan": {"facts", "model", "errors"},
    "lock": {"facts", "model", "errors", "proc", "project"},
    "render": {"facts", "model", "errors", "plan"},
    "site": {"facts", "model", "errors", "proc"},
    "engines": {"facts", "model", "errors", "naming", "proc", "project", "site"},
    "changes": {"model", "errors", "proc", "project"},
    "bases": {"model", "errors", "project"},
    "prepare": {
        "manifest",
        "facts",
        "model",
        "errors",
        "naming",
        "project",
        "plan",
        "lock",
        "bases",
        "render",
    },
    "context": {"model", "errors", "lock", "site", "engines", "prepare"},
    "registry": {"engines", "errors", "proc", "site"},
    "publish": {"engines", "errors", "naming", "registry", "zstd"},
    "copies": {"engines", "errors", "publish", "registry", "site"},
    "inspect": {"engines", "errors", "facts", "proc", "runtime", "zstd"},
    "build": None,
    "sizes": {"engines", "errors", "model"},
    "host": {"errors", "facts", "matrix", "model", "proc"},
    "deploy": {"errors", "facts", "host", "model", "plan"},
    "smoke": {"engines", "facts", "model", "errors", "proc", "project"},
    "cli": None,
    "runtime": set(),
    "servers": set(),
    "__init__": set(),
}
CLOSED = {"build": {"cli", "sizes", "smoke"}, "cli": {"runtime"}}
# Their files are in images, where there is no builder.
SHIPPED = ("runtime", "servers")
# The slimmer's parsers know no image; what reads libraries on a host reads them with those.
LENT = {"inspect": "builder.runtime.slim"}
# Their text is run in images.
INSIDE = BUILDER / "smoke/contract/inside.py", BUILDER / "sizes/inside.py"


def room_of(file: Path) -> str:
    return file.relative_to(BUILDER).parts[0].removesuffix(".py")


ROOMS = sorted({room_of(file) for file in FILES})


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Each imported module's full name, also those imported within functions."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            # What is shipped is a package by another name in an image, so it imports relatively.
            if room_of(file) in SHIPPED and node.level == 1:
                module = f"builder.{room_of(file)}.{module}".removesuffix(".")
            else:
                assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            # `from builder import proc` imports the room proc; __version__ is no room.
            if module == "builder":
                for alias in node.names:
                    yield f"builder.{alias.name}", node.lineno
            else:
                yield module, node.lineno


def rooms_imported(file: Path) -> Iterator[tuple[str, int]]:
    for module, line in imports(file):
        parts = module.split(".")
        if parts[0] == "builder" and len(parts) > 1 and parts[1] != "__version__":
            yield parts[1], line


def test_every_room_has_its_rule() -> None:
    assert set(ROOMS) <= set(MAY), "say in the table what the new room may import"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_it_may(room: str) -> None:
    allowed = MAY[room]
    for file in FILES:
        if room_of(file) != room:
            continue
        for other, line in rooms_imported(file):
            place = f"{file.relative_to(ROOT)}:{line}: {room} imports {other}"
            assert other not in CLOSED.get(room, set()), place
            assert allowed is None or other == room or other in allowed, place


def test_nobody_imports_what_is_shipped() -> None:
    for file in FILES:
        lent = LENT.get(room_of(file))
        for module, line in imports(file):
            room = [*module.split("."), ""][1] if module.startswith("builder.") else ""
            own = room_of(file) == room or (lent and f"{module}.".startswith(f"{lent}."))
            assert room not in SHIPPED or own, f"{file}:{line}"


@pytest.mark.parametrize("room", SHIPPED)
def test_what_is_shipped_does_not_know_its_package(room: str) -> None:
    """In an image the servers are `servers`, here `builder.servers`."""
    for file in (BUILDER / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(), feature_version=(3, 10))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] not in {"builder", room}, file


def test_the_runtime_imports_the_standard_library_only() -> None:
    """Its files run alone, in an image that has no builder."""
    for file in FILES:
        if room_of(file) == "runtime":
            for module, line in imports(file):
                ours = module.startswith("builder.runtime")
                assert ours or module.split(".")[0] in sys.stdlib_module_names, f"{file}:{line}"


@pytest.mark.parametrize(
    "file",
    [*sorted((BUILDER / "runtime").rglob("*.py")), *INSIDE],
    ids=lambda file: str(file.relative_to(BUILDER)),
)
def test_the_runtime_is_python_3_9(file: Path) -> None:
    ast.parse(file.read_text(), feature_version=(3, 9))
    text = file.read_text()
    assert "from __future__ import annotations" in text or "|" not in text


_EXITS = {"print", "exit", "quit", "breakpoint", "input"}
_EXIT_METHODS = {
    ("sys", "exit"),
    ("os", "_exit"),
    ("os", "abort"),
    ("click", "echo"),
    ("click", "secho"),
    ("rich", "print"),
    ("sys.stdout", "write"),
    ("sys.stderr", "write"),
}


def outbursts(file: Path) -> Iterator[tuple[str, int]]:
    """Calls that print or exit."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in _EXITS or tuple(name.rpartition(".")[::2]) in _EXIT_METHODS:
                yield name, node.lineno
        elif isinstance(node, ast.Raise) and node.exc:
            name = ast.unparse(node.exc).partition("(")[0]
            if name in {"SystemExit", "KeyboardInterrupt"}:
                yield name, node.lineno


def test_only_the_command_line_prints_and_exits() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in FILES
        if room_of(file) not in {"cli", "runtime", "__main__"}
        and file not in {BUILDER / "servers/__main__.py", *INSIDE}
        for name, line in outbursts(file)
    ]
    assert found == []


def test_only_proc_starts_processes() -> None:
    """One door: it redacts, times and explains."""
    for file in FILES:
        if room_of(file) not in {"proc", *SHIPPED}:
            called = {
                ast.unparse(node.func)
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.Call)
            }
            doors = {"subprocess.run", "subprocess.Popen", "os.system", "os.popen", "os.execvp"}
            assert not called & doors, file

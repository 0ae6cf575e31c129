"""Closures and their locks: the only room that resolves versions, through uv.

A lock is a folder `images/locks/<closure>/` with one requirements file per layer, every line
pinned and hashed. Its header carries a digest of what was asked, so that a stale lock is noticed
without a network.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from builder import proc
from builder.errors import BuildError, Place, UserError, text_of
from builder.facts import Matrix
from builder.model import Closure, Lock, LockLayer, digest_of_pins, seal_of
from builder.project import Project

TOOLS = "tools.txt"
FRAMEWORK_LAYER = "framework"
_HINT = "run `imgbuild lock`"
# Five times as fast as MULTILINE's "^", which is tried at each character of 300 KB.
_PIN = re.compile(r"\n([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)")
_LAYERS = re.compile(r"^# layers: (.+)$", re.MULTILINE)
_INPUTS = re.compile(r"^# inputs: (sha256:[0-9a-f]{64})$", re.MULTILINE)


def read(project: Project, matrix: Matrix, closure: Closure, cell_id: str = "") -> Lock:
    """The committed lock of a closure; raises UserError when there is none, or a stale one.

    `cell_id` is of a cell that wants it, for the error to name.
    """
    for folder in project.lock_dirs:
        if (folder / closure.id).is_dir():
            return _read(folder, matrix, closure)
    which = f" --matrix {cell_id}" if cell_id else ""
    raise UserError(
        f"no lock for {closure.id}",
        place=Place(project.locks / closure.id),
        hint=f"run `imgbuild lock{which}`, which asks the package index",
    )


def _read(folder: Path, matrix: Matrix, closure: Closure) -> Lock:
    layers, named, inputs = [], set[str](), inputs_digest(matrix, closure)
    for name in _order(matrix):
        file = folder / closure.id / f"{name}.txt"
        if not file.is_file():
            continue
        text = text_of(file, _HINT)
        found = _INPUTS.search(text)
        if not found or found.group(1) != inputs:
            raise UserError(
                "is stale: matrix.yaml asks for something else by now",
                place=Place(file),
                hint=_HINT,
            )
        named |= set(listed[1].split()) if (listed := _LAYERS.search(text)) else set()
        path = f"{closure.id}/{name}.txt"
        layer = LockLayer(name=name, path=path, text=text, pins=_pins(text))
        if seal_of(text) != layer.digest:
            raise UserError(
                "was changed by hand: its pins are not those that were resolved",
                place=Place(file),
                hint=_HINT,
            )
        layers.append(layer)
    if not layers or named != {layer.name for layer in layers}:
        raise UserError("is incomplete", place=Place(folder / closure.id), hint=_HINT)
    return Lock(closure_id=closure.id, layers=tuple(layers))


def _pins(text: str) -> tuple[tuple[str, str], ...]:
    """Name and version of each line that pins one."""
    return tuple(_PIN.findall(f"\n{text}"))


def _order(matrix: Matrix) -> tuple[str, ...]:
    """All layers of wheels, from the one that changes least."""
    return (*(layer.name for layer in matrix.layers), FRAMEWORK_LAYER)


def tools_path(project: Project) -> Path:
    """The lock of the tools that a build uses; raises UserError when it is missing."""
    for folder in project.lock_dirs:
        if (folder / TOOLS).is_file():
            return folder / TOOLS
    raise UserError("no such file", place=Place(project.locks / TOOLS), hint=_HINT)


def tools_text(project: Project) -> str:
    """What that lock says; raises UserError when it is missing or no text."""
    return text_of(tools_path(project), _HINT)


def tools_pins(project: Project) -> dict[str, str]:
    """Name -> version of the tools that a build uses."""
    return dict(_pins(tools_text(project)))


def inputs_digest(matrix: Matrix, closure: Closure) -> str:
    """Digest of all that decides a resolution, layers included; not of the tool that does it."""
    build = closure.build
    asked = {
        "requirements": build.requirements,
        "constraints": build.constraints,
        "exclude": _excluded(matrix, closure),
        **({"sdists": build.sdists} if build.sdists else {}),
        "exclude_newer": build.date.isoformat(),
        "index": build.index.url if build.index else None,
        "python": closure.python,
        "platform": platform(closure),
        "layers": [(layer.name, layer.packages) for layer in matrix.layers],
        "core": closure.framework.core,
    }
    text = json.dumps(asked, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _excluded(matrix: Matrix, closure: Closure) -> tuple[str, ...]:
    """What stays out of a resolution: what a build does not need, and what its image brings."""
    build = closure.build
    return (*build.exclude, *(matrix.os[build.torch_of].brings if build.torch_of else ()))


def platform(closure: Closure) -> str:
    """uv's name of the oldest platform that the closure must install on."""
    return f"{closure.machine}-manylinux_{closure.glibc.replace('.', '_')}"


def resolve(
    matrix: Matrix, closure: Closure, env: Mapping[str, str], redact: proc.Redactor
) -> dict[str, str]:
    """Ask the index through uv; returns file name -> text for the closure's lock folder.

    `env` points uv at the site's indexes. Raises BuildError with uv's own explanation when the
    closure has no solution.
    """
    build = closure.build
    with tempfile.TemporaryDirectory(prefix="imgbuild-lock-") as scratch:
        folder = Path(scratch)
        args = [
            *_compile(),
            "--python-version",
            closure.python,
            "--python-platform",
            platform(closure),
        ]
        args += [part for name in build.sdists for part in ("--no-binary", name)]
        args += ["--exclude-newer", _midnight(build.date.isoformat())]
        args += ["--index-strategy", "unsafe-best-match"]
        if build.constraints:
            args += ["--constraints", _write(folder / "constraints.txt", build.constraints)]
        if excluded := _excluded(matrix, closure):
            args += ["--excludes", _write(folder / "excludes.txt", excluded)]
        text = proc.capture(
            proc.Command(
                args=tuple(args),
                env=_only(env),
                cwd=folder,
                stdin="\n".join(build.requirements) + "\n",
                timeout=600,
                redact=redact,
            )
        ).stdout
    _refuse_strangers(closure, text)
    return _split(matrix, closure, text)


def _refuse_strangers(closure: Closure, text: str) -> None:
    """No local version that was not asked for.

    To a resolver 2.13.0+cpu is newer than 2.13.0: one index of CPU wheels among the site's would
    take CUDA out of a closure without a word.
    """
    for name, version in _pins(text):
        if "+" in version and f"{name}=={version}" not in closure.build.requirements:
            raise UserError(
                f"{closure.id}: the index answers {name} {version}, which nobody asked for",
                hint="take that index out of pip's and uv's settings for `imgbuild lock`",
            )


def resolve_tools(matrix: Matrix, env: Mapping[str, str], redact: proc.Redactor) -> str:
    """Pin and hash the build-time tools; returns the text of tools.txt."""
    wanted = "".join(f"{name}=={tool.version}\n" for name, tool in matrix.tools.items())
    args = [*_compile(), "--no-deps", "--universal"]
    command = proc.Command(
        args=tuple(args), env=_only(env), stdin=wanted, timeout=120, redact=redact
    )
    text = proc.capture(command).stdout
    return f"# Tools of the build, not of the image. {_NOTICE}\n{text}"


def _compile() -> list[str]:
    """uv's part that all locks share; `--no-config`: a lock must not depend on who makes it."""
    return [
        *(uv(), "pip", "compile", "-", "--quiet", "--no-config", "--no-header", "--no-annotate"),
        *("--generate-hashes", "--only-binary", ":all:"),
    ]


# How uv works, not what it chooses.
_HARMLESS = re.compile(
    r"UV_(CACHE_DIR|CONCURRENT_\w+|\w+_TIMEOUT|HTTP_\w+|OFFLINE|\w*CERTS?|NATIVE_TLS)$"
)


def _only(env: Mapping[str, str]) -> dict[str, str | None]:
    """`env`, and none of this user's own UV_* settings that would change the answer."""
    own = {
        name: None for name in os.environ if name.startswith("UV_") and not _HARMLESS.match(name)
    }
    return {**own, **env}


_NOTICE = "Written by `imgbuild lock`; do not edit."


def _split(matrix: Matrix, closure: Closure, text: str) -> dict[str, str]:
    blocks: dict[str, list[str]] = {}
    for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        if found := _pins(block):
            blocks.setdefault(_layer_of(matrix, closure, found[0][0]), []).append(block)
        elif block.strip():
            raise BuildError(f"uv answered with a line that is no pin: {block.splitlines()[0]!r}")
    header = (
        f"# {{layer}} layer of {closure.id}. {_NOTICE}\n"
        f"# Packages as of {closure.build.date.isoformat()}.\n"
        f"# layers: {' '.join(name for name in _order(matrix) if name in blocks)}\n"
        f"# inputs: {inputs_digest(matrix, closure)}\n"
    )
    files = {}
    for layer, parts in blocks.items():
        pins = "".join(parts)
        seal = f"# pins: {digest_of_pins(pins)}\n"
        files[f"{layer}.txt"] = header.format(layer=layer) + seal + pins
    return files


def _layer_of(matrix: Matrix, closure: Closure, distribution: str) -> str:
    if distribution in closure.framework.core:
        return FRAMEWORK_LAYER
    layer = max(matrix.layers, key=lambda one: one.claim(distribution), default=None)
    if layer and layer.claim(distribution):
        return layer.name
    raise UserError(f"no layer of matrix.yaml holds {distribution!r}", hint='end with "*"')


def write(folder: Path, closure_id: str, files: Mapping[str, str]) -> bool:
    """Put a resolved lock in place, whole or not at all; says whether anything changed."""
    target = folder / closure_id
    old = (
        {f.name: f.read_bytes() for f in target.iterdir() if f.is_file()} if target.is_dir() else {}
    )
    if old == {name: text.encode() for name, text in files.items()}:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{closure_id}-", dir=folder))
    try:
        aside.chmod(0o755)
        for name, text in files.items():
            (aside / name).write_text(text, encoding="utf-8")
        _swap(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True


def _swap(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`, which comes back when that fails."""
    retired = new.with_name(f"{new.name}-retired")
    if not target.is_dir():
        new.rename(target)
        return
    target.rename(retired)
    try:
        new.rename(target)
    except BaseException:
        retired.rename(target)
        raise
    if retired.is_symlink():  # what it names is somebody else's
        retired.unlink()
    else:
        shutil.rmtree(retired)


def write_tools(folder: Path, text: str) -> None:
    """Put tools.txt in place, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{TOOLS}"
    aside.write_text(text, encoding="utf-8")
    aside.replace(folder / TOOLS)


def check(
    project: Project, matrix: Matrix, closures: Iterable[Closure], *, orphans: bool = True
) -> list[str]:
    """What is wrong with the committed locks, without asking anybody: missing, stale, orphaned.

    Without `orphans`, locks of other closures are left out: `closures` are not all there are.
    """
    problems = []
    wanted = {closure.id: closure for closure in closures}
    for closure in wanted.values():
        try:
            read(project, matrix, closure)
        except UserError as error:
            problems.append(str(error))
    try:
        pins = tools_pins(project)
        for name, tool in matrix.tools.items():
            if pins.get(name) != tool.version:
                problems.append(f"{project.locks / TOOLS}: {name} is not {tool.version}")
    except UserError as error:
        problems.append(str(error))
    if orphans and project.locks.is_dir():
        unused = {f.name for f in project.locks.iterdir() if f.is_dir()} - set(wanted)
        problems += [f"{project.locks / name}: no cell uses this lock" for name in sorted(unused)]
    return problems


def uv() -> str:
    """The uv that came with imgbuild."""
    from uv import find_uv_bin  # noqa: PLC0415 - only `lock` needs it

    return os.fsdecode(find_uv_bin())


def _midnight(day: str) -> str:
    return f"{day}T00:00:00Z"


def _write(file: Path, lines: Iterable[str]) -> str:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(file)

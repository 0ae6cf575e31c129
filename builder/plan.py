"""Cell and lock -> Recipe: which layers, in which order, with which environment and labels.

What follows from the lock alone is `Wheelhouse`, which cells of one closure share; `plan` adds what
is the cell's own.

Knows no engine and no file format. Layers stand in the order of how seldom they change: the OS,
then the wheels from CUDA's libraries up to the framework, then imgbuild's own runtime.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from builder.facts import Matrix, OperatingSystem
from builder.model import (
    Account,
    BaseKind,
    Bytecode,
    Cell,
    Closure,
    Fragment,
    Layer,
    Lock,
    Manifest,
    OsPackages,
    Recipe,
    Runtime,
    Slim,
    Step,
    Venv,
    Wheels,
)

VENV = "/opt/venv"
OWN = "/opt/imgbuild"
RUNTIME = f"{OWN}/runtime"
SERVERS = f"{OWN}/servers"
MANIFEST = f"{OWN}/manifest.json"  # beside the runtime, which looks for it there
# uid 1000 is what single-user hosts map; group 0 lets an arbitrary uid (OpenShift) write its home.
USER = Account(name="imgbuild", uid=1000, home="/home/imgbuild")
LABEL_PREFIX = "io.imgbuild"


@dataclass(frozen=True, kw_only=True)
class Wheelhouse:
    """What a closure's lock brings into every image that it is installed in."""

    lock: Lock
    layers: tuple[Layer, ...]
    licenses: tuple[str, ...]  # SPDX, that users must heed beside the framework's own


EMPTY = Wheelhouse(lock=Lock(closure_id=""), layers=(), licenses=())  # of an image that wraps


def wheelhouse(
    matrix: Matrix, closure: Closure, lock: Lock, slimmer: str | None = None
) -> Wheelhouse:
    """Lay out a lock's wheels; `lock` is the closure's.

    `slimmer` is the digest of the one that thins them for one GPU; None leaves them whole.
    """
    slim = (Slim(path=VENV, digest=slimmer),) if slimmer else ()
    return Wheelhouse(
        lock=lock,
        layers=tuple(_wheels(matrix, closure, lock, slim)),
        licenses=_licenses(matrix, lock),
    )


def plan(
    cell: Cell,
    wheels: Wheelhouse,
    *,
    uv_lock: str,
    manifest: str,
    kind: BaseKind,
    base_digest: str | None = None,
    excused: tuple[str, ...] = (),
) -> Recipe:
    """Lay out the image of `cell` on a base of `kind`; `wheels` are of `cell.closure(kind)`.

    `manifest` is the file that it carries, below images/manifests; `base_digest` is what a
    registry's base is pinned to; `excused` are globs of libraries without code for its GPU.
    """
    os_name, os = cell.system(kind)
    wrap = cell.build.wrap
    own_commands = _own_commands(cell.framework_name)
    python = wrap.python if wrap else f"{VENV}/bin/python3"
    layers = [
        Layer(
            name="os",
            why="the user that the image runs as"
            if wrap
            else "packages of the distribution, and the user that the image runs as",
            steps=(USER, own_commands) if wrap else (_packages(cell, os), USER),
        ),
        *wheels.layers,
        Layer(name="runtime", why="imgbuild's own part", steps=_own_parts(cell, manifest, python)),
    ]
    # A subreaper, too: it is not PID 1 under Apptainer, docker run --init and in pods that share a
    # PID namespace, and orphans would go to the host's init.
    init = (os.init, "-s", "--") if os.init and not wrap else ()
    server = cell.framework.server
    command = (python, SERVERS, server.module) if server.module else server.command
    compiler = os.compiler.env if cell.framework.compiles and not wrap else {}
    return Recipe(
        cell=cell,
        kind=kind,
        os_name=os_name,
        os=os,
        base=cell.registry_base if kind is BaseKind.REGISTRY else os.image,
        base_digest=base_digest if kind is BaseKind.REGISTRY else None,
        lock=wheels.lock,
        uv_lock=uv_lock,
        layers=tuple(layers),
        venv=None if wrap else VENV,
        python=python,
        user=USER,
        env=tuple(sorted({**cell.stack.env, **compiler, **cell.framework.env}.items())),
        labels=_labels(cell, wheels, os_name),
        entrypoint=(*init, python, "-ES", RUNTIME, "start", *command, "--"),
        health=(python, "-ES", f"{RUNTIME}/health.py", str(server.port), server.health),
        port=server.port,
        excused=excused,
    )


def _packages(cell: Cell, os: OperatingSystem) -> OsPackages:
    init = (os.init,) if os.init else ()
    compiler = os.compiler.packages if cell.framework.compiles else ()
    own = cell.framework.packages.get(os.family, ())
    return OsPackages(names=(*os.packages, *init, *compiler, *own))


def _own_commands(framework_name: str) -> Fragment:
    return Fragment(template=f"frameworks/{framework_name}.j2")


def _own_parts(cell: Cell, manifest: str, python: str) -> tuple[Step, ...]:
    servers = (Runtime(source="servers", path=SERVERS),) if cell.framework.server.module else ()
    return (
        *servers,
        Runtime(source="runtime", path=RUNTIME),
        Manifest(source=manifest, path=MANIFEST),
        Bytecode(python=python, path=RUNTIME),
    )


def _wheels(
    matrix: Matrix, closure: Closure, lock: Lock, slim: tuple[Slim, ...]
) -> Iterator[Layer]:
    """A layer for each part of the lock; the last has the framework and its own commands."""
    why = {layer.name: layer.why for layer in matrix.layers}
    why["framework"] = f"{closure.framework.title} itself, which changes most often"
    index = closure.build.index
    for number, part in enumerate(lock.layers):
        pinned = {name for name, _ in part.pins}
        wanted = index if index and pinned & set(index.packages) else None
        wheels = Wheels(
            lock=part.path,
            digest=part.digest,
            index=wanted.url if wanted else None,
            sdists=tuple(name for name in closure.build.sdists if name in pinned),
        )
        last = part is lock.layers[-1]
        fragment = (_own_commands(closure.framework_name),) if last else ()
        venv = (
            (Venv(path=VENV, sees_system=closure.build.torch_of is not None),)
            if number == 0
            else ()
        )
        yield Layer(name=part.name, why=why[part.name], steps=(*venv, wheels, *fragment, *slim))


def _licenses(matrix: Matrix, lock: Lock) -> tuple[str, ...]:
    """Those that matrix.yaml names for what the lock pins."""
    return tuple(
        spdx
        for layer in matrix.layers
        for pattern, spdx in layer.licenses.items()
        if any(fnmatchcase(distribution, pattern) for distribution in lock.pins)
    )


def _labels(cell: Cell, wheels: Wheelhouse, os_name: str) -> tuple[tuple[str, str], ...]:
    """Labels that are known before a build; the build adds the time and the base."""
    gpu = cell.gpu
    on = gpu.title if gpu else cell.stack.title
    description = f"{cell.framework.title} {cell.release.version} for {on}"
    vendors = cell.build.wrap.licenses if cell.build.wrap else cell.os.licenses
    licenses = " AND ".join(dict.fromkeys((cell.framework.license, *wheels.licenses, *vendors)))
    labels = {
        "org.opencontainers.image.title": cell.id,
        "org.opencontainers.image.description": description,
        "org.opencontainers.image.version": cell.release.version,
        "org.opencontainers.image.licenses": licenses,
        "org.opencontainers.image.url": cell.framework.url,
        "org.opencontainers.image.source": cell.framework.url,
        "org.opencontainers.image.documentation": cell.framework.url,
        "org.opencontainers.image.revision": f"v{cell.release.version}",
        "org.opencontainers.image.vendor": "imgbuild",
        "org.opencontainers.image.authors": f"{cell.framework.title}'s authors; image by imgbuild",
        "org.opencontainers.image.ref.name": cell.tag,
        f"{LABEL_PREFIX}.cell": cell.id,
        f"{LABEL_PREFIX}.os": os_name,
    }
    if wheels.lock.layers:
        labels[f"{LABEL_PREFIX}.lock"] = wheels.lock.closure_id
    if cell.stack.driver:
        labels[f"{LABEL_PREFIX}.driver"] = f">={cell.stack.driver}"
    if gpu:
        labels[f"{LABEL_PREFIX}.sm"] = gpu.sm
    return tuple(sorted(labels.items()))

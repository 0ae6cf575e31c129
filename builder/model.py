"""The frozen types that walk through imgbuild: a cell, its lock, its recipe."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from builder.errors import UserError
from builder.facts import MACHINES, Arch, Build, Framework, Gpu, OperatingSystem, Release, Stack


class BaseKind(StrEnum):
    """Where an image's base comes from."""

    REGISTRY = "registry"
    BOOTSTRAP = "bootstrap"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination, with the release that the rules chose for it."""

    id: str
    stack_name: str
    framework_name: str
    gpu_name: str | None
    os_name: str
    os_is_default: bool
    stack: Stack
    framework: Framework
    gpu: Gpu | None
    os: OperatingSystem
    # What to put together from packages where no registry answers; None: nothing can be.
    bootstrap_os_name: str | None
    bootstrap_os: OperatingSystem | None
    release: Release
    build: Build

    @property
    def arch(self) -> Arch:
        """The CPU that it is for."""
        return self.gpu.arch if self.gpu else "amd64"

    @property
    def slim_sm(self) -> str | None:
        """The compute capability that its wheels are thinned for, as "9.0"; None: for none."""
        return self.gpu.sm if self.gpu and not self.build.wrap else None

    @property
    def kinds(self) -> tuple[BaseKind, ...]:
        """The kinds of base that it can stand on."""
        return tuple(BaseKind) if self.bootstrap_os else (BaseKind.REGISTRY,)

    def system(self, kind: BaseKind) -> tuple[str, OperatingSystem]:
        """The name and the facts of the OS on that kind of base; raises UserError without one."""
        if kind is BaseKind.REGISTRY:
            return self.os_name, self.os
        if self.bootstrap_os_name is None or self.bootstrap_os is None:
            what = self.framework.title if self.build.wrap else self.os.title
            raise UserError(
                f"{self.id} cannot be bootstrapped: {what} comes from a registry only",
                hint=f"its base is {self.registry_base}",
            )
        return self.bootstrap_os_name, self.bootstrap_os

    @property
    def registry_base(self) -> str:
        """The image that a registry serves for it: upstream's, the stack's own, else the OS's."""
        if self.build.wrap:
            return self.build.wrap.image
        return self.stack.bases.get(self.os_name, self.os.image)

    @property
    def tag_id(self) -> str:
        """Its id as a tag, which may not hold every sign of an id."""
        return self.id.replace("@", "-")

    @property
    def tag(self) -> str:
        """Tag suffix that names version and stack, as `0.32.0-cpu`."""
        parts = [self.release.version, self.stack_name]
        parts += [self.gpu_name] if self.gpu_name else []
        parts += [] if self.os_is_default else [self.os_name]
        return "-".join(parts)

    def closure(self, kind: BaseKind) -> Closure | None:
        """The set of wheels that this cell installs on that kind of base; None: it wraps."""
        if self.build.wrap:
            return None
        return Closure(
            framework_name=self.framework_name,
            framework=self.framework,
            release=self.release,
            build=self.build,
            python=self.system(kind)[1].python,
            arch=self.arch,
        )


@dataclass(frozen=True, kw_only=True)
class Closure:
    """What one lock pins. Cells with equal closures share one lock."""

    framework_name: str
    framework: Framework
    release: Release
    build: Build
    python: str
    arch: Arch = "amd64"

    @property
    def glibc(self) -> str:
        """The highest manylinux floor in it."""
        return self.build.glibc or self.release.glibc or ""

    @property
    def machine(self) -> str:
        """The CPU as wheels name it."""
        return MACHINES[self.arch]

    @property
    def id(self) -> str:
        python = "py" + self.python.replace(".", "")
        parts = (self.framework_name, self.release.version, self.build.name, python, self.machine)
        return "-".join(parts)


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A closure's committed lock: its layers in order, each with its path and its pins."""

    closure_id: str
    layers: tuple[LockLayer, ...] = ()

    @cached_property
    def pins(self) -> dict[str, str]:
        """Distribution name -> exact version, over all layers."""
        return {name: version for layer in self.layers for name, version in layer.pins}


@dataclass(frozen=True, kw_only=True)
class LockLayer:
    """One file of a lock: a layer's pins."""

    name: str
    path: str  # relative to images/locks
    text: str
    pins: tuple[tuple[str, str], ...]

    @cached_property
    def digest(self) -> str:
        """What tells this layer's pins from any others."""
        return digest_of_pins(self.text)


def digest_of_pins(text: str) -> str:
    """First 12 hex digits of the SHA-256 of a lock's pins; comments do not count."""
    pins = "".join([line for line in text.splitlines(keepends=True) if line[0] != "#"])
    return hashlib.sha256(pins.encode()).hexdigest()[:12]


_SEAL = re.compile(r"^# pins: ([0-9a-f]{12})$", re.MULTILINE)


def seal_of(text: str) -> str:
    """The digest of its pins that a lock says it has, in its line `# pins: DIGEST`, or ""."""
    seal = _SEAL.search(text)
    return seal[1] if seal else ""


# Steps: what a layer does, without saying in which file format or with which engine.


@dataclass(frozen=True, kw_only=True)
class OsPackages:
    """Install distribution packages."""

    names: tuple[str, ...]
    kind: str = "os-packages"


@dataclass(frozen=True, kw_only=True)
class Account:
    """Create the unprivileged user that the image runs as."""

    name: str
    uid: int
    home: str
    kind: str = "account"


@dataclass(frozen=True, kw_only=True)
class Venv:
    """Create the virtual environment that all wheels go into."""

    path: str
    sees_system: bool  # the distributions of the interpreter that it is made with
    kind: str = "venv"


@dataclass(frozen=True, kw_only=True)
class Wheels:
    """Install one part of a lock with uv."""

    lock: str  # relative to images/locks
    digest: str  # of the lock
    index: str | None
    sdists: tuple[str, ...] = ()  # distributions that are built here, from their hashed source
    kind: str = "wheels"


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """Run the framework's own commands, from its template."""

    template: str
    kind: str = "fragment"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Copy a folder of builder/ into the image."""

    source: str
    path: str
    kind: str = "runtime"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Copy what the image carries of matrix.yaml."""

    source: str  # relative to images/manifests
    path: str
    kind: str = "manifest"


@dataclass(frozen=True, kw_only=True)
class Bytecode:
    """Compile what was copied: a start that does it takes twice as long, and keeps nothing."""

    python: str
    path: str
    kind: str = "bytecode"


@dataclass(frozen=True, kw_only=True)
class Slim:
    """Take out of what this layer has installed what the image's GPU never loads.

    For which SM is the recipe's to say: the layers of cells that differ in it are one text.
    """

    path: str
    digest: str  # of the slimmer
    source: str = "runtime/slim"
    kind: str = "slim"


Step = OsPackages | Account | Venv | Wheels | Fragment | Slim | Runtime | Manifest | Bytecode


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Steps that form one layer, and why they do."""

    name: str
    why: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that an image of one cell is made of; engines and formats come later."""

    cell: Cell
    kind: BaseKind
    os_name: str
    os: OperatingSystem
    base: str  # image reference that a registry would serve
    base_digest: str | None  # that the reference had when it was locked; None: by tag
    lock: Lock
    uv_lock: str  # relative to images/locks
    layers: tuple[Layer, ...]
    venv: str | None  # None: upstream's image has its own
    python: str  # that imgbuild's own parts run with
    user: Account
    env: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, str], ...]
    entrypoint: tuple[str, ...]
    health: tuple[str, ...]
    port: int
    # Globs of libraries that need no code for the GPU that it is thinned for.
    excused: tuple[str, ...] = ()

    @property
    def repository(self) -> str:
        return self.cell.framework_name

    @property
    def pinned_base(self) -> str:
        """The base as engines take it: by its digest, where that is known, else by its tag."""
        if self.base_digest is None:
            return self.base
        return f"{re.sub(r':[^:/]+$', '', self.base)}@{self.base_digest}"

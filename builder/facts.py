"""What matrix.yaml says: the tables that rules choose by.

Facts are pydantic models, because they are parsed from YAML and are their own schema.
"""

from __future__ import annotations

import datetime
import re
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._]*(-[a-z0-9._]+)*$")]
Version = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)*([a-z]+\d+|\.post\d+)?$")]
# https://www.debian.org/doc/debian-policy/ch-controlfields.html#source
OsPackage = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
# No credentials: they are the site's, and a matrix is committed.
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s@\"'`$\\]+$")]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Arch = Literal["amd64", "arm64"]  # as OCI images name CPU architectures
Family = Literal["debian", "rhel", "suse"]  # of distributions: who installs packages alike
MACHINES: dict[Arch, str] = {"amd64": "x86_64", "arm64": "aarch64"}  # as wheels name them
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^(/[\w.+-]+)+$")]
# One that PATH finds, or where it lies; nothing that a shell would take apart.
Program = Annotated[str, StringConstraints(pattern=r"^([\w.+-]+|(/[\w.+-]+)+)$")]

# Of the environment, and what it is set to.
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Environment = dict[Variable, str]


class Accelerator(StrEnum):
    """What computes: its wheels and its device checks differ."""

    CPU = "cpu"
    CUDA = "cuda"
    TPU = "tpu"


# A tag or a digest is part of it.
ImageReference = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-zA-Z0-9._:/-]*(:[\w][\w.-]*|@sha256:[0-9a-f]{64})$"),
]

# YAML has text where Python has the enum; everything else stays strict.
AcceleratorName = Annotated[Accelerator, Field(strict=False)]


class Fact(BaseModel):
    """Base of every fact: unknown keys are errors, values are not coerced, nothing mutates."""

    # Deferred: only Matrix is ever validated, which builds the others with it.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class Archive(Fact):
    """Where a distribution's packages come from, as its images name it."""

    mirror: Url
    security: Url  # where the suite's security fixes are
    suite: Name
    components: tuple[Name, ...] = ("main",)
    usr_is_merged: bool = False  # whether the suite has that package, which needs no Perl


class Compiler(Fact):
    """A C++ compiler that PyTorch's headers accept (C++17), and what makes programs take it."""

    packages: tuple[OsPackage, ...]
    env: Environment = Field(default_factory=dict)


class OperatingSystem(Fact):
    """A distribution, or a vendor's image of one: its packages, and what it brings."""

    title: Text
    family: Family
    python: Version  # of `interpreter`
    interpreter: AbsolutePath = "/usr/bin/python3"
    packages: tuple[OsPackage, ...]  # of every image: Python, its headers, TLS roots
    pip: OsPackage = "python3-pip"
    compiler: Compiler
    init: OsPackage | None = None  # reaps and forwards signals; a package and its program
    glibc: Version
    image: ImageReference  # the registry's image, tag included
    archive: Archive | None = None  # None: it cannot be bootstrapped, a registry must serve it
    bootstrap_as: Name | None = None  # the OS to bootstrap instead of this one
    # Python distributions that the interpreter has, for builds that name this OS in `torch_of`.
    brings: tuple[Name, ...] = ()
    licenses: tuple[Text, ...] = ()  # SPDX, of what a vendor put into the image
    end_of_life: datetime.date  # the last day of its security fixes that need no contract
    source: Text


class Stack(Fact):
    """What the host offers: an accelerator and, for CUDA, the oldest driver it may have."""

    title: Text
    accelerator: AcceleratorName
    os: Name
    driver: Version | None = None
    bases: dict[Name, ImageReference] = Field(
        default_factory=dict
    )  # OS -> image to use in its place
    env: Environment = Field(default_factory=dict)
    source: Text


class Gpu(Fact):
    """A GPU model that a cell may be made for."""

    title: Text
    sm: Version  # compute capability, as "9.0"
    driver: Version | None = None  # the oldest that knows it; None: CUDA 12's first does
    last_driver: Version | None = None  # the branch after which drivers know it no more
    arch: Arch = "amd64"  # of the CPU beside it
    geforce: bool = False  # NVIDIA's forward compatibility leaves these out
    source: Text


class Index(Fact):
    """A package index beside the default one, and the packages that only it has."""

    url: Url
    packages: tuple[Name, ...]
    why: Text


class Wrapped(Fact):
    """An upstream image that a cell takes as it is, with imgbuild's runtime on top."""

    image: ImageReference
    os: Name  # what it stands on
    licenses: tuple[Text, ...] = ()  # SPDX, of what is in it beside the framework
    python: Program = "python3"  # for the runtime, which needs nothing but the standard library
    released: datetime.date


class Build(Fact):
    """One set of wheels of a release, or its image: what to ask for, and where it runs."""

    name: Name
    accelerator: AcceleratorName
    wrap: Wrapped | None = None  # None: it is installed from wheels
    requirements: tuple[Text, ...] = ()
    constraints: tuple[Text, ...] = ()
    exclude: tuple[Name, ...] = ()
    sdists: tuple[Name, ...] = ()  # pure Python that upstream publishes as source alone
    torch_of: Name | None = None  # the OS whose own PyTorch it uses; None: it brings one
    exclude_newer: datetime.date | None = None  # packages as of this day; None where it wraps
    index: Index | None = None
    arches: tuple[Arch, ...] = ("amd64",)
    # Where it is narrower, or newer, than the release's.
    python: Text | None = None
    glibc: Version | None = None
    cuda: Version | None = None  # of the toolkit that the wheels are built with
    driver_floor: Version | None = None
    sms: tuple[Version, ...] = ()  # that torch's own kernels are compiled for
    kernel_sms: tuple[Version, ...] = ()  # that the framework's own are; () where nobody looked
    why: Text | None = None
    source: Text

    @property
    def date(self) -> datetime.date:
        """The day that it is of: everything in it was published by then."""
        date = self.wrap.released if self.wrap else self.exclude_newer
        assert date is not None  # noqa: S101 - misfits.py has refused it
        return date


class Release(Fact):
    """A framework's version, and the sets of wheels that it was published as."""

    version: Version
    # Both None where every build is an image: it brings its own.
    python: Text | None = None  # a specifier, as ">=3.11,<3.15"
    glibc: Version | None = None  # highest manylinux floor in its closure
    builds: tuple[Build, ...]
    source: Text


Option = Annotated[str, StringConstraints(pattern=r"^--?[A-Za-z][A-Za-z0-9_-]*$")]


class Flags(Fact):
    """What the server calls the options that everybody gives it; "" for an argument without one.

    And those by which a user arranges where the weights go, so that nothing is decided over them.
    """

    model: str = "--model"
    model_also: tuple[Option, ...] = ()  # its other spellings
    model_variable: Variable | None = None  # that says the same
    host: str = "--host"
    port: str = "--port"
    parallel: Option | None = None  # of tensor parallelism; None: the server has none
    parallel_also: tuple[Option, ...] = ()  # its other spellings
    parallel_variable: Variable | None = None  # that says the same
    parallel_all: bool = False  # whether the server takes all GPUs where nothing says how many
    spreading: tuple[Option, ...] = ()  # which GPUs the model is on, or a file that may say it
    shrinking: tuple[Option, ...] = ()  # what of the weights is on the GPUs, and how large
    hosts: tuple[Option, ...] = ()  # on which hosts the model is
    binding: tuple[Option, ...] = ()  # to which CPUs and memory its processes are bound
    # Of the weights' type; without it float32 is loaded in 16 bits. None: it is not known.
    dtype: Option | None = "--dtype"

    def arguments(self, model: str, host: str, port: str) -> tuple[str, ...]:
        """The options with their values; those without a name come first."""
        pairs = sorted(((self.model, model), (self.host, host), (self.port, port)), key=_named)
        return tuple(part for pair in pairs for part in pair if part)


def _named(pair: tuple[str, str]) -> bool:
    return bool(pair[0])


class Metrics(Fact):
    """Where the server tells Prometheus how it is, and which gauge says that it has too much."""

    path: Annotated[str, StringConstraints(pattern=r"^/\S*$")]
    load: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")]
    arguments: tuple[Option, ...] = ()  # without which the server has no metrics
    source: Text


class Server(Fact):
    """How the framework is started and asked how it is."""

    command: tuple[Text, ...] = ()
    module: Name | None = None  # of builder/servers, where the framework brings no server
    flags: Flags = Flags()
    port: Annotated[int, Field(gt=0, lt=65536)]
    health: Annotated[str, StringConstraints(pattern=r"^/\S*$")]
    metrics: Metrics | None = None  # None: it has none, or nobody has looked


class SmokeRun(Fact):
    """What the tiny model needs to be served, per accelerator."""

    args: tuple[str, ...]
    env: Environment = Field(default_factory=dict)
    shm_mb: Annotated[int, Field(gt=0, le=1 << 20)]  # MiB of /dev/shm
    module: Name | None = None  # imports without a GPU; None: upstream's image, which may have none
    help: tuple[Text, ...]  # prints the server's help without a GPU
    help_env: Environment = Field(default_factory=dict)
    # What makes it serve on the CPU where its device is missing; None: it cannot.
    cpu_env: Environment | None = None


class Framework(Fact):
    """An inference server: how it is installed, started, asked and proven."""

    title: Text
    url: Url
    license: Text
    install: Literal["wheels", "wrap"] = "wheels"
    note: Text | None = None  # what a user should know before choosing it
    server: Server
    packages: dict[Family, tuple[OsPackage, ...]] = Field(default_factory=dict)
    compiles: bool = False  # at run time, so that the image needs a C++ compiler
    core: tuple[Name, ...] = ()  # distributions that make up the framework's own layer
    env: Environment = Field(default_factory=dict)
    smoke: dict[AcceleratorName, SmokeRun]
    releases: tuple[Release, ...]


class WheelLayer(Fact):
    """A layer of wheels; a distribution is of the one whose longest matching pattern is longest."""

    name: Name
    packages: tuple[Text, ...]
    # Pattern of distributions -> SPDX, where users must heed more than the framework's licence.
    licenses: dict[Text, Text] = Field(default_factory=dict)
    why: Text

    def claim(self, distribution: str) -> int:
        """Characters of the longest pattern that matches it, 0: none does."""
        fit = (pattern for pattern in self.packages if fnmatchcase(distribution, pattern))
        return max(map(len, fit), default=0)


class Cache(Fact):
    """Something that a stack caches: the variable that places it, and its folder below the root."""

    variable: Variable
    folder: Annotated[str, StringConstraints(pattern=r"^[\w.-]+(/[\w.-]+)*$")]
    source: Text


class Setting(Fact):
    """What the tuner of an image sets where it starts, and why."""

    kind: Literal["env", "affinity", "memory", "flag"]
    name: Text  # a variable; what is bound; for a flag the server's own is taken
    rule: Name  # of builder/runtime/rules.py, which computes the value
    accelerators: tuple[AcceleratorName, ...] = ()  # () is all
    frameworks: tuple[Name, ...] = ()  # () is all
    instead: tuple[Option, ...] = ()  # by which a user says the same
    enabled: bool = True  # a knob without a measured gain is not
    why: Text
    source: Text
    effect: Text  # as measured, with where; or why it is not


class NotSet(Fact):
    """A popular variable or option that images leave alone, and why."""

    name: Variable | Option
    accelerators: tuple[AcceleratorName, ...] = ()  # () is all
    frameworks: tuple[Name, ...] = ()  # () is all
    why: Text
    source: Text
    effect: Text | None = None  # measured; most need no measurement


class Tuning(Fact):
    """What becomes of variables, masks and flags when an image starts."""

    settings: tuple[Setting, ...] = ()
    not_set: tuple[NotSet, ...] = ()


class DeviceChoice(Fact):
    """A variable by which a user chooses another device than the image's."""

    variable: Variable
    accelerators: tuple[AcceleratorName, ...]
    frameworks: tuple[Name, ...] = ()  # () is all
    ours: tuple[Text, ...]  # values that leave it at the image's, in lower case
    source: Text


class GpuCodeException(Fact):
    """Libraries that need no code for some GPUs, and why: builds and `imgbuild inspect` ask."""

    # A glob of a path's end, as "vllm/_qutlass_C.abi3.so"; a build's shell reads it between commas.
    library: Annotated[str, StringConstraints(pattern=r"^[\w.+*?\[\]!/-]+$")]
    # For GPUs of a lower compute capability, and for those of a higher one; neither: for any.
    below: Version | None = None
    above: Version | None = None
    why: Text
    source: Text

    def holds(self, sm: str) -> bool:
        """Whether it does for a GPU of this compute capability, as "9.0"."""
        own = _number(sm)
        lower = self.below is not None and own < _number(self.below)
        higher = self.above is not None and own > _number(self.above)
        return lower or higher or (self.below is None and self.above is None)


def _number(sm: str) -> tuple[int, ...]:
    return tuple(map(int, sm.split(".")))


class Tool(Fact):
    """A program that works during a build and stays out of the image."""

    version: Version
    why: Text


class Matrix(Fact):
    """All of matrix.yaml."""

    schema_version: Literal[1] = Field(alias="schema")
    as_of: datetime.date  # the day that the facts are of
    tools: dict[Name, Tool]
    layers: tuple[WheelLayer, ...]
    caches: tuple[Cache, ...] = ()
    device_choices: tuple[DeviceChoice, ...] = ()
    tuning: Tuning = Tuning()
    gpu_code_exceptions: tuple[GpuCodeException, ...] = ()
    os: dict[Name, OperatingSystem]
    stacks: dict[Name, Stack]
    gpus: dict[Name, Gpu]
    frameworks: dict[Name, Framework]
    cells: Annotated[tuple[Text, ...], Field(min_length=1)]
    # Cell, or a glob of several -> compressed megabytes that its image may have; the first counts.
    budgets: dict[Text, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)

    def budget(self, cell_id: str) -> int | None:
        """Megabytes (10^6) that a cell's image may have, compressed; None: nobody says."""
        found = (mb for cells, mb in self.budgets.items() if fnmatchcase(cell_id, cells))
        return next(found, None)

    def excused(self, sm: str) -> tuple[str, ...]:
        """Globs of libraries that need no code for a GPU of this compute capability, as "9.0"."""
        return tuple(row.library for row in self.gpu_code_exceptions if row.holds(sm))

    def __hash__(self) -> int:
        """That of this one object: what is computed from it is cached by it."""
        return id(self)


_NUMBERS = re.compile(r"\d+")


@cache
def version_key(version: str) -> tuple[int, ...]:
    """Order dotted versions by their numbers: "12.10" comes after "12.9"."""
    return tuple(int(number) for number in _NUMBERS.findall(version))

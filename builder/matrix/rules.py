"""Which release of a framework runs where: each rule answers with its reason to refuse.

A release's build is usable for a cell when no rule objects. `choose` takes the newest such
release; when there is none, the reasons of all candidates become the error.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from builder.errors import UserError
from builder.facts import Arch, Build, Framework, Gpu, OperatingSystem, Release, Stack, version_key


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a build would run."""

    stack: Stack
    gpu: Gpu | None
    systems: tuple[OperatingSystem, ...]  # those that its wheels go into
    os_named: bool = False  # the user asked for one, other than the stack's own
    torch_of: str | None  # the OS, where that brings PyTorch
    as_of: datetime.date  # the day that the facts are of

    @property
    def arch(self) -> Arch:
        return self.gpu.arch if self.gpu else "amd64"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A build of a release, before the rules have spoken, and where it would run."""

    release: Release
    build: Build
    place: Place


Check = Callable[[Candidate], str | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What must hold, why, who says so, and the check that answers how it does not."""

    name: str
    demands: str
    why: str
    source: str
    check: Check
    of_wheels: bool = False  # says nothing of an upstream image, which brings all of its own

    def asks(self, build: Build) -> bool:
        """Whether it is for such a build at all."""
        return not (self.of_wheels and build.wrap)


RULES: list[Rule] = []


def _rule(why: str, source: str, *, of_wheels: bool = False) -> Callable[[Check], Check]:
    """A check becomes a rule; its docstring's first line is what it demands."""

    def register(check: Check) -> Check:
        demands = (check.__doc__ or "").strip().splitlines()[0]
        RULES.append(
            Rule(
                name=check.__name__,
                demands=demands,
                why=why,
                source=source,
                check=check,
                of_wheels=of_wheels,
            )
        )
        return check

    return register


@_rule(
    why="a GPU in a cell's name would promise what the stack cannot use",
    source="imgbuild's own: a cell's name must be true",
)
def gpu_wanted(candidate: Candidate) -> str | None:
    """A GPU is named only where the stack can use it."""
    place = candidate.place
    if place.gpu and place.stack.accelerator != "cuda":
        return f"the stack has no CUDA for {place.gpu.title}"
    return None


@_rule(
    why="an upstream image brings its own system; another cannot be put under it",
    source="imgbuild's own: what is wrapped stays as it is",
)
def own_system(candidate: Candidate) -> str | None:
    """No OS is asked of a framework that is an upstream image."""
    if candidate.build.wrap and candidate.place.os_named:
        return f"it is an upstream image, which stands on {candidate.build.wrap.os}"
    return None


@_rule(
    why="wheels for one accelerator do not compute on another",
    source="each release's own metadata on pypi.org",
)
def accelerator(candidate: Candidate) -> str | None:
    """The build is for the stack's accelerator."""
    if candidate.build.accelerator is not candidate.place.stack.accelerator:
        return f"its {candidate.build.name} build is for {candidate.build.accelerator}"
    return None


@_rule(
    why="wheels and images hold machine code for one kind of CPU;"
    " GH200 and GB200 have Grace (arm64)",
    source="wheels' platform tags on pypi.org; developer.nvidia.com/grace-cpu",
)
def architecture(candidate: Candidate) -> str | None:
    """The CPU beside the GPU is one that the build was made for."""
    place, build = candidate.place, candidate.build
    if place.arch in build.arches:
        return None
    told = f"its {build.name} build is for {', '.join(build.arches)} CPUs"
    if place.gpu:
        return f"{told}, {place.gpu.title} has an {place.arch} one"
    return f"{told}, the stack's are {place.arch}"


@_rule(
    why="a system without security fixes is no base for a new image",
    source="the distribution's life-cycle page, named in its row",
    of_wheels=True,
)
def system_support(candidate: Candidate) -> str | None:
    """The distribution gets security fixes on the day that matrix.yaml is of."""
    for os in candidate.place.systems:
        if os.end_of_life < candidate.place.as_of:
            return f"{os.title} has had no fixes since {os.end_of_life}"
    return None


@_rule(
    why="two PyTorch builds in one image load each other's libraries",
    source="imgbuild's own; NGC's containers pin theirs in /etc/pip/constraint.txt",
    of_wheels=True,
)
def own_torch(candidate: Candidate) -> str | None:
    """A build that uses a system's own PyTorch goes onto that one, all others onto none such."""
    place, build = candidate.place, candidate.build
    if build.torch_of == place.torch_of:
        return None
    if place.torch_of is None:
        return f"its {build.name} build has no PyTorch, and neither has {place.systems[0].title}"
    brings = f"needs that of {build.torch_of}" if build.torch_of else "brings a PyTorch"
    return f"it {brings}, and {place.systems[0].title} has another"


@_rule(
    why="another driver does not see the GPU at all: Blackwell came with CUDA 12.8's, R570, and"
    " Volta left with R580",
    source="CUDA release notes, new features and table 3 (docs.nvidia.com/cuda); NVIDIA's driver"
    " support plan for Maxwell, Pascal and Volta",
)
def gpu_driver(candidate: Candidate) -> str | None:
    """The stack's driver knows the GPU."""
    gpu, have = candidate.place.gpu, candidate.place.stack.driver
    if gpu is None or have is None:
        return None
    if gpu.driver and version_key(have) < version_key(gpu.driver):
        return f"{gpu.title} needs driver {gpu.driver}, the stack promises {have}"
    if gpu.last_driver and version_key(have)[:1] > version_key(gpu.last_driver):
        return f"R{gpu.last_driver} is {gpu.title}'s last driver, the stack promises {have}"
    return None


@_rule(
    why="within a CUDA major version the first driver runs them all (minor-version compatibility);"
    " across it only NVIDIA's cuda-compat libraries help, on data-center GPUs, and no image here"
    " has them",
    source="CUDA compatibility guide, minor-version and forward compatibility"
    " (docs.nvidia.com/deploy/cuda-compatibility)",
)
def driver(candidate: Candidate) -> str | None:
    """The stack's driver is at least the first of the CUDA major version of the build."""
    build, place = candidate.build, candidate.place
    floor, have = build.driver_floor, place.stack.driver
    if not floor or not have or version_key(have) >= version_key(floor):
        return None
    told = f"its {build.name} build needs driver {floor}, the stack promises {have}"
    if place.gpu and place.gpu.geforce:
        told += f", and {place.gpu.title} has no forward compatibility"
    return told


def runs_on(sms: Iterable[str], sm: str) -> bool:
    """Whether machine code for any of `sms` runs on `sm`: same major, minor not above its own.

    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility
    """
    major, minor = version_key(sm)
    return any(m == major and n <= minor for m, n in map(version_key, sms))


@_rule(
    why='a GPU without machine code for it ends in "no kernel image is available"; PTX is no way'
    " out, since minor-version compatibility excludes its compiler",
    source="CUDA programming guide, binary compatibility; torch.cuda.get_arch_list() of each build",
)
def gpu_code(candidate: Candidate) -> str | None:
    """The build holds machine code for the GPU: same major SM, minor not above its own."""
    gpu, build = candidate.place.gpu, candidate.build
    if gpu is None or build.accelerator != "cuda" or runs_on(build.sms, gpu.sm):
        return None
    return f"its {build.name} build has GPU code for SM {', '.join(build.sms)}, not for {gpu.sm}"


@_rule(
    why="a framework compiles kernels of its own, often for fewer GPUs than torch does",
    source="cubins found in each framework's wheels",
)
def kernel_code(candidate: Candidate) -> str | None:
    """The framework's own kernels hold machine code for the GPU too, not torch's alone."""
    gpu, build = candidate.place.gpu, candidate.build
    if gpu is None or not build.kernel_sms or runs_on(build.kernel_sms, gpu.sm):
        return None
    have = ", ".join(build.kernel_sms)
    return f"its own kernels in {build.name} have GPU code for SM {have}, not for {gpu.sm}"


@cache
def _admits(specifier: str, version: str) -> bool:
    return version in SpecifierSet(specifier)


@_rule(
    why="the image uses the distribution's Python, which its vendor keeps patched",
    source="Requires-Python of each release on pypi.org; the distribution's package index",
    of_wheels=True,
)
def python(candidate: Candidate) -> str | None:
    """The distribution has a Python that the release supports."""
    wanted = candidate.build.python or candidate.release.python
    for os in candidate.place.systems if wanted else ():
        if not _admits(wanted or "", os.python):
            return f"it needs Python {wanted}, {os.title} has {os.python}"
    return None


@_rule(
    why='older ones end in "GLIBC_2.xx not found" at import',
    source="PEP 600: the highest manylinux tag among the wheels of the closure",
    of_wheels=True,
)
def glibc(candidate: Candidate) -> str | None:
    """The distribution's C library is not older than the wheels' manylinux floor."""
    wanted = candidate.build.glibc or candidate.release.glibc
    for os in candidate.place.systems if wanted else ():
        if version_key(os.glibc) < version_key(wanted or ""):
            return f"it needs glibc {wanted}, {os.title} has {os.glibc}"
    return None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the rules say of one build: rule name -> its objection, in the order of RULES.

    Empty where it fits.
    """

    release: Release
    build: Build
    objections: dict[str, str]


def objections(candidate: Candidate) -> Iterator[tuple[str, str]]:
    """Name and reason of each rule that objects, asked one by one."""
    for rule in RULES:
        if rule.asks(candidate.build) and (why := rule.check(candidate)):
            yield rule.name, why


def judge(candidate: Candidate) -> Verdict:
    """What every rule says of one build."""
    return Verdict(
        release=candidate.release, build=candidate.build, objections=dict(objections(candidate))
    )


def candidates(
    framework: Framework, place: Place, version: str | None = None
) -> Iterator[Candidate]:
    """Each build of the framework, the newest release first; `version` leaves one release."""
    for release in _newest_first(framework.releases):
        if version in (None, release.version):
            for build in release.builds:
                yield Candidate(release=release, build=build, place=place)


@lru_cache(maxsize=256)
def _newest_first_versions(versions: tuple[str, ...]) -> tuple[int, ...]:
    """Indexes of versions, the newest first."""
    return tuple(
        sorted(range(len(versions)), key=lambda index: Version(versions[index]), reverse=True)
    )


def _newest_first(releases: tuple[Release, ...]) -> Iterator[Release]:
    for index in _newest_first_versions(tuple(release.version for release in releases)):
        yield releases[index]


def choose(
    cell_id: str, framework: Framework, place: Place, version: str | None = None
) -> tuple[Release, Build]:
    """The newest release with a build that no rule refuses; raises UserError with the reasons.

    `version` leaves only that release to choose from.
    """
    reasons: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}  # builds for another accelerator say nothing of this place
    for candidate in candidates(framework, place, version):
        first = next(objections(candidate), None)
        if first is None:
            return candidate.release, candidate.build
        rule, why = first
        told_in = others if rule == accelerator.__name__ else reasons
        told_in.setdefault(why, []).append(candidate.release.version)
    reasons = reasons or others
    told = [f"{', '.join(dict.fromkeys(versions))}: {why}" for why, versions in reasons.items()]
    name = framework.title
    what = f"{name} {version} does not fit" if version else f"no release of {name} fits"
    raise UserError(f"{what} {cell_id}", hint="; ".join(told))

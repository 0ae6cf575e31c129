"""Which release of a framework runs where: each rule answers with its reason to refuse.

A release's build is usable for a cell when no rule objects. `choose` takes the newest such
release; when there is none, the reasons of all candidates become the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from builder.errors import UserError
from builder.model import Build, Framework, Gpu, OperatingSystem, Release, Stack, version_key

LOCKED_ARCH = "amd64"  # lock.py asks for x86-64 wheels


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A build of a release, before the rules have spoken, and where it would run."""

    framework: Framework
    release: Release
    build: Build
    stack: Stack
    gpu: Gpu | None
    systems: tuple[OperatingSystem, ...]


class Rule(Protocol):
    """A function whose docstring says what it demands, and which answers why that is not met."""

    __name__: str

    def __call__(self, candidate: Candidate, /) -> str | None: ...


def accelerator(candidate: Candidate) -> str | None:
    """The wheels are for the stack's accelerator."""
    if candidate.build.accelerator is not candidate.stack.accelerator:
        return f"its {candidate.build.name} wheels are for {candidate.build.accelerator}"
    return None


def driver(candidate: Candidate) -> str | None:
    """CUDA's minor-version compatibility: wheels need the first driver of their major version."""
    floor, have = candidate.build.driver_floor, candidate.stack.driver
    if floor and have and version_key(have) < version_key(floor):
        return f"its {candidate.build.name} wheels need driver {floor}, the stack promises {have}"
    return None


def runs_on(sms: Iterable[str], sm: str) -> bool:
    """Whether machine code for any of `sms` runs on `sm`: same major, minor not above its own.

    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility
    """
    major, minor = version_key(sm)
    return any(
        have_major == major and have_minor <= minor
        for have_major, have_minor in map(version_key, sms)
    )


def gpu_code(candidate: Candidate) -> str | None:
    """The wheels hold machine code for the GPU: same major SM, minor not above its own."""
    gpu, build = candidate.gpu, candidate.build
    if gpu is None or build.accelerator != "cuda" or runs_on(build.sms, gpu.sm):
        return None
    have = ", ".join(build.sms)
    return f"its {build.name} wheels have GPU code for SM {have}, not for {gpu.sm}"


def kernel_code(candidate: Candidate) -> str | None:
    """The framework's own kernels hold machine code for the GPU too, not torch's alone."""
    gpu, build = candidate.gpu, candidate.build
    if gpu is None or not build.kernel_sms or runs_on(build.kernel_sms, gpu.sm):
        return None
    have = ", ".join(build.kernel_sms)
    return f"its own kernels in {build.name} have GPU code for SM {have}, not for {gpu.sm}"


def gpu_wanted(candidate: Candidate) -> str | None:
    """A GPU is named only where the stack can use it."""
    if candidate.gpu and candidate.stack.accelerator != "cuda":
        return f"the stack has no CUDA for {candidate.gpu.title}"
    return None


def python(candidate: Candidate) -> str | None:
    """The distribution's own Python is one that the release supports."""
    for os in candidate.systems:
        if os.python not in SpecifierSet(candidate.release.python):
            return f"it needs Python {candidate.release.python}, {os.title} has {os.python}"
    return None


def glibc(candidate: Candidate) -> str | None:
    """The distribution's C library is not older than the wheels' manylinux floor."""
    for os in candidate.systems:
        if version_key(os.glibc) < version_key(candidate.release.glibc):
            return f"it needs glibc {candidate.release.glibc}, {os.title} has {os.glibc}"
    return None


def gpu_driver(candidate: Candidate) -> str | None:
    """The stack's driver knows the GPU: Blackwell came with CUDA 12.8's."""
    gpu, have = candidate.gpu, candidate.stack.driver
    if gpu and gpu.driver and have and version_key(have) < version_key(gpu.driver):
        return f"{gpu.title} needs driver {gpu.driver}, the stack promises {have}"
    return None


def architecture(candidate: Candidate) -> str | None:
    """The CPU beside the GPU is one that locks are made for: amd64."""
    if candidate.gpu and candidate.gpu.arch != LOCKED_ARCH:
        gpu = candidate.gpu
        return f"{gpu.title} has an {gpu.arch} CPU, and wheels are locked for {LOCKED_ARCH} only"
    return None


RULES: tuple[Rule, ...] = (
    gpu_wanted,
    architecture,
    gpu_driver,
    accelerator,
    driver,
    gpu_code,
    kernel_code,
    python,
    glibc,
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the rules say of one build: rule name -> its objection, in the order of RULES.

    Empty where it fits.
    """

    release: Release
    build: Build
    objections: dict[str, str]


def summary(rule: Rule) -> str:
    """What a rule demands, in one sentence."""
    return (rule.__doc__ or "").strip().splitlines()[0]


def judge(candidate: Candidate) -> Verdict:
    """What every rule says of one build."""
    found = {rule.__name__: why for rule in RULES if (why := rule(candidate))}
    return Verdict(release=candidate.release, build=candidate.build, objections=found)


def verdicts(
    framework: Framework, stack: Stack, gpu: Gpu | None, systems: tuple[OperatingSystem, ...]
) -> Iterator[Verdict]:
    """What the rules say of each build, the newest release first."""
    for release in sorted(framework.releases, key=lambda r: Version(r.version), reverse=True):
        for build in release.builds:
            yield judge(
                Candidate(
                    framework=framework,
                    release=release,
                    build=build,
                    stack=stack,
                    gpu=gpu,
                    systems=systems,
                )
            )


def choose(
    cell_id: str,
    framework: Framework,
    stack: Stack,
    gpu: Gpu | None,
    systems: tuple[OperatingSystem, ...],
) -> tuple[Release, Build]:
    """The newest release with a build that no rule refuses; raises UserError with the reasons."""
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts(framework, stack, gpu, systems):
        if not verdict.objections:
            return verdict.release, verdict.build
        why = next(iter(verdict.objections.values()))
        reasons.setdefault(why, []).append(verdict.release.version)
    told = [f"{', '.join(dict.fromkeys(versions))}: {why}" for why, versions in reasons.items()]
    raise UserError(f"no release of {framework.title} fits {cell_id}", hint="; ".join(told))

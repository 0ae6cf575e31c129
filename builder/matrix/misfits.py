"""Values of matrix.yaml that have the right type, but that a later room could not use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.errors import brief, nearest, quoted
from builder.facts import Accelerator, Build, Flags, Framework, Matrix, Release, Server
from builder.matrix.document import Key
from builder.matrix.select import near

Misfit = tuple[Key, str]
_CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")
# What plan.py and the templates call the layers that no list of wheels makes.
_OWN_LAYERS = {"os", "tools", "framework", "runtime"}
_SERVERS = Path(__file__).parents[1] / "servers"
_SM = re.compile(r"\d+\.\d+\Z")


def misfits(matrix: Matrix) -> Iterator[Misfit]:
    """Where each one stands, and what is wrong with it."""
    yield from _texts(matrix.model_dump(mode="json", by_alias=True), ())
    yield from _systems(matrix)
    yield from _stacks(matrix)
    yield from _twice(("layers",), [layer.name for layer in matrix.layers])
    for index, layer in enumerate(matrix.layers):
        if layer.name in _OWN_LAYERS:
            yield ("layers", index, "name"), f": {quoted(layer.name)} is a layer of imgbuild's own"
    if not any("*" in layer.packages for layer in matrix.layers):
        yield ("layers",), ' have no place for everything else; end with packages: ["*"]'
    if "uv" not in matrix.tools:
        yield ("tools",), " lacks the key 'uv', which installs the wheels"
    for name, gpu in matrix.gpus.items():
        yield from _sm(("gpus", name, "sm"), gpu.sm)
    families = {os.family for os in matrix.os.values()}
    for name, framework in matrix.frameworks.items():
        path: Key = ("frameworks", name)
        for family in sorted(families - set(framework.packages)) if framework.packages else ():
            yield (*path, "packages"), f" lacks the key {family!r}"
        yield from _server((*path, "server"), framework.server)
        versions = [release.version for release in framework.releases]
        yield from _twice((*path, "releases"), versions)
        for index, release in enumerate(framework.releases):
            yield from _release((*path, "releases", index), release, framework, matrix)


def budgets(matrix: Matrix) -> Iterator[Misfit]:
    """Those that are of no cell; the cells themselves are checked before."""
    for cells in matrix.budgets:
        if not any(fnmatchcase(cell, cells) for cell in matrix.cells):
            yield ("budgets", cells), f" names no published cell; {near(matrix, cells)}"


def _server(path: Key, server: Server) -> Iterator[Misfit]:
    if bool(server.command) == bool(server.module):
        yield path, " needs either a command or a module of builder/servers"
    known = [file.stem.removeprefix("on_") for file in _SERVERS.glob("on_*.py")]
    if server.module and server.module not in known:
        missing = f": builder/servers has no on_{brief(server.module)}.py"
        yield (*path, "module"), f"{missing}; {nearest(server.module, known)}"
    yield from _flags((*path, "flags"), server.flags)


def _flags(path: Key, flags: Flags) -> Iterator[Misfit]:
    """No spelling means two things, and what needs tensor parallelism has it."""
    lists = {"parallel": (flags.parallel,) if flags.parallel else ()}
    for key in ("parallel_also", "spreading", "shrinking", "hosts"):
        lists[key] = getattr(flags, key)
    for key in ("parallel_also", "parallel_variable"):
        if getattr(flags, key) and not flags.parallel:
            yield (*path, key), " needs the key 'parallel', which it is another name of"
    seen: dict[str, str] = {}
    for key, options in lists.items():
        for index, option in enumerate(options):
            place: Key = (*path, key) if key == "parallel" else (*path, key, index)
            # Servers read _ and - alike.
            if (before := seen.setdefault(option.replace("_", "-"), key)) != key:
                yield place, f": {option!r} is one of {before!r}, too"
        if key != "parallel":
            yield from _twice((*path, key), options)


def _twice(path: Key, names: Sequence[str]) -> Iterator[Misfit]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (*path, index), f": {quoted(name)} is there already"


def _systems(matrix: Matrix) -> Iterator[Misfit]:
    for name, os in matrix.os.items():
        if not _parses(Version, os.python):
            yield ("os", name, "python"), f": {quoted(os.python)} is not a version"
        yield from _image(("os", name, "image"), os.image)
        if os.brings and "torch" not in os.brings:
            yield ("os", name, "brings"), ": lacks torch, for the sake of which builds name the OS"
        if os.bootstrap_as and not matrix.os[os.bootstrap_as].archive:
            problem = f": {quoted(os.bootstrap_as)} has no archive to be bootstrapped from"
            yield ("os", name, "bootstrap_as"), problem
        elif os.bootstrap_as and matrix.os[os.bootstrap_as].bootstrap_as:
            problem = f": {quoted(os.bootstrap_as)} is itself bootstrapped as another"
            yield ("os", name, "bootstrap_as"), problem


def _stacks(matrix: Matrix) -> Iterator[Misfit]:
    for name, stack in matrix.stacks.items():
        if stack.accelerator is Accelerator.CUDA and not stack.driver:
            yield ("stacks", name), " lacks the key 'driver': the rules choose by it"
        for os_name, image in stack.bases.items():
            yield from _image(("stacks", name, "bases", os_name), image)


def _image(path: Key, image: str) -> Iterator[Misfit]:
    if image.endswith(":latest"):
        yield path, f": {quoted(image)} is another image every week; name a version"


def _release(path: Key, release: Release, framework: Framework, matrix: Matrix) -> Iterator[Misfit]:
    if not _parses(Version, release.version):
        yield (*path, "version"), f": {quoted(release.version)} is not a version"
    for key in ("python", "glibc") if framework.install == "wheels" else ():
        if getattr(release, key) is None:
            yield path, f" lacks the key {key!r}: the rules choose by it"
    if release.python and not _parses(SpecifierSet, release.python):
        yield (*path, "python"), f': {quoted(release.python)} is not like ">=3.11,<3.15"'
    for index, build in enumerate(release.builds):
        path_of_build: Key = (*path, "builds", index)
        yield from _requirements(path_of_build, build, release, framework)
        if build.torch_of:
            yield from _torch(path_of_build, build, matrix.os[build.torch_of].brings)
        yield from _build(path_of_build, build, framework)


def _build(path: Key, build: Build, framework: Framework) -> Iterator[Misfit]:
    yield from _installed(path, build, wraps=framework.install == "wrap")
    if build.python and not _parses(SpecifierSet, build.python):
        yield (*path, "python"), f': {quoted(build.python)} is not like ">=3.11,<3.15"'
    if build.accelerator is Accelerator.CUDA:
        for key in ("cuda", "driver_floor", "sms"):
            if not getattr(build, key):
                yield path, f" lacks the key {key!r}: the rules choose by it"
        yield from _driver(path, build)
    for key, sms in (("sms", build.sms), ("kernel_sms", build.kernel_sms)):
        for index, sm in enumerate(sms):
            yield from _sm((*path, key, index), sm)
    run = framework.smoke.get(build.accelerator)
    if run is None:
        known = ", ".join(framework.smoke) or "none"
        yield (*path, "accelerator"), f": {build.accelerator} has no smoke settings (only {known})"
    elif not run.module and not build.wrap:
        place: Key = (*path[:2], "smoke", str(build.accelerator))
        yield place, " lacks the key 'module': a smoke test imports it"


def _requirements(
    path: Key, build: Build, release: Release, framework: Framework
) -> Iterator[Misfit]:
    """Each parses, and none of the framework's own contradicts the release's version."""
    for key, texts in (("requirements", build.requirements), ("constraints", build.constraints)):
        for index, text in enumerate(texts):
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                yield (*path, key, index), f': {quoted(text)} is not like "torch==2.13.0"'
                continue
            own = canonicalize_name(wanted.name) in framework.core[:1]
            if own and not wanted.specifier.contains(release.version, prereleases=True):
                refused = f": {quoted(text)} does not admit the release's version"
                yield (*path, key, index), f"{refused} {brief(release.version)}"


# The first driver of each CUDA major version, which runs all of its minors.
# https://docs.nvidia.com/deploy/cuda-compatibility, table 1
_FIRST_DRIVERS = {"12": "525.60.13", "13": "580.65.06"}


def _driver(path: Key, build: Build) -> Iterator[Misfit]:
    first = _FIRST_DRIVERS.get((build.cuda or "").partition(".")[0])
    if build.cuda and first is None:
        known = " or ".join(_FIRST_DRIVERS)
        yield (*path, "cuda"), f": {quoted(build.cuda)} is not of CUDA {known}"
    elif build.cuda and build.driver_floor and build.driver_floor != first:
        needs = f": CUDA {brief(build.cuda)} needs {first}"
        yield (*path, "driver_floor"), f"{needs}, the first driver of its major version"


def _torch(path: Key, build: Build, brings: Sequence[str]) -> Iterator[Misfit]:
    """A build that uses a system's PyTorch brings none of what that has."""
    if build.wrap:
        yield (*path, "torch_of"), ": it is an upstream image, which has its own"
    for index, text in enumerate(build.requirements):
        if canonicalize_name(re.split(r"[^\w.-]", text)[0]) in brings:
            yield (*path, "requirements", index), f": {build.torch_of} brings it"


def _installed(path: Key, build: Build, *, wraps: bool) -> Iterator[Misfit]:
    """Wheels have what resolves them, a wrapped image has its name."""
    how = "wrap" if wraps else "wheels"
    for key in ("wrap",) if wraps else ("requirements", "exclude_newer"):
        if not getattr(build, key):
            yield path, f" lacks the key {key!r}: install is {how!r}"
    if build.wrap and not wraps:
        yield (*path, "wrap"), f": install is {how!r}"
    elif build.wrap:
        yield from _image((*path, "wrap", "image"), build.wrap.image)


def _texts(value: Any, path: Key) -> Iterator[Misfit]:
    """Facts go into files and commands of one line each."""
    if isinstance(value, str) and _CONTROL.search(value):
        yield path, " holds a line break or a control character"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*path, index))


def _sm(path: Key, sm: str) -> Iterator[Misfit]:
    if not _SM.match(sm):
        yield path, f': {quoted(sm)} is not like "9.0"'


def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True

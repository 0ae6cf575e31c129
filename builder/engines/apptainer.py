"""Apptainer: a SIF from the rendered definition, or from an image of another engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder import proc
from builder.engines import host, registry
from builder.engines.base import (
    CONTENT_LABEL,
    Archive,
    Base,
    BuildRequest,
    Config,
    Container,
    Image,
    OnLine,
    Remote,
    Run,
    UnsupportedError,
    environment_options,
)
from builder.errors import BuildError
from builder.model import BaseKind
from builder.naming import Naming
from builder.proc import Command, Result
from builder.site import Mirror

BLOCK_SIZES = ("128K", "256K", "512K", "1M")  # the first is mksquashfs's own, the last its largest


@dataclass(frozen=True, kw_only=True)
class Squashfs:
    """How a SIF's file system is packed."""

    # 3 takes a fifth of the default gzip's time for the same size.
    level: int = 3  # of zstd, 1 to 22
    block_size: str | None = None  # one of BLOCK_SIZES; None: mksquashfs's own

    @property
    def arguments(self) -> str:
        """As mksquashfs takes them, in one text."""
        block = f" -b {self.block_size}" if self.block_size else ""
        return f"-comp zstd -Xcompression-level {self.level}{block}"


_SQUASHFS = Squashfs()
_SITE_FOLDER = "/mnt"  # exists in every base, so that a bind needs no folder made


class Apptainer:
    """SIF images for HPC hosts. `folder` is where they are written and looked for."""

    name = "apptainer"
    file = "apptainer.def"
    site_folder = "/opt/imgbuild/build/site"  # what the definition removes at its end
    wants_archives = True

    def __init__(self, folder: Path = Path("dist")) -> None:
        self._folder = folder

    def problem(self) -> str | None:
        return None if proc.find("apptainer") else "apptainer not installed"

    def find(self, naming: Naming) -> Image | None:
        image = self.latest(naming)
        if image is None:
            return None
        shown = self._capture("inspect", "--labels", "--json", image.reference, check=False)
        if shown.code:
            return None
        attributes = json.loads(shown.stdout)["data"]["attributes"]
        content = attributes.get("labels", {}).get(CONTENT_LABEL)
        return image if content == naming.content else None

    def latest(self, naming: Naming) -> Image | None:
        file = self._file(naming)
        return Image(reference=str(file), size=file.stat().st_size) if file.is_file() else None

    def held(self, naming: Naming) -> tuple[Image, ...]:
        image = self.latest(naming)
        return (image,) if image else ()

    def remove(self, image: Image, naming: Naming) -> None:  # noqa: ARG002 - it is a file
        Path(image.reference).unlink()

    def pull(self, reference: str, *, refresh: bool, copies: tuple[Mirror, ...] = ()) -> Base:  # noqa: ARG002 - nothing is kept, and build.py has tried the copies
        # A definition pulls while it builds.
        registry.reach(reference)
        return Base(kind=BaseKind.REGISTRY, name=reference, digest="", source=f"docker:{reference}")

    def load(self, archive: Archive) -> Base:
        return archive.base(f"oci-archive:{archive.path}")

    def build(self, request: BuildRequest, on_line: OnLine) -> Image:
        definition = request.context / "apptainer.def"
        text = definition.read_text(encoding="utf-8")
        lines = "".join(f"    {name} {value}\n" for name, value in sorted(request.labels.items()))
        definition.write_text(text.replace("%labels\n", f"%labels\n{lines}", 1), encoding="utf-8")
        bootstrap, _, source = request.base.source.partition(":")
        if bootstrap == "oci-archive":
            # A SIF remembers what it was made from: a name, not a path of this host.
            (request.context / "base.tar").symlink_to(source)
            source = "base.tar"
        options = ["--build-arg", f"BOOTSTRAP={bootstrap}", "--build-arg", f"FROM={source}"]
        options += ["--bind", f"{request.secret.parent}:{_SITE_FOLDER}:ro"]
        return self._build(request.naming, definition.name, options, request.context, on_line)

    def convert(
        self, naming: Naming, source: str, on_line: OnLine, squashfs: Squashfs = _SQUASHFS
    ) -> Image:
        """A SIF of what `source` names, as "oci-archive:FILE"."""
        transport, _, file = source.partition(":")
        # A SIF remembers what it was made from: a name, not a path of this host.
        name = f"{transport}:{Path(file).name}"
        return self._build(naming, name, [], Path(file).parent, on_line, squashfs=squashfs)

    def fetch(
        self,
        source: str,
        target: Path,
        remote: Remote,
        login: tuple[str, str] | None,
        on_line: OnLine,
    ) -> None:
        """Write the file `target`: a SIF of a registry's image, as "host/path/name@sha256:...".

        What comes is checked against that digest. `login` is a user's name and password.
        """
        env = {"SSL_CERT_FILE": str(remote.ca)} if remote.ca else {}
        if login:
            env["APPTAINER_DOCKER_USERNAME"], env["APPTAINER_DOCKER_PASSWORD"] = login
        options = ["--no-https"] if remote.plain else []
        target = target.absolute()
        _write(target, f"docker://{source}", options, on_line, cwd=target.parent, env=env)

    def _build(
        self,
        naming: Naming,
        source: str,
        options: list[str],
        cwd: Path,
        on_line: OnLine,
        *,
        squashfs: Squashfs = _SQUASHFS,
    ) -> Image:
        target = self._file(naming).absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        # Aside and renamed: a SIF of that name is always whole.
        aside = host.aside(target)
        try:
            _write(aside, source, options, on_line, cwd=cwd, squashfs=squashfs)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
        return Image(reference=str(self._file(naming)), size=target.stat().st_size)

    def tag(self, image: Image, naming: Naming) -> tuple[str, ...]:  # noqa: ARG002 - it is a file
        return (image.reference,)

    def call(
        self, image: str, args: tuple[str, ...], env: Mapping[str, str], *, gpus: bool
    ) -> Result:
        return self.run(Run(image=image, args=args[1:], entrypoint=args[0], env=env, gpus=gpus))

    def run(self, run: Run) -> Result:
        options = _options(run)
        result = self._capture(*_action(run, options), *run.args, check=False, timeout=run.timeout)
        if result.code == _REFUSED and (run.user or run.tmpfs or not run.network):
            # Was it the image's command that failed, or Apptainer that would not start it so?
            bare = self._capture("exec", *options, run.image, "true", check=False)
            if bare.code == _REFUSED and (why := _FATAL.search(bare.stderr)):
                raise UnsupportedError(f"Apptainer: {why[1]}")
        return result

    def start(self, run: Run) -> Container:
        port = host.free_port()
        options = _options(run)
        folder = Path(tempfile.mkdtemp(prefix="imgbuild-sif-"))
        command = ("apptainer", *_action(run, options), *run.arguments(port))
        log = folder / "log"
        process = proc.spawn(Command(args=command, env=host.apptainer_env()), log)
        return _ApptainerProcess(process, log, f"http://127.0.0.1:{port}")

    def config(self, image: str) -> Config:
        shown = self._capture("inspect", "--all", image).stdout
        attributes = json.loads(shown)["data"]["attributes"]
        scripts = (attributes.get("environment") or {}).values()
        return Config(
            labels=attributes.get("labels") or {},
            env={found[1]: found[2] for script in scripts for found in _EXPORT.finditer(script)},
            start=tuple((attributes.get("runscript") or "").splitlines()),
            user=None,
            ports=None,
            health=None,
        )

    def _file(self, naming: Naming) -> Path:
        return self._folder / f"{naming.cell_id}.sif"

    def _capture(self, *args: str, check: bool = True, timeout: float = 300) -> Result:
        command = Command(args=("apptainer", *args), env=host.apptainer_env(), timeout=timeout)
        return proc.capture(command, check=check)


def _write(
    target: Path,
    source: str,
    options: list[str],
    on_line: OnLine,
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    squashfs: Squashfs = _SQUASHFS,
) -> None:
    """Build the SIF `target`, with `env` beside our own variables."""
    # An interrupted build leaves its tree here, where we clean up.
    scratch = Path(tempfile.mkdtemp(prefix="imgbuild-sif-"))
    here = {"APPTAINER_TMPDIR": str(scratch), "TMPDIR": str(scratch)}
    squash = ("--mksquashfs-args", squashfs.arguments)
    args = ("apptainer", "build", "--force", "--disable-cache", *squash)
    try:
        proc.stream(
            Command(
                args=(*args, *options, str(target), source),
                env={**host.apptainer_env(), **here, **(env or {})},
                cwd=cwd,
            ),
            on_line,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# As strict as a cluster may be: no home, no host folders, no host environment.
_CONTAINED = ("--containall", "--no-home", "--cleanenv")
# Folders in memory that every contained one has.
_SCRATCH = {"/tmp", "/var/tmp"}  # noqa: S108 - the container's
_REFUSED = 255
_FATAL = re.compile(r"FATAL:(?:\s|\x1b\[0m)*(.*)")
_EXPORT = re.compile(r"""^\s*export (\w+)=["']?(.*?)["']?$""", re.MULTILINE)


def _action(run: Run, options: list[str]) -> tuple[str, ...]:
    if run.entrypoint:
        return ("exec", *options, run.image, run.entrypoint)
    # Arguments as they are: the start of a converted image would have a shell expand them.
    return ("run", "--no-eval", *options, run.image)


def _options(run: Run) -> list[str]:
    """A SIF is read-only and without a home whether that is asked for or not."""
    options = [*_CONTAINED, *environment_options(run.env), *(("--nv",) if run.gpus else ())]
    for folder, target in run.mounts.items():
        options += ["--bind", f"{folder}:{target}:ro"]
    for place in run.tmpfs:
        options += [] if place in _SCRATCH else ["--scratch", place]
    options += [] if run.network else ["--net", "--network", "none"]
    if run.user:
        if not host.is_root():
            raise UnsupportedError("Apptainer runs as its caller, and only root has others to give")
        uid, _, gid = run.user.partition(":")
        options += ["--security", f"uid:{uid}", "--security", f"gid:{gid or 0}"]
    return options


class _ApptainerProcess:
    def __init__(self, process: subprocess.Popen[bytes], log: Path, url: str) -> None:
        self.url = url
        self._process = process
        self._log = log

    def exit_code(self) -> int | None:
        return self._process.poll()

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def stop(self, timeout: float) -> int:
        self._process.terminate()
        try:
            return self._process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise BuildError(f"the server ignored SIGTERM for {timeout:g} s") from None

    def remove(self) -> None:
        with suppress(ProcessLookupError):
            proc.end_group(self._process)
        self._log.unlink(missing_ok=True)
        self._log.parent.rmdir()

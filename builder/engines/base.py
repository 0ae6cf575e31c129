"""What an engine is: one Protocol that BuildKit, Buildah and Apptainer answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from builder.errors import BuildError
from builder.model import BaseKind
from builder.naming import Naming
from builder.proc import Result
from builder.site import Mirror

OnLine = Callable[[str], None]


@dataclass(frozen=True)
class Progress:
    """Where long work reports to: the step that begins, and every line that tells how it goes."""

    step: Callable[[str], None]
    line: OnLine


# Our labels beside the OCI ones, set at build time.
CONTENT_LABEL = "io.imgbuild.content"


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base image that an engine can build on."""

    kind: BaseKind
    name: str  # for people and labels
    digest: str  # of its manifest; "" where the engine does not know it
    source: str  # what this engine's FROM takes


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A bootstrapped base as an OCI archive, and the digest of its manifest."""

    path: Path
    name: str  # as "localhost/imgbuild-base:debian12-<key>"
    digest: str

    def base(self, source: str) -> Base:
        """This archive as a base that an engine knows as `source`."""
        return Base(kind=BaseKind.BOOTSTRAP, name=self.name, digest=self.digest, source=source)


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """One image to build. The context holds all files that the recipe needs, and no others."""

    naming: Naming
    context: Path
    base: Base
    labels: Mapping[str, str]
    secret: Path  # the site's script; also the only file of its folder
    epoch: int  # seconds; the time that the image and its files bear
    # Where BuildKit looks for layers and keeps them, as its --cache-from and --cache-to say it.
    cache_from: str | None = None
    cache_to: str | None = None


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that an engine has."""

    reference: str  # a tag, or the path of a SIF
    size: int  # bytes, as the engine counts them


@dataclass(frozen=True, kw_only=True)
class Run:
    """A container to start; "{host}" and "{port}" in `args` become where its server listens."""

    image: str
    args: tuple[str, ...]
    port: int = 0  # inside, where the container has a network of its own
    entrypoint: str | None = None  # a program instead of the image's own start
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[Path, str] = field(
        default_factory=dict
    )  # host folder -> path inside, read-only
    shm_mb: int = 64
    gpus: bool = False
    user: str | None = None  # "UID:GID" instead of the image's; a SIF's is the caller
    read_only: bool = False  # all but `tmpfs`; a SIF always is
    tmpfs: tuple[str, ...] = ()  # folders in memory that everybody may write and execute
    network: bool = True
    home: bool = True  # False: HOME is a folder that nobody can make or write
    timeout: float = 300.0  # seconds, of one that runs to its end

    def arguments(self, port: int, host: str = "127.0.0.1") -> list[str]:
        """`args` with the address filled in."""
        return [arg.replace("{port}", str(port)).replace("{host}", host) for arg in self.args]


TMPFS = "rw,exec,mode=1777"
NO_HOME = "/nonexistent"


class UnsupportedError(BuildError):
    """What this engine, or this host, has no means for."""


def environment_options(env: Mapping[str, str]) -> list[str]:
    """`--env` as docker, podman and apptainer all take it."""
    return [part for name, value in env.items() for part in ("--env", f"{name}={value}")]


def run_options(run: Run) -> list[str]:
    """What `docker run` and `podman run` take alike; the network is the engine's own affair."""
    options = ["--shm-size", f"{run.shm_mb}m", *environment_options(run.env)]
    options += [] if run.home else ["--env", f"HOME={NO_HOME}"]
    options += ["--user", run.user] if run.user else []
    options += ["--read-only"] if run.read_only else []
    options += ["--entrypoint", run.entrypoint] if run.entrypoint else []
    for folder, target in run.mounts.items():
        options += ["--volume", f"{folder}:{target}:ro"]
    for place in run.tmpfs:
        options += ["--tmpfs", f"{place}:{TMPFS}"]
    return options


@dataclass(frozen=True, kw_only=True)
class Config:
    """What an image says of itself. None: its format has no such thing."""

    labels: Mapping[str, str]
    env: Mapping[str, str]
    start: tuple[str, ...]  # entrypoint and command; of a SIF its runscript's lines
    user: str | None
    ports: tuple[str, ...] | None  # as "8000/tcp"
    health: tuple[str, ...] | None  # as "CMD", PROGRAM, ARGUMENT...

    @classmethod
    def of_image(cls, config: Mapping[str, Any], health: Mapping[str, Any] | None) -> Config:
        """From what docker and podman tell of an image."""
        env = (entry.partition("=") for entry in config.get("Env") or ())
        return cls(
            labels=dict(config.get("Labels") or {}),
            env={name: value for name, _, value in env},
            start=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
            user=config.get("User") or "",
            ports=tuple(config.get("ExposedPorts") or ()),
            health=tuple((health or {}).get("Test") or ()),
        )


class Container(Protocol):
    """A running container with one server in it."""

    url: str

    def exit_code(self) -> int | None:
        """None while it runs."""

    def log(self) -> str:
        """All that it printed so far."""

    def stop(self, timeout: float) -> int:
        """SIGTERM, wait, return the exit code; raises BuildError after `timeout` seconds."""

    def remove(self) -> None:
        """Leave nothing behind, whatever state it is in."""


@runtime_checkable
class Exporter(Protocol):
    """An engine whose images Apptainer can take over."""

    def archive(self, image: Image, target: Path) -> str:
        """Write an image to the file `target`; returns Apptainer's name of it."""


@runtime_checkable
class Saver(Protocol):
    """An engine that hands its images out as a tar, while somebody reads it."""

    def saved(self, reference: str) -> AbstractContextManager[IO[bytes]]:
        """An image as `docker save` writes it; raises BuildError with the engine's words."""


@dataclass(frozen=True, kw_only=True)
class Remote:
    """How a registry is spoken to."""

    ca: Path | None = None  # the authorities that this site knows
    plain: bool = False  # HTTP without TLS: only where the user said so


class Compression(StrEnum):
    """Of layers, as registries and archives hold them."""

    ZSTD = "zstd"
    GZIP = "gzip"  # what every client reads


# The library of both engines has four levels for zstd's twenty-two; 7 is its third. The 3.6 GB of
# cpu-vllm become 926 MB with its second (3; 29 s of CPU time), 862 MB with 7 (95 s), 1041 MB with
# gzip. An image is pushed once and pulled often.
ZSTD_LEVEL = 7


@runtime_checkable
class Publisher(Protocol):
    """An engine whose images go to registries: a Pusher or a LayoutWriter, too."""

    name: str

    def compressions(self) -> tuple[Compression, ...]:
        """Those that it can give layers on this host, the best first."""

    def identity(self, image: Image, compression: Compression) -> str:
        """What a registry's manifest of this image has as its own digest or its configuration's."""

    def names(self, image: Image) -> tuple[str, ...]:
        """All tags that the image bears here, without the engine's own "localhost/"."""


@runtime_checkable
class Pusher(Protocol):
    """A publisher that sends images itself, with the logins that it keeps."""

    def push(self, image: Image, target: str, compression: Compression, on_line: OnLine) -> str:
        """Send it to `target`, as "host/path/name:tag"; returns the digest of its manifest."""


@runtime_checkable
class LayoutWriter(Protocol):
    """A publisher that writes images as OCI layouts, for others to send."""

    def layout(
        self, image: Image, folder: Path, compression: Compression, on_line: OnLine
    ) -> bytes:
        """Write one into the new folder `folder`; returns the configuration that the image has.

        That may say more than the layout's own: an OCI one has no place for a health check.
        """


class Engine(Protocol):
    """Builds, finds and runs images. Every method raises BuildError with the engine's words."""

    name: str
    file: str  # the rendered file that it builds from
    site_folder: str  # where a build step keeps the site's files: on no layer
    wants_archives: bool  # it cannot be told of a site's copies of images

    def problem(self) -> str | None:
        """Why it cannot be used on this host, or None."""

    def find(self, naming: Naming) -> Image | None:
        """The image with exactly this content, if it is here."""

    def latest(self, naming: Naming) -> Image | None:
        """The image that bears the cell's own tag, whatever its content."""

    def held(self, naming: Naming) -> tuple[Image, ...]:
        """All images of this cell that are here, of any content, by their content's own names."""

    def remove(self, image: Image, naming: Naming) -> None:
        """Take the cell's names from an image; it goes unless it has one of the user's own."""

    def pull(self, reference: str, *, refresh: bool, copies: tuple[Mirror, ...] = ()) -> Base:
        """A base from a registry, or the local copy of one unless `refresh`.

        `copies` are the site's own, to be tried first by an engine that does not know of them.
        """

    def load(self, archive: Archive) -> Base:
        """A bootstrapped base."""

    def build(self, request: BuildRequest, on_line: OnLine) -> Image:
        """Build and tag."""

    def tag(self, image: Image, naming: Naming) -> tuple[str, ...]:
        """Give an image all names of `naming` that this engine keeps; returns them."""

    def call(
        self, image: str, args: tuple[str, ...], env: Mapping[str, str], *, gpus: bool
    ) -> Result:
        """Run one command in a new container to its end; never raises for its exit code."""

    def run(self, run: Run) -> Result:
        """Start a new container and wait for its end; never raises for its exit code.

        Raises UnsupportedError where the engine cannot start one like that on this host.
        """

    def start(self, run: Run) -> Container:
        """Start a server in the background."""

    def config(self, image: str) -> Config:
        """What an image says of itself."""

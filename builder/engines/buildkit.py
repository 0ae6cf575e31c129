"""BuildKit through `docker buildx`; found, tagged and run through the daemon's API."""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from builder import proc
from builder.engines import oci
from builder.engines.base import (
    NO_HOME,
    TMPFS,
    ZSTD_LEVEL,
    Archive,
    Base,
    BuildRequest,
    Compression,
    Config,
    Container,
    Image,
    OnLine,
    Run,
    UnsupportedError,
    run_options,
)
from builder.errors import BuildError
from builder.model import BaseKind
from builder.naming import Naming
from builder.proc import Command, Result
from builder.site import Mirror

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container as DockerContainer


_PUSHED = re.compile(r"digest: (sha256:[0-9a-f]{64}) size: \d+$")
_PROBE_SECONDS = 5  # a daemon that hangs must not hang us


class BuildKit:
    """Docker's own builder."""

    name = "docker"
    file = "Dockerfile"
    site_folder = "/run/site"
    wants_archives = False

    def problem(self) -> str | None:
        if not proc.find("docker"):
            return "docker not installed"
        import docker  # noqa: PLC0415 - a third of a second that other engines need not pay

        try:
            docker.from_env(timeout=_PROBE_SECONDS).ping()
            buildx = Command(args=("docker", "buildx", "version"), timeout=_PROBE_SECONDS)
            return "docker has no buildx plugin" if proc.capture(buildx, check=False).code else None
        except (docker.errors.DockerException, OSError, BuildError):
            return "no Docker daemon answers"

    @cached_property
    def _client(self) -> docker.DockerClient:
        import docker  # noqa: PLC0415

        return docker.from_env(timeout=300)

    def find(self, naming: Naming) -> Image | None:
        return self._image(naming.content_reference)

    def latest(self, naming: Naming) -> Image | None:
        return self._image(f"{naming.repository}:{naming.cell_id}")

    def held(self, naming: Naming) -> tuple[Image, ...]:
        found = self._client.images.list(name=naming.repository)
        return tuple(
            Image(reference=tag, size=int(image.attrs["Size"]))
            for image in found
            for tag in image.tags
            if naming.is_content(tag)
        )

    def remove(self, image: Image, naming: Naming) -> None:
        import docker  # noqa: PLC0415

        own = {image.reference, *naming.references}
        try:
            for name in sorted(own.intersection(self._client.images.get(image.reference).tags)):
                self._client.images.remove(name)
        except docker.errors.APIError as error:
            raise BuildError(f"docker keeps {image.reference}: {error.explanation}") from None

    def pull(self, reference: str, *, refresh: bool, copies: tuple[Mirror, ...] = ()) -> Base:
        # Docker itself knows mirrors of Docker Hub alone.
        sources = (*(copy.reference for copy in copies), reference)
        here = next((source for source in sources if self._image(source)), None)
        source = here if here and not refresh else self._pulled(sources)
        digests = self._inspect(source).get("RepoDigests") or [""]
        return Base(
            kind=BaseKind.REGISTRY,
            name=reference,
            digest=digests[0].rpartition("@")[2],
            source=source,
        )

    def _pulled(self, sources: tuple[str, ...]) -> str:
        """The first of `sources` that can be pulled; raises BuildError for the last."""
        for source in sources:
            try:
                proc.capture(Command(args=("docker", "pull", "--quiet", source), timeout=900))
            except BuildError:
                if source == sources[-1]:
                    raise
            else:
                return source
        raise AssertionError  # the last one returns or raises

    def load(self, archive: Archive) -> Base:
        if self._image(archive.name) is None:
            proc.capture(
                Command(args=("docker", "load", "--input", str(archive.path)), timeout=900)
            )
        return archive.base(archive.name)

    def build(self, request: BuildRequest, on_line: OnLine) -> Image:
        args = ["docker", "buildx", "build", "--progress", "plain", "--load", "--provenance=false"]
        # The daemon's own builder, which has the context's name: a builder in a container of its
        # own does not see a base that was loaded. The host's network: a site's proxy or index may
        # listen on loopback.
        args += ["--builder", self._context(), "--network", "host"]
        args += ["--build-arg", f"BASE={request.base.source}"]
        args += ["--build-arg", f"SOURCE_DATE_EPOCH={request.epoch}"]
        args += ["--secret", f"id=site,src={request.secret}"]
        args += ["--cache-from", request.cache_from] if request.cache_from else []
        args += ["--cache-to", request.cache_to] if request.cache_to else []
        for name, value in sorted(request.labels.items()):
            args += ["--label", f"{name}={value}"]
        for reference in request.naming.references:
            args += ["--tag", reference]
        args += ["--file", str(request.context / "Dockerfile"), str(request.context)]
        proc.stream(Command(args=tuple(args)), on_line)
        image = self.find(request.naming)
        if image is None:
            raise BuildError(
                f"buildx built {request.naming.content_reference}, but it is not there"
            )
        return image

    def _context(self) -> str:
        shown = proc.capture(Command(args=("docker", "context", "show"), timeout=_PROBE_SECONDS))
        return shown.stdout.strip()

    def tag(self, image: Image, naming: Naming) -> tuple[str, ...]:
        handle = self._client.images.get(image.reference)
        for reference in naming.references:
            handle.tag(reference)
        return naming.references

    def call(
        self, image: str, args: tuple[str, ...], env: Mapping[str, str], *, gpus: bool
    ) -> Result:
        return self.run(
            Run(
                image=image,
                args=args[1:],
                entrypoint=args[0],
                env=env,
                gpus=gpus,
                network=False,
            )
        )

    def run(self, run: Run) -> Result:
        name = f"imgbuild-{secrets.token_hex(6)}"
        command = ["docker", "run", "--rm", "--name", name, *run_options(run)]
        command += [] if run.network else ["--network", "none"]
        command += ["--gpus", "all"] if run.gpus else []
        command += [run.image, *run.args]
        try:
            return proc.capture(Command(args=tuple(command), timeout=run.timeout), check=False)
        except BaseException:
            # The program that was ended with us is not the container.
            remove = ("docker", "rm", "--force", name)
            proc.capture(Command(args=remove, timeout=60), check=False)
            raise

    def start(self, run: Run) -> Container:
        import docker  # noqa: PLC0415

        everything = docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])
        inside = f"{run.port}/tcp"
        try:
            handle = self._client.containers.create(
                run.image,
                run.arguments(run.port, host="0.0.0.0"),  # noqa: S104 - inside; published on loopback
                entrypoint=run.entrypoint,
                environment={**run.env, **({} if run.home else {"HOME": NO_HOME})},
                user=run.user,
                read_only=run.read_only,
                tmpfs=dict.fromkeys(run.tmpfs, TMPFS),
                network_mode=None if run.network else "none",
                volumes={str(p): {"bind": t, "mode": "ro"} for p, t in run.mounts.items()},
                ports={inside: ("127.0.0.1", 0)} if run.network else {},  # any free port
                shm_size=f"{run.shm_mb}m",
                device_requests=[everything] if run.gpus else None,
            )
            try:
                port = _launch(handle, inside if run.network else None)
            except BaseException:
                handle.remove(force=True)
                raise
        except docker.errors.APIError as error:
            raise BuildError(f"docker cannot start {run.image}: {error.explanation}") from None
        return _DockerContainer(handle, f"http://127.0.0.1:{port}")

    def config(self, image: str) -> Config:
        with _explained():
            config = self._inspect(image)["Config"]
        return Config.of_image(config, config.get("Healthcheck"))

    def archive(self, image: Image, target: Path) -> str:
        """Write an image as an archive for Apptainer; returns its transport name."""
        proc.capture(
            Command(args=("docker", "save", "--output", str(target), image.reference), timeout=900)
        )
        return f"docker-archive:{target}"

    def saved(self, reference: str) -> AbstractContextManager[IO[bytes]]:
        return proc.piped(Command(args=("docker", "save", reference)))

    def compressions(self) -> tuple[Compression, ...]:
        return tuple(Compression) if self._converts else (Compression.GZIP,)

    def identity(self, image: Image, compression: Compression) -> str:
        # BuildKit keeps what it has compressed once, so that asking costs a second.
        with self._named(
            image, f"imgbuild-push:{secrets.token_hex(6)}", compression, _unheard
        ) as name:
            return str(self._inspect(name)["Id"])

    def names(self, image: Image) -> tuple[str, ...]:
        return tuple(self._inspect(image.reference)["RepoTags"] or ())

    def push(self, image: Image, target: str, compression: Compression, on_line: OnLine) -> str:
        digests: list[str] = []

        def line(text: str) -> None:
            if found := _PUSHED.search(text):
                digests.append(found[1])
            on_line(text)

        with self._named(image, target, compression, on_line):
            proc.stream(Command(args=("docker", "push", target)), line)
        if not digests:
            raise BuildError(f"docker pushed {target}, but told no digest")
        return digests[-1]

    def layout(
        self, image: Image, folder: Path, compression: Compression, on_line: OnLine
    ) -> bytes:
        if compression not in self.compressions():
            raise UnsupportedError(
                f"docker's classic image store compresses no layer as {compression}"
            )
        output = f"type=oci,tar=false,dest={folder}"
        _convert(image.reference, output, compression, self._context(), on_line)
        return oci.layout_config(folder)

    @cached_property
    def _converts(self) -> bool:
        """Whether images are in containerd's store: the classic one keeps no compressed layers."""
        status = self._client.info().get("DriverStatus") or ()
        return ["driver-type", "io.containerd.snapshotter.v1"] in status

    @contextmanager
    def _named(
        self, image: Image, name: str, compression: Compression, on_line: OnLine
    ) -> Iterator[str]:
        """An image with layers that are compressed so, under the name by which Docker pushes it.

        A name that the image had before stays its own.
        """
        handle = self._client.images.get(image.reference)
        borrowed = name not in self.names(image)
        if self._converts:
            output = f"type=image,name={name}"
            _convert(image.reference, output, compression, self._context(), on_line)
        else:
            handle.tag(name)
        try:
            yield name
        finally:
            if borrowed:
                self._client.images.remove(name)
            else:
                handle.tag(name)

    def _image(self, reference: str) -> Image | None:
        import docker  # noqa: PLC0415

        try:
            return Image(reference=reference, size=int(self._inspect(reference)["Size"]))
        except docker.errors.ImageNotFound:
            return None

    def _inspect(self, reference: str) -> dict[str, Any]:
        return dict(self._client.images.get(reference).attrs)


def _convert(
    reference: str, output: str, compression: Compression, builder: str, on_line: OnLine
) -> None:
    """Build an image without any step of its own: the same configuration, layers compressed anew.

    `docker push` sends layers as the store has them. Equal layers become equal blobs; what BuildKit
    has compressed before it takes from its cache, also where that was at another level.
    """
    shape = {
        Compression.ZSTD: f"compression=zstd,compression-level={ZSTD_LEVEL},oci-mediatypes=true",
        Compression.GZIP: "compression=gzip,oci-mediatypes=false",
    }[compression]
    with tempfile.TemporaryDirectory(prefix="imgbuild-push-") as scratch:
        Path(scratch, "Dockerfile").write_text(f"FROM {reference}\n", encoding="utf-8")
        args = ["docker", "buildx", "build", "--progress", "plain", "--provenance=false"]
        args += ["--builder", builder]
        args += ["--output", f"{output},force-compression=true,{shape}"]
        proc.stream(Command(args=(*args, scratch)), on_line)


def _unheard(line: str) -> None:
    """For what nobody waits for."""


@contextmanager
def _explained() -> Iterator[None]:
    """What the daemon refuses, in its own words and as the other engines' failures."""
    import docker  # noqa: PLC0415

    try:
        yield
    except docker.errors.APIError as error:
        raise BuildError(f"docker: {error.explanation or error}") from None


def _launch(handle: DockerContainer, inside: str | None) -> str:
    """Start a created container; returns the host's port of its port `inside`, if it has any."""
    handle.start()
    if inside is None:
        return ""
    handle.reload()
    if published := handle.ports.get(inside):
        return str(published[0]["HostPort"])
    # One that has ended already has no ports.
    tail = handle.logs().decode(errors="replace").splitlines()[-proc.TAIL_LINES :]
    raise BuildError("the container ended at once", tail=tail)


class _DockerContainer:
    def __init__(self, handle: DockerContainer, url: str) -> None:
        self.url = url
        self._handle = handle

    def exit_code(self) -> int | None:
        with _explained():
            self._handle.reload()
        state = self._handle.attrs["State"]
        return None if state["Running"] else int(state["ExitCode"])

    def log(self) -> str:
        with _explained():
            return self._handle.logs().decode(errors="replace")

    def stop(self, timeout: float) -> int:
        import docker  # noqa: PLC0415
        import requests  # noqa: PLC0415 - the docker SDK's own transport

        with suppress(docker.errors.APIError):  # it may have ended by itself just now
            self._handle.kill("SIGTERM")
        try:
            with _explained():
                return int(self._handle.wait(timeout=timeout)["StatusCode"])
        except (requests.exceptions.Timeout, requests.exceptions.ConnectionError):
            raise BuildError(f"the server ignored SIGTERM for {timeout:g} s") from None

    def remove(self) -> None:
        import docker  # noqa: PLC0415

        with suppress(docker.errors.NotFound):
            self._handle.remove(force=True)

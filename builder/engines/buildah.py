"""Buildah builds, Podman runs; both without a daemon, on one image store."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from builder import proc
from builder.engines import host
from builder.engines.base import (
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
    run_options,
)
from builder.errors import BuildError
from builder.model import BaseKind
from builder.naming import Naming
from builder.proc import Command, Result
from builder.site import Mirror


class Buildah:
    """Daemonless building, the embedded default."""

    name = "buildah"
    file = "Dockerfile"
    site_folder = "/run/site"
    wants_archives = False

    def problem(self) -> str | None:
        missing = [program for program in ("buildah", "podman") if not proc.find(program)]
        return f"{' and '.join(missing)} not installed" if missing else None

    def find(self, naming: Naming) -> Image | None:
        return self._image(naming.content_reference)

    def latest(self, naming: Naming) -> Image | None:
        return self._image(f"{naming.repository}:{naming.cell_id}")

    def held(self, naming: Naming) -> tuple[Image, ...]:
        rows = json.loads(self._capture("buildah", "images", "--json").stdout or "null") or []
        return tuple(
            Image(reference=name, size=_bytes(row["size"]))
            for row in rows
            for name in row.get("names") or ()
            if naming.is_content(name.removeprefix("localhost/"))
        )

    def remove(self, image: Image, naming: Naming) -> None:
        shown = self._capture("buildah", "images", "--json", image.reference).stdout
        own = {image.reference, *map(_local, naming.references)}
        names = own.intersection(*(row["names"] for row in json.loads(shown)))
        self._capture("podman", "rmi", *sorted(names))

    def pull(self, reference: str, *, refresh: bool, copies: tuple[Mirror, ...] = ()) -> Base:  # noqa: ARG002 - it reads registries.conf itself
        if refresh or self._image(reference, prefix="") is None:
            self._capture("buildah", "pull", "--quiet", "--policy", "always", reference)
        found = self._capture("buildah", "images", "--json", reference).stdout
        digest = json.loads(found)[0].get("digest", "")
        return Base(kind=BaseKind.REGISTRY, name=reference, digest=digest, source=reference)

    def load(self, archive: Archive) -> Base:
        if self._image(archive.name, prefix="") is None:
            identity = self._capture(
                "buildah", "pull", "--quiet", f"oci-archive:{archive.path}"
            ).stdout.split()[-1]
            self._capture("buildah", "tag", identity, archive.name)
        return archive.base(archive.name)

    def build(self, request: BuildRequest, on_line: OnLine) -> Image:
        args = ["buildah", "build", "--layers", "--force-rm", "--format", "docker"]
        args += ["--network", "host"]
        args += _isolation()
        args += ["--pull=never", "--timestamp", str(request.epoch)]
        args += ["--build-arg", f"BASE={request.base.source}"]
        # Buildah 1.28 mounts a cached stage as if it had done nothing: never let it be cached.
        args += ["--build-arg", f"TOOLS={secrets.token_hex(8)}"]
        args += ["--secret", f"id=site,src={request.secret}"]
        for name, value in sorted(request.labels.items()):
            args += ["--label", f"{name}={value}"]
        for reference in request.naming.references:
            args += ["--tag", _local(reference)]
        args += ["--file", str(request.context / "Dockerfile"), str(request.context)]
        proc.stream(Command(args=tuple(args), env=host.containers_env()), on_line)
        # What the uncached stage left in the store would grow with every build. One that is in use,
        # by another build or by what an interrupted one left, stays until the next time.
        stage = ("--filter", "label=io.imgbuild.stage=tools")
        prune = ("podman", "image", "prune", "--force", *stage)
        proc.capture(Command(args=prune, env=host.containers_env(), timeout=60), check=False)
        image = self.find(request.naming)
        if image is None:
            raise BuildError(
                f"buildah built {request.naming.content_reference}, but it is not there"
            )
        return image

    def tag(self, image: Image, naming: Naming) -> tuple[str, ...]:
        self._capture("buildah", "tag", image.reference, *map(_local, naming.references))
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
        command = ("podman", "run", "--rm", "--name", name, *_options(run), run.image, *run.args)
        env = host.containers_env()
        try:
            return proc.capture(Command(args=command, env=env, timeout=run.timeout), check=False)
        except BaseException:
            # The program that was ended with us is not the container.
            remove = ("podman", "rm", "--force", "--time", "0", name)
            proc.capture(Command(args=remove, env=env, timeout=60), check=False)
            raise

    def start(self, run: Run) -> Container:
        port = host.free_port()
        command = ("podman", "run", "--detach", *_options(run), run.image, *run.arguments(port))
        identity = self._capture(*command).stdout.split()[-1]
        return _PodmanContainer(identity, f"http://127.0.0.1:{port}")

    def config(self, image: str) -> Config:
        (shown,) = json.loads(self._capture("podman", "image", "inspect", image).stdout)
        return Config.of_image(shown["Config"], shown.get("Healthcheck"))

    def archive(self, image: Image, target: Path) -> str:
        """Write an image as an OCI archive for Apptainer; returns its transport name."""
        args = ("buildah", "push", "--quiet", "--disable-compression", "--format", "oci")
        # Beside the archive: what an interrupted export leaves goes with the caller's folder.
        env = {**host.containers_env(), "TMPDIR": str(target.parent)}
        names = (image.reference, f"oci-archive:{target}")
        proc.capture(Command(args=(*args, *names), env=env, timeout=900))
        return f"oci-archive:{target}"

    def saved(self, reference: str) -> AbstractContextManager[IO[bytes]]:
        args = ("podman", "save", "--quiet", "--format", "docker-archive", reference)
        return proc.piped(Command(args=args, env=host.containers_env()))

    def compressions(self) -> tuple[Compression, ...]:
        return tuple(Compression)

    def identity(self, image: Image, compression: Compression) -> str:  # noqa: ARG002 - a configuration knows none
        shape = ("--type", "image", "--format", "{{.FromImageID}}")
        return "sha256:" + self._capture("buildah", "inspect", *shape, image.reference).stdout

    def names(self, image: Image) -> tuple[str, ...]:
        (row, *_) = json.loads(self._capture("buildah", "images", "--json", image.reference).stdout)
        return tuple(name.removeprefix("localhost/") for name in row["names"] or ())

    def layout(
        self, image: Image, folder: Path, compression: Compression, on_line: OnLine
    ) -> bytes:
        # Not to the registry itself: there Buildah before 1.33 takes a layer that it remembers to
        # have sent with another compression, and always leaves out the health check.
        args = ["buildah", "push", "--format", "oci", "--compression-format", compression]
        args += ["--compression-level", str(ZSTD_LEVEL)] if compression == "zstd" else []
        env = {**host.containers_env(), "TMPDIR": str(folder.parent)}
        command = (*args, image.reference, f"oci:{folder}:image")
        proc.stream(Command(args=command, env=env), on_line)
        shape = ("--type", "image", "--format", "{{.Config}}")
        return self._capture("buildah", "inspect", *shape, image.reference).stdout.encode()

    def _image(self, reference: str, prefix: str = "localhost/") -> Image | None:
        name = prefix + reference if "/" not in reference else reference
        found = proc.capture(
            Command(args=("buildah", "images", "--json", name), env=host.containers_env()),
            check=False,
        )
        if found.code:
            return None
        row = json.loads(found.stdout)[0]
        return Image(reference=name, size=_bytes(row["size"]))

    def _capture(self, *args: str) -> Result:
        return proc.capture(Command(args=args, env=host.containers_env(), timeout=900))


class _PodmanContainer:
    def __init__(self, identity: str, url: str) -> None:
        self.url = url
        self._identity = identity

    def exit_code(self) -> int | None:
        state = json.loads(self._podman("inspect", "--format", "{{json .State}}").stdout)
        return None if state["Running"] else int(state["ExitCode"])

    def log(self) -> str:
        result = self._podman("logs")
        return result.stdout + result.stderr

    def stop(self, timeout: float) -> int:
        self._podman("kill", "--signal", "TERM")
        command = ("podman", "wait", self._identity)
        done = proc.capture(Command(args=command, env=host.containers_env(), timeout=timeout))
        return int(done.stdout.split()[-1])

    def remove(self) -> None:
        self._podman("rm", "--force", "--time", "0")

    def _podman(self, *args: str) -> Result:
        command = Command(
            args=("podman", *args, self._identity), env=host.containers_env(), timeout=60
        )
        return proc.capture(command, check=False)


def _isolation() -> list[str]:
    """As root a real runtime (runc takes every cgroup layout), else a chroot."""
    if not host.is_root():
        return ["--isolation", "chroot"]
    return ["--runtime", "runc"] if shutil.which("runc") else []


def _options(run: Run) -> list[str]:
    # The host's network: Podman's own needs firewall tools that small hosts do not have.
    options = ["--no-healthcheck", "--network", "host" if run.network else "none"]
    # As Docker and Kubernetes do: no scratch and no passwd entry that nobody asked for.
    options += ["--read-only-tmpfs=false"] if run.read_only else []
    options += ["--passwd=false"] if run.user else []
    options += ["--device", "nvidia.com/gpu=all"] if run.gpus else []
    return [*options, *run_options(run)]


def _local(reference: str) -> str:
    return reference if "/" in reference else f"localhost/{reference}"


def _bytes(size: str | int) -> int:
    """Buildah before 1.30 gives sizes as "3.56 GB"."""
    if isinstance(size, int):
        return size
    number, unit = size.split()
    return int(float(number) * 1000 ** ("B", "KB", "MB", "GB", "TB").index(unit.upper()))

"""Registry -> one file: a SIF, or an OCI archive. It is whole, or it is not there."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builder.engines import host, oci
from builder.engines.apptainer import Apptainer
from builder.engines.base import Progress, Remote
from builder.errors import BuildError
from builder.registry import trust
from builder.registry.client import Registry

_BUFFER = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A file, and what it holds."""

    file: Path
    reference: str  # "host/path/name@sha256:..."
    digest: str
    before: str | None  # the digest of the file that was there; None where there was none
    changed: bool
    size: int  # bytes
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to pull: a tag, or what has a digest, of a repository."""

    name: str  # of the repository, below the registry's address
    tag: str
    digest: str | None = None  # the tag does not count where it is given


def pull_archive(wanted: Wanted, registry: Registry, file: Path, progress: Progress) -> Pulled:
    """Write an OCI archive, with each blob's digest checked; raises BuildError."""

    repository = registry.address.repository(wanted.name)

    def write(target: Path, digest: str) -> None:
        manifest = registry.manifest(repository, digest)
        total, done = sum(blob.size for blob in manifest.blobs), 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            progress.line(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB")

        name = f"{registry.address.reference(wanted.name)}:{wanted.tag}"
        with tarfile.open(target, "w") as archive:
            archive.copybufsize = _BUFFER  # type: ignore[attr-defined]
            oci.begin(archive, manifest.text, name=name, epoch=0)
            oci.add(archive, manifest.text, 0)
            for blob in manifest.blobs:
                source = registry.blob(repository, blob, count)
                try:
                    oci.add_stream(archive, blob.digest, blob.size, source, 0)
                finally:
                    source.close()

    return _pull(wanted, registry, file, write, progress)


def pull_sif(
    wanted: Wanted,
    registry: Registry,
    file: Path,
    progress: Progress,
    apptainer: Apptainer,
) -> Pulled:
    """Let Apptainer write a SIF; it checks the digests itself. Raises BuildError."""
    address, login = registry.address, registry.login
    if login and login.identity_token:
        raise BuildError(
            "apptainer takes no identity token",
            hint="pull without --sif, then `apptainer build`, or log in with a password",
        )

    def write(target: Path, digest: str) -> None:
        source = f"{address.reference(wanted.name)}@{digest}"
        # Read here as well, so that a manifest that is not its digest's is told as everywhere.
        registry.manifest(address.repository(wanted.name), digest)
        who = (login.user, login.password) if login else None
        with trust.bundle(address.host, registry.remote.ca) as bundle:
            remote = Remote(ca=bundle, plain=address.plain)
            apptainer.fetch(source, target, remote, who, progress.line)

    return _pull(wanted, registry, file, write, progress)


def _pull(
    wanted: Wanted,
    registry: Registry,
    file: Path,
    write: Callable[[Path, str], None],
    progress: Progress,
) -> Pulled:
    """Ask for the digest, and have the file written unless it is there; `write` takes both."""
    start, address = time.monotonic(), registry.address
    progress.step(f"asking {address.host}")
    digest = registry.digest(address.repository(wanted.name), wanted.digest or wanted.tag)
    place = address.reference(wanted.name)
    if digest is None:
        missing = f"@{wanted.digest}" if wanted.digest else f":{wanted.tag}"
        raise BuildError(
            f"{place}{missing} is not there",
            hint="`imgbuild push` puts it there, on the host where it was built",
        )
    if wanted.digest not in (None, digest):
        raise BuildError(f"{place}: asked for {wanted.digest}, {address.host} has {digest}")
    note = file.with_name(f"{file.name}.digest")
    before = note.read_text(encoding="utf-8").strip() if note.is_file() and file.is_file() else None
    if before != digest:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = host.aside(file)
        progress.step(f"pulling {place}")
        try:
            write(aside, digest)
            # At no moment does a note stand beside a file that it is not of.
            note.unlink(missing_ok=True)
            aside.replace(file)
            note.write_text(f"{digest}\n", encoding="utf-8")
        finally:
            aside.unlink(missing_ok=True)
    return Pulled(
        file=file,
        reference=f"{place}@{digest}",
        digest=digest,
        before=before,
        changed=before != digest,
        size=file.stat().st_size,
        seconds=round(time.monotonic() - start, 2),
    )

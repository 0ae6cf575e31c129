"""A site's copy of a base image, as an archive: for an engine that cannot be told of mirrors.

Apptainer would write the mirror's name into the SIF, where nothing of the site may stand.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from builder import publish
from builder.engines.base import Archive, Progress
from builder.engines.host import cache_dir
from builder.errors import BuildError
from builder.registry import Registry, credentials, place
from builder.site import Mirror


def fetch(
    reference: str, copies: tuple[Mirror, ...], ca: Path | None, progress: Progress
) -> Archive | None:
    """The first copy that can be had, whole and checked by its digest; None: there is none.

    What is cached is asked for its digest again, and fetched only where that has changed.
    """
    tagged, _, digest = reference.partition("@")
    for copy in copies:
        address, repository, tag = place(copy.reference.partition("@")[0], plain=copy.insecure)
        key = hashlib.sha256(f"{address.url} {reference}".encode()).hexdigest()[:12]
        wanted = publish.Wanted(name=repository, tag=tag, digest=digest or None)
        login = credentials.find(address.host, repository)
        try:
            pulled = publish.pull_archive(
                wanted,
                Registry(address, ca=ca, login=login),
                cache_dir() / "bases" / f"copy-{key}.oci.tar",
                progress,
            )
        except BuildError as error:
            progress.line(f"no copy: {error}")
            continue
        return Archive(path=pulled.file, name=tagged, digest=pulled.digest)
    return None

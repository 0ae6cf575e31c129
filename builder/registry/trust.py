"""Which authorities sign the certificates of registries here."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from builder.errors import UserError

_SYSTEM = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))


def certificates(host: str, env: Mapping[str, str] | None = None) -> list[Path]:
    """The CA files that Docker's and Podman's certs.d hold for one registry."""
    env = os.environ if env is None else env
    config = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "/nonexistent")) / ".config")
    folders = [*_SYSTEM, config / "containers/certs.d", config / "docker/certs.d"]
    return [file for folder in folders for file in sorted((folder / host).glob("*.crt"))]


def context(host: str, ca: Path | None) -> ssl.SSLContext:
    """TLS that knows the system's authorities, the site's `ca` and those of certs.d.

    Raises UserError when one of the files holds no certificate.
    """
    made = ssl.create_default_context()
    for file in (*([ca] if ca else []), *certificates(host)):
        try:
            made.load_verify_locations(file)
        except ssl.SSLError:
            raise UserError(f"{file}: no certificate in it") from None
    return made


@contextmanager
def bundle(host: str, ca: Path | None) -> Iterator[Path | None]:
    """One file with all of them, for programs that know certs.d not."""
    own = certificates(host)
    if not own:
        yield ca
        return
    with TemporaryDirectory(prefix="imgbuild-ca-") as folder:
        file = Path(folder) / "ca.crt"
        texts = (path.read_text(errors="replace") for path in (*([ca] if ca else []), *own))
        file.write_text("\n".join(texts))
        yield file

"""Base images without a registry: a distribution's own packages, put together by mmdebstrap."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from builder import proc
from builder.engines import host, oci
from builder.engines.base import Archive, OnLine
from builder.errors import BuildError
from builder.facts import Archive as DebianArchive
from builder.facts import OperatingSystem
from builder.proc import Command
from builder.project import engines_script
from builder.site import SiteProfile, apt

# Changes when what a bootstrapped base contains changes.
_RECIPE = 4
# Files that would carry this host into the image: its resolver, its name, its mirrors.
_HOST_FILES = (
    "etc/resolv.conf",
    "etc/hostname",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/sources.list.d/0000sources.list",
)
# What the distributions' own container images leave out too (dpkg.cfg.d of debian:12-slim and
# ubuntu:24.04): manuals, translations and all documentation but for licences. dpkg keeps to it
# when layers above install packages.
_LEFT_OUT = ("doc", "groff", "info", "linda", "lintian", "locale", "man")
_KEPT = ("doc/*/copyright", "locale/locale.alias")
# Without it apt meets "usrmerge | usr-is-merged" by the first, which brings all of Perl. Since
# mmdebstrap 1.0; where it is not there, Perl comes.
_MERGED = Path("/usr/share/mmdebstrap/hooks/merged-usr")


def bootstrap(
    name: str,
    os: OperatingSystem,
    site: SiteProfile,
    on_line: OnLine,
    *,
    epoch: int,
    refresh: bool = False,
) -> Archive:
    """An OCI archive of `os`, from the cache unless `refresh`; `epoch` in seconds.

    Raises BuildError when mmdebstrap is missing or fails.
    """
    if os.archive is None:
        raise BuildError(f"{os.title} cannot be bootstrapped", hint="a registry must serve it")
    asked = [_RECIPE, os.archive.model_dump(mode="json"), epoch]
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    stem = f"localhost/imgbuild-base:{name}"
    target = host.cache_dir() / "bases" / f"{name}-{key}.oci.tar"
    if not target.is_file() or refresh:
        _make(os.archive, site, target, on_line, name=stem, epoch=epoch)
    digest = oci.manifest_digest(target)
    return Archive(path=target, name=oci.named(stem, digest), digest=digest)


def _make(
    packages: DebianArchive,
    site: SiteProfile,
    target: Path,
    on_line: OnLine,
    *,
    name: str,
    epoch: int,
) -> None:
    if not proc.find("mmdebstrap"):
        hint = f"`{engines_script()} install bootstrap` does it"
        raise BuildError("mmdebstrap is not installed", hint=hint)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="imgbuild-base-", dir=target.parent))
    scratch = Path(tempfile.mkdtemp(prefix="imgbuild-base-"))
    try:
        scratch.chmod(0o755)  # an ordinary user's mmdebstrap works there as somebody else
        rootfs = work / "rootfs.tar"
        sources = "\n".join(apt.lines(packages, {}))
        args = ["mmdebstrap", "--variant=apt", "--format=tar"]
        args += [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _LEFT_OUT]
        args += [f"--dpkgopt=path-include=/usr/share/{file}" for file in _KEPT]
        if packages.usr_is_merged and _MERGED.is_dir():
            args.append(f"--hook-dir={_MERGED}")
        args += [f"--aptopt={option.rstrip(';')}" for option in site.apt_options]
        if site.ca:
            args.append(f'--aptopt=Acquire::https::CAInfo "{site.ca}"')
        if site.apt_login:
            login = scratch / "auth.conf"
            login.touch(mode=0o600)
            login.write_text(site.apt_login, encoding="utf-8", errors="surrogateescape")
            args.append(f'--aptopt=Dir::Etc::netrc "{login}"')
        args += [f'--customize-hook=rm -f "$1"/{file}' for file in _HOST_FILES]
        args.append(f"--customize-hook=echo '{sources}' > \"$1\"/etc/apt/sources.list")
        args += [packages.suite, str(rootfs), *apt.lines(packages, site.apt_sources)]
        # A TMPDIR of its own: an interrupted mmdebstrap leaves its tree where we clean up.
        env = {"SOURCE_DATE_EPOCH": str(epoch), "TMPDIR": str(scratch), **site.proxies}
        proc.stream(Command(args=tuple(args), env=env, redact=site.redact), on_line)
        oci.write_archive(rootfs, work / "base.tar", name=name, epoch=epoch)
        (work / "base.tar").replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        _remove(scratch)


def _remove(folder: Path) -> None:
    """Remove a folder, but nothing that is mounted below it: mmdebstrap mounts the host's /dev."""
    for place in _mounted_below(folder):
        proc.capture(Command(args=("umount", "--lazy", place)), check=False)
    if not _mounted_below(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _mounted_below(folder: Path) -> list[str]:
    """Mount points below a folder, the deepest first."""
    places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted((p for p in places if p.startswith(f"{folder}/")), key=len, reverse=True)

"""One folder for every cache that the stack writes, found by trying.

vLLM, Triton, FlashInfer and others write below the home, and die where that is read-only
("Read-only file system: '/root/.triton'"). Which variables place them is the image's own table
(`caches` of manifest.json); a variable that the user has set stays.
"""

from __future__ import annotations

import os
import stat
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterator, Mapping, Sequence

SHARED = ("/tmp", "/var/tmp", "/dev/shm")
_NAMED = ("IMGBUILD_CACHE", "XDG_CACHE_HOME", "TMPDIR")  # folders that the user may choose
# A UNIX socket's path has at most 107 bytes (unix(7)), and servers add names of some 50.
LONGEST_TMPDIR = 56


def writable(folder: str) -> bool:
    """Whether a file can be made in `folder`, tried rather than asked: mounts lie to access(2)."""
    file = os.path.join(folder, f".imgbuild-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.unlink(file)
    except OSError:
        return False
    return True


def creatable(folder: str) -> bool:
    """What `writable` would say, without writing: the nearest folder that is there is asked."""
    place = os.path.abspath(folder)
    while not os.path.lexists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    return os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)


def private(folder: str) -> bool:
    """Whether `folder` is ours and no link: a host's /tmp is shared, and code is cached here."""
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def scratch(environment: Mapping[str, str]) -> str | None:
    """A folder of this user's in the first place that can be written; None without any."""
    name = f"imgbuild-{os.getuid()}"
    for place in (environment.get("IMGBUILD_CACHE"), environment.get("TMPDIR"), *SHARED):
        folder = os.path.join(place or "", name)
        if place and writable(folder) and private(folder):
            return folder
    return None


def home(environment: Mapping[str, str]) -> str | None:
    """HOME if it can be written, else a folder of this user's in the first place that can."""
    own = environment.get("HOME", "")
    if own and own != "/" and writable(own):
        return own
    return scratch(environment)


def root(environment: Mapping[str, str], own_home: str | None) -> str | None:
    """Where caches go: IMGBUILD_CACHE, else XDG_CACHE_HOME, else the home's own folder for them."""
    for wanted in _wanted(environment):
        if writable(wanted):
            return wanted
    # A volume may be mounted there, below a home that is read-only.
    mounted = _usual(environment)
    if os.path.isdir(mounted) and writable(mounted):
        return mounted
    # A home may be ours and its .cache not: Docker makes the parents of a mount as root.
    for place in (own_home, None):
        folder = place or scratch(environment)
        if folder and writable(os.path.join(folder, ".cache")):
            return os.path.join(folder, ".cache")
    return None


def short_tmpdir(environment: Mapping[str, str]) -> str | None:
    """A short name of a long TMPDIR, so that sockets in it can be bound; None where none is needed.

    A link: what is written stays where the user wanted it.
    """
    long = environment.get("TMPDIR", "")
    if len(os.fsencode(long)) <= LONGEST_TMPDIR:
        return None
    for place in SHARED:
        folder = os.path.join(place, f"imgbuild-{os.getuid()}")
        if not (writable(folder) and private(folder)):
            continue
        # The same name each time: a shared /tmp does not fill with links.
        target = os.path.abspath(long)
        link = os.path.join(folder, f"tmp-{zlib.crc32(os.fsencode(target)):08x}")
        if _linked(link, target):
            return link
    return None


def _linked(link: str, target: str) -> bool:
    """Whether the link is there, or has been there, and leads to its target."""
    try:
        os.symlink(target, link)
    except FileExistsError:
        try:
            return os.readlink(link) == target
        except OSError:
            return False
    except OSError:
        return False
    return True


def placed(
    environment: Mapping[str, str], rows: Sequence[Dict[str, str]]
) -> tuple[Dict[str, str], list[str]]:
    """Variables to set, and what went wrong, as sentences."""
    # Servers change folders: what the user names from here is meant from here.
    named = {name: os.path.abspath(value) for name in _NAMED if (value := environment.get(name))}
    given = environment.get("TMPDIR")
    environment = {**environment, **named}
    own_home = home(environment)
    folder = root(environment, own_home)
    chosen: Dict[str, str] = {}
    if own_home is not None:
        chosen["HOME"] = own_home
    if folder is not None:
        own = environment.get("XDG_CACHE_HOME")
        chosen["XDG_CACHE_HOME"] = own if own and writable(own) else folder
        chosen.update(_places(environment, folder, rows, writable))
    if environment.get("TMPDIR") != given:
        chosen["TMPDIR"] = environment["TMPDIR"]
    elif not given and own_home is not None and not writable("/tmp"):
        chosen["TMPDIR"] = own_home
    if (tmpdir := short_tmpdir(environment)) is not None:
        chosen["TMPDIR"] = tmpdir
    # getpass.getuser() raises for a uid without a passwd entry; torch asks it for cache folders.
    if not environment.get("USER"):
        chosen["USER"] = "imgbuild"
    unused = list(_unused(environment, folder, rows, chosen))
    return chosen, [*_wrong(environment, own_home, folder), *unused]


def _usual(environment: Mapping[str, str]) -> str:
    """The folder for caches where nobody names one."""
    return os.path.join(environment.get("HOME") or "/nonexistent", ".cache")


def _places(
    environment: Mapping[str, str],
    folder: str,
    rows: Sequence[Dict[str, str]],
    takes: Callable[[str], bool],
) -> Dict[str, str]:
    """Each cache's variable that the user has not set, and its place.

    Below `folder`, unless a volume is mounted where the cache lies by default; `takes` says whether
    that can be written.
    """
    chosen = {}
    for row in rows:
        if not environment.get(row["variable"]):
            mount = os.path.join(_usual(environment), row["folder"])
            used = os.path.ismount(mount) and (_read_only(mount) or takes(mount))
            chosen[row["variable"]] = mount if used else os.path.join(folder, row["folder"])
    return chosen


def _read_only(mount: str) -> bool:
    """Whether it is mounted so: somebody has models there to be read, and wants no others."""
    try:
        return bool(os.statvfs(mount).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _wrong(
    environment: Mapping[str, str], own_home: str | None, folder: str | None
) -> Iterator[str]:
    own = environment.get("HOME", "/")
    if own_home is None:
        yield "no writable folder for caches; mount one and set IMGBUILD_CACHE and HOME"
    elif own not in ("", "/", own_home):
        yield f"HOME={own} cannot be written; it is {own_home} now"
    for name in ("IMGBUILD_CACHE", "XDG_CACHE_HOME"):
        if environment.get(name) and not writable(environment[name]):
            place = "elsewhere" if folder is None else f"to {folder}"
            yield f"{name}={environment[name]} {_refused()}; caches go {place}"
    usual = os.path.join(own_home or "", ".cache")
    if own_home == own and folder not in _wanted(environment) and folder != usual:
        place = "nowhere: set IMGBUILD_CACHE" if folder is None else f"to {folder}"
        yield f"{usual} {_refused()}; caches go {place}"


def _unused(
    environment: Mapping[str, str],
    folder: str | None,
    rows: Sequence[Dict[str, str]],
    chosen: Mapping[str, str],
) -> Iterator[str]:
    """Volumes that are mounted for a cache, and cannot take it."""
    for row in rows if folder is not None else ():
        mount = os.path.join(_usual(environment), row["folder"])
        place = chosen.get(row["variable"])
        if place and os.path.ismount(mount) and not (_read_only(mount) or writable(mount)):
            yield f"{mount} {_refused()}; {row['variable']} is {place}"


def _refused() -> str:
    """Fresh volumes are root's."""
    uid = os.getuid()
    return f"cannot be written by uid {uid} (chown it to that, or start as its owner with --user)"


def _wanted(environment: Mapping[str, str]) -> list[str]:
    """Folders for caches that the user names, the first first."""
    named = (environment.get(name) for name in ("IMGBUILD_CACHE", "XDG_CACHE_HOME"))
    return [folder for folder in named if folder]


def looked_up(environment: Mapping[str, str], rows: Sequence[Dict[str, str]]) -> Dict[str, str]:
    """Where `placed` would put caches, for who only looks: nothing is written.

    Without the scratch folders, in which nobody has models before a start has made them.
    """
    named = [os.path.abspath(folder) for folder in _wanted(environment)]
    folder = next((place for place in (*named, _usual(environment)) if creatable(place)), None)
    return _places(environment, folder, rows, creatable) if folder else {}

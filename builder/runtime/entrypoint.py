"""What the container starts: finds a writable home, then becomes the server or the user's command.

    entrypoint.py SERVER... -- ARGUMENTS...

ARGUMENTS that begin with a program on PATH run that program (`docker run IMAGE bash`); any others
are the server's (`docker run IMAGE --model X`, `docker run IMAGE org/model`). Nothing of this
process stays: it ends in exec, under the init that started it.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from typing import Dict, List, Mapping, Sequence

USAGE = 64  # EX_USAGE of sysexits.h
SHARED = ("/tmp", "/var/tmp", "/dev/shm")


def command(server: Sequence[str], arguments: Sequence[str], path: str | None = None) -> List[str]:
    """What to exec: the user's program if the first argument is one, else the server."""
    if arguments and not arguments[0].startswith("-") and shutil.which(arguments[0], path=path):
        return list(arguments)
    return [*server, *arguments]


def writable(folder: str) -> bool:
    """Whether a file can be made in `folder`, tried rather than asked: mounts lie to access(2)."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def private(folder: str) -> bool:
    """Whether `folder` is ours and no link: a host's /tmp is shared, and code is cached here."""
    status = os.lstat(folder)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def home(environment: Mapping[str, str]) -> str | None:
    """HOME if it can be written, else a folder of this user's in the first place that can.

    vLLM, Triton and others die on a read-only home ("Read-only file system: '/root/.triton'").
    Returns None when no place can be written at all.
    """
    own = environment.get("HOME", "")
    if own and own != "/" and writable(own):
        return own
    name = f"imgbuild-{os.getuid()}"
    for place in (environment.get("TMPDIR"), *SHARED):
        folder = os.path.join(place or "", name)
        if place and writable(folder) and private(folder):
            return folder
    return None


def prepare(environment: Mapping[str, str]) -> Dict[str, str]:
    """The environment for the server: what the user set stays as it is."""
    prepared = dict(environment)
    found = home(environment)
    if found is None:
        print("imgbuild: no writable folder for caches; mount one and set HOME", file=sys.stderr)
    else:
        prepared["HOME"] = found
    # getpass.getuser() raises for a uid without a passwd entry; torch asks it for cache folders.
    prepared.setdefault("USER", "imgbuild")
    return prepared


def main(arguments: Sequence[str]) -> int:
    """Exec the command; returns only with an exit code that says why it could not."""
    if "--" not in arguments[1:]:
        print("usage: entrypoint.py SERVER... -- ARGUMENTS...", file=sys.stderr)
        return USAGE
    split = list(arguments).index("--")
    wanted = command(arguments[:split], arguments[split + 1 :])
    try:
        os.execvpe(wanted[0], wanted, prepare(os.environ))
    except OSError as error:
        print(f"imgbuild: cannot start {wanted[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

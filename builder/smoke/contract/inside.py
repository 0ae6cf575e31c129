"""What the contract asks inside an image: `python3 -c TEXT PART ...` prints JSON on its last line.

Standard library, Python 3.9. Images do not hold it, so that it can ask any of them.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import pwd
import re
import signal
import socket
import stat
import sys
import tempfile
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Seen = dict[str, Any]

MANIFEST = "/opt/imgbuild/manifest.json"
READY = "ready for SIGTERM"
ORPHANS = 5
SOCKET_NAME = "s" * 50  # servers name theirs by a UUID and more

# What distributions themselves ship with other rights than the caller's, and cannot do without.
OF_THE_DISTRIBUTION = {
    "chage", "chfn", "chsh", "expiry", "gpasswd", "mount", "newgidmap", "newgrp", "newuidmap",
    "passwd", "pam_extrausers_chkpwd", "pam_timestamp_check", "su", "umount", "unix_chkpwd",
    "unix_update", "write",
}  # fmt: skip
PROGRAM_FOLDERS = {"/bin", "/sbin", "/usr/bin", "/usr/sbin"}
# Everybody may write here, and the sticky bit keeps each to his own.
SHARED = {"/tmp", "/var/tmp", "/run/lock", "/var/lock", "/var/crash", "/dev/shm"}
# Mounts of the kernel's and of the engine's own, which are not the image.
VIRTUAL = {"proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}
SITE_FILES = re.compile(
    r"""(^|/)(
    \.?pip/pip\.(conf|ini) | (etc|venv)/pip\.conf | uv\.toml | [._]?netrc | \.pypirc | \.npmrc
    | \.git-credentials | \.?docker/config\.json | containers/auth\.json | \.aws/credentials
    | \.kube/config | huggingface/(token|stored_tokens) | apt/auth\.conf(\.d/.+)?
    | id_(rsa|dsa|ecdsa|ed25519) )$""",
    re.VERBOSE,
)
# Wheels bring test keys and examples, which are public.
PACKAGES = ("/site-packages/", "/dist-packages/")
READ = ("/etc/", "/root/", "/home/", "/opt/", "/srv/", "/mnt/", "/run/")
KEY_FILE = re.compile(r"\.(pem|key)$")
LONGEST = 1 << 16  # bytes of a file that is read; settings are smaller
CONTENTS = {
    "private key": re.compile(rb"^-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----", re.MULTILINE),
    "login in an address": re.compile(rb"^(?!\s*[#;]).*://[^/@\s:'\"]+:[^/@\s]+@\w", re.MULTILINE),
    "proxy": re.compile(
        rb"^(?!\s*[#;/])\s*(Acquire::(\w+::)*Proxy\b.*\w|proxy\s*=\s*\S"
        rb"|(export\s+)?(https?|ftp|all)_proxy=.*\w)",
        re.MULTILINE | re.IGNORECASE,
    ),
}
PROXY_PLACES = ("/etc/apt/", "/etc/dnf/", "/etc/yum", "/etc/profile", "/etc/environment",
                "/etc/bash", "/etc/zypp/", "/etc/sysconfig/", "/root/.", "/home/")  # fmt: skip


def identity() -> Seen:
    """Who this is."""
    try:
        name: str | None = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = None
    return {"uid": os.getuid(), "gid": os.getgid(), "passwd": name}


def writable(module: str = "") -> Seen:
    """Import a framework, then write to the home, every cache and the temporary folder."""
    if module:
        importlib.import_module(module)
    places = {name: os.environ.get(name, "") for name in ("HOME", "XDG_CACHE_HOME", *caches())}
    places["the temporary folder"] = tempfile.gettempdir()
    reasons = {name: refusal(folder) for name, folder in places.items()}
    return {
        **identity(),
        "places": places,
        "refused": {name: why for name, why in reasons.items() if why},
        "read_only": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
    }


def caches(file: str = MANIFEST) -> list[str]:
    """Variables that place the stack's caches, as the image's manifest has them."""
    try:
        with open(file, encoding="utf-8") as opened:
            return [row["variable"] for row in json.load(opened)["caches"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def refusal(folder: str) -> str:
    """Why no file can be made in `folder`; "" where one can."""
    if not folder:
        return "not set"
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"written")
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return ""


def offline(module: str = "") -> Seen:
    """Import a framework where nothing can be reached, and talk to oneself."""
    with open("/proc/net/route", encoding="ascii") as file:
        routes = [line.split()[0] for line in file.readlines()[1:] if line.strip()]
    if module:
        importlib.import_module(module)
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    return {"routes": routes}


def tmpdir() -> Seen:
    """Bind a socket with a server's name in the temporary folder."""
    folder = tempfile.gettempdir()
    file = os.path.join(folder, SOCKET_NAME)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(file)
    os.unlink(file)
    return {"folder": folder, "real": os.path.realpath(folder)}


def wait(code: str = "") -> Seen:
    """A server's stand-in: ends by SIGTERM, with an exit code of its own if one is given."""
    if code:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(code)))
    say({"ready": READY})
    time.sleep(600)
    return {"ended": "by itself"}


def zombies() -> Seen:
    """Leave orphans behind that end soon; which of them nobody has taken away after 3 s."""
    for _ in range(ORPHANS):
        parent = os.fork()
        if parent == 0:
            if os.fork() == 0:
                time.sleep(0.3)
            os._exit(0)
        os.waitpid(parent, 0)
    time.sleep(0.6)
    deadline = time.monotonic() + 2.4
    while (left := dead()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return {"zombies": left, "init": command(1)}


def dead(folder: str = "/proc") -> list[str]:
    """Processes in state Z."""
    found = []
    for name in os.listdir(folder):
        try:
            with open(f"{folder}/{name}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")
        except OSError:
            continue
        if name.isdigit() and fields[2].split()[:1] == ["Z"]:
            found.append(f"{fields[0]})")
    return found


def command(pid: int) -> str:
    """A process's program."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"


def contents(root: str = "/") -> Seen:
    """All files of the image: what has too many rights, or is a site's or a person's own."""
    files, unread = 0, []
    found = []
    elsewhere = {place for place, kind in mounts() if kind in VIRTUAL and place != "/"}
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            unread.append(folder)
            continue
        for entry in entries:
            if entry.path in elsewhere:
                continue
            status = entry.stat(follow_symlinks=False)
            files += 1
            path = "/" + os.path.relpath(entry.path, root)
            found += [[what, path] for what in faults(entry.path, path, status)]
            if stat.S_ISDIR(status.st_mode):
                pending.append(entry.path)
    found.sort(key=lambda row: row[1])
    return {"files": files, "unread": sorted(unread), "found": found}


def mounts() -> list[tuple[str, str]]:
    """Mount points and their file systems' kinds."""
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
        rows = [line.split() for line in file]
    return [(row[1], row[2]) for row in rows]


def faults(file: str, path: str, status: os.stat_result) -> Iterator[str]:
    """What is wrong with a file, which the image knows as `path`."""
    mode = status.st_mode
    if stat.S_ISLNK(mode) or stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
        return
    if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID) and not expected(path, status):
        yield "setuid" if mode & stat.S_ISUID else "setgid"
    if stat.S_ISREG(mode) and capable(file) and not expected(path, status):
        yield "file capability"
    sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
    if mode & stat.S_IWOTH and not (sticky and path in SHARED):
        yield "world-writable"
    if not stat.S_ISREG(mode):
        return
    packaged = any(part in path for part in PACKAGES)
    if SITE_FILES.search(path) and not packaged:
        yield "site setting"
    if not packaged and status.st_size <= LONGEST:
        yield from says(file, path)


def capable(file: str) -> bool:
    """Whether a file gives who runs it a right of root's, as `setcap cap_net_raw+ep` makes it."""
    try:
        return bool(os.getxattr(file, "security.capability", follow_symlinks=False))
    except OSError as error:
        return error.errno == errno.EOVERFLOW  # one of another user namespace's


def expected(path: str, status: os.stat_result) -> bool:
    """Whether the distribution needs a file's setuid or setgid bit, or its capability."""
    folder, name = os.path.split(path)
    return status.st_uid == 0 and folder in PROGRAM_FOLDERS and name in OF_THE_DISTRIBUTION


def says(file: str, path: str) -> Iterator[str]:
    """What must not be in a file, and is."""
    if not (path.startswith(READ) or KEY_FILE.search(path)):
        return
    try:
        with open(file, "rb") as opened:
            text = opened.read()
    except OSError:
        return
    if b"\0" in text:
        return
    for what, pattern in CONTENTS.items():
        if (what != "proxy" or path.startswith(PROXY_PLACES)) and pattern.search(text):
            yield what


def say(seen: Seen) -> None:
    """One line."""
    print(json.dumps(seen), flush=True)


PARTS = {
    part.__name__: part
    for part in (identity, writable, offline, tmpdir, wait, zombies, contents)
}  # fmt: skip

if __name__ == "__main__":
    say(PARTS[sys.argv[1]](*sys.argv[2:]))

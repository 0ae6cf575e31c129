"""What everybody may expect of an image, whatever it serves: ten checks, and more by framework.

A check is a function: it returns what it saw, and raises BuildError for what is wrong; what was
asked of an engine and did not come about is wrong, too. A check is skipped where the engine says
by an UnsupportedError that it cannot, or where a program needs a device that this host has not.
Images inherit them: `ALL`, `INSTALLED` where there are wheels in it, `OWN` of its framework.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from builder.engines.base import Container, Engine, UnsupportedError
from builder.errors import BuildError, quoted
from builder.model import Cell
from builder.smoke import inside
from builder.smoke.report import OnCheck, Skip, SmokeReport, checked
from builder.smoke.subject import LOG_TAIL, Subject, last_words

INSIDE = Path(inside.__file__).read_text(encoding="utf-8")
SCRATCH = "/tmp"  # noqa: S108 - the container's
LONG = f"{SCRATCH}/{'t' * (150 - len(SCRATCH) - 1)}"
# Kubernetes and OpenShift give a uid that nobody knows, with group 0 or without.
STRANGERS = ("123456:0", "123456:123456")
STOP_SECONDS = 10.0
OWN_CODE, KILLED = 43, 128 + 15
START_SECONDS = 60.0  # of a stand-in, which only prints a line
# The strictest that a cluster has: nowhere to be at home, and one folder to write to.
ANYWHERE: dict[str, Any] = {"home": False, "read_only": True, "tmpfs": (SCRATCH,)}

LABELS = (
    *(f"org.opencontainers.image.{name}" for name in ("title", "version", "source", "licenses")),
    "org.opencontainers.image.created",
    "io.imgbuild.cell",
    "io.imgbuild.content",
)
_SITE_VARIABLE = re.compile(
    r"(?:https?|ftp|all|no)_proxy|pip_(?:extra_)?index(?:_url)?|pip_pypi_url"
    r"|pip_(?:find_links|cert|client_cert|trusted_host|proxy|config_file)"
    r"|uv_(?:default_index|extra_index_url|find_links|config_file|index.*)"
    r"|netrc|ssl_cert_(?:file|dir)|(?:requests|curl)_ca_bundle|node_extra_ca_certs|ssh_auth_sock",
    re.IGNORECASE,
)
# By the name's end. PWD is a shell's own, and GPG_KEY is how images of Python name who signs it.
_SECRET_VARIABLE = re.compile(
    r"(?!gpg_key$|.*public_key$)"
    r"(?:.*passw(?:or)?d|.*passphrase|.+_pwd|.*api_?key"
    r"|(?:.*_)?(?:token|pass|secret|key|access_key_id|credentials))",
    re.IGNORECASE,
)
# HF_HUB_DISABLE_IMPLICIT_TOKEN=1 is none.
_SWITCH = re.compile(r"[01]|true|false|yes|no|on|off", re.IGNORECASE)
_LOGIN = re.compile(r"://[^/@\s:]+:[^/@\s]+@")
_SHELL = re.compile(r"(?:.*/)?(?:ba|rba|da|a|z|k|mk|c|tc|fi|ya)?sh")
_ENV = re.compile(r"(?:.*/)?env")
_ENV_SPLIT = re.compile(r"(?:-[a-zA-Z]*?S|--split-string=?)(.*)", re.DOTALL)


def check_contract(
    cell: Cell,
    engine: Engine,
    image: str,
    on_check: OnCheck,
    *,
    static: bool = False,
    timeout: float = 600.0,
) -> SmokeReport:
    """Run all checks, also after one fails; `static` starts no server.

    `timeout` is how many seconds the server may take to become healthy.
    """
    subject = Subject(cell=cell, engine=engine, image=image, static=static, timeout=timeout)
    checks = []
    for name, check in checks_of(cell):
        on_check(name)
        checks.append(checked(name, partial(check, subject)))
    return SmokeReport(cell_id=cell.id, image=image, engine=engine.name, checks=tuple(checks))


def user(subject: Subject) -> str:
    """Nobody special, and by number: Kubernetes' runAsNonRoot does not look names up."""
    printed = subject.says("-u", entrypoint="id").strip()
    if not printed.isdigit():
        raise BuildError(f"`id -u` prints {quoted(printed)}")
    uid = int(printed)
    if subject.is_sif:
        if uid != os.getuid():
            raise BuildError(f"uid {uid}, and the caller's is {os.getuid()}")
        return f"uid {uid}, the caller's"
    named = (subject.config.user or "").partition(":")[0]
    if uid == 0:
        raise BuildError("the image runs as root")
    if not named.isdigit():
        raise BuildError(f"USER is {named!r}, not a number")
    return f"uid {uid}"


def any_uid(subject: Subject) -> str:
    """A uid without a passwd entry, with group 0 and without."""
    homes = []
    for stranger in STRANGERS:
        seen = _writes(_sees(subject, "writable", user=stranger), stranger)
        if (runs_as := f"{seen['uid']}:{seen['gid']}") != stranger:
            raise BuildError(f"it runs as {runs_as}, and {stranger} was asked for")
        if seen["passwd"]:
            raise BuildError(f"{stranger} is no stranger to it, but {seen['passwd']!r}")
        homes.append(f"{stranger} has the home {seen['places']['HOME']}")
    return ", ".join(homes)


def read_only(subject: Subject) -> str:
    """One writable folder is enough, for the framework's import too."""
    seen = _sees(subject, "writable", subject.module, read_only=True, tmpfs=(SCRATCH,))
    _writes(seen)
    if not seen["read_only"]:
        raise BuildError("its root stays writable")
    imported = f"{subject.module} imports, and " if subject.module else ""
    return f"{imported}{len(seen['places'])} places are writable, HOME is {seen['places']['HOME']}"


def no_home(subject: Subject) -> str:
    """HOME is a folder that is not there and cannot be made."""
    seen = _writes(_sees(subject, "writable", **ANYWHERE))
    return f"HOME becomes {seen['places']['HOME']}"


def _sees(subject: Subject, part: str, *args: str, **how: Any) -> dict[str, Any]:
    """What a part of inside.py finds, started as the image starts a user's command."""
    own = () if "entrypoint" in how else (subject.python,)
    printed = subject.says(*own, "-c", INSIDE, part, *args, **how)
    lines = printed.splitlines()
    try:
        seen = json.loads(lines[-1])
    except (IndexError, ValueError):
        seen = None
    if not isinstance(seen, dict):
        raise BuildError(f"`{subject.python}` prints something else", tail=lines[-LOG_TAIL:])
    return seen


def _writes(seen: dict[str, Any], who: str = "") -> dict[str, Any]:
    if seen["refused"]:
        tail = [f"{name}: {why}" for name, why in seen["refused"].items()]
        whose = f" for {who}" if who else ""
        raise BuildError(f"not writable{whose}: {', '.join(seen['refused'])}", tail=tail)
    return seen


def no_network(subject: Subject) -> str:
    """It starts, the framework imports, and loopback works."""
    seen = _sees(subject, "offline", subject.module, network=False)
    if seen["routes"]:
        raise BuildError(f"it keeps a route by {', '.join(seen['routes'])}")
    return f"{f'{subject.module} imports' if subject.module else 'it starts'}, without any route"


def sigterm(subject: Subject) -> str:
    """It reaches what runs, soon, and the exit code comes back."""
    told = [_stand_in(subject, OWN_CODE, str(OWN_CODE)), _stand_in(subject, KILLED)]
    if subject.static or subject.cannot_serve:
        why = "--static" if subject.static else subject.cannot_serve
        return f"{', '.join(told)}; no server: {why}"
    with _removed(subject.start()) as container:
        subject.healthy(container)
        told.append(_ends(container, "the server", (0, KILLED)))
    return ", ".join(told)


def _stand_in(subject: Subject, code: int, *handler: str) -> str:
    """A command in the server's place, which ends with that code."""
    asked = subject.container(subject.python, "-c", INSIDE, "wait", *handler)
    with _removed(subject.engine.start(asked)) as container:
        _ready(container)
        return _ends(container, "a command", (code,))


@contextmanager
def _removed(container: Container) -> Iterator[Container]:
    try:
        yield container
    finally:
        container.remove()


def _ready(container: Container) -> None:
    deadline = time.monotonic() + START_SECONDS
    while inside.READY not in container.log():
        if (code := container.exit_code()) is not None:
            tail = last_words(container)
            raise BuildError(f"a command ended at once with exit code {code}", tail=tail)
        if time.monotonic() > deadline:
            tail = last_words(container)
            raise BuildError(f"a command did not start in {START_SECONDS:g} s", tail=tail)
        time.sleep(0.1)


def _ends(container: Container, what: str, codes: tuple[int, ...]) -> str:
    start = time.monotonic()
    try:
        code = container.stop(STOP_SECONDS)
    except BuildError:
        tail = last_words(container)
        raise BuildError(f"{what} ignored SIGTERM for {STOP_SECONDS:g} s", tail=tail) from None
    if code not in codes:
        wanted = " or ".join(map(str, codes))
        tail = last_words(container)
        raise BuildError(f"{what} gives exit code {code}, not {wanted}", tail=tail)
    return f"{what} gives {code} after {time.monotonic() - start:.1f} s"


def zombies(subject: Subject) -> str:
    """Orphans that end are taken away."""
    seen = _sees(subject, "zombies")
    if seen["zombies"]:
        raise BuildError(f"nobody reaps: {', '.join(seen['zombies'])} (init: {seen['init']})")
    return f"{inside.ORPHANS} orphans, reaped by {seen['init']}"


def tmpdir(subject: Subject) -> str:
    """Sockets can be bound below a TMPDIR that is longer than a socket's path may be."""
    try:
        seen = _sees(subject, "tmpdir", env={"TMPDIR": LONG}, tmpfs=(LONG,))
    except UnsupportedError:
        # Without that folder: the sockets have to be somewhere else.
        seen = _sees(subject, "tmpdir", env={"TMPDIR": LONG})
    else:
        if seen["real"] != LONG:
            raise BuildError(f"TMPDIR has {len(LONG)} characters, and {seen['real']} is used")
    return f"a socket is bound in {seen['folder']}"


def contents(subject: Subject) -> str:
    """No secrets, no settings of a site, no rights that nobody needs."""
    wrong = [f"environment: {why}" for why in _telling("variable", subject.config.env)]
    wrong += [f"labels: {why}" for why in _telling("label", subject.config.labels)]
    # Root, who may read everything; Apptainer knows its caller alone.
    how: dict[str, Any] = {} if subject.is_sif else {"user": "0:0", "network": False}
    seen = _sees(subject, "contents", entrypoint=subject.python, timeout=900.0, **how)
    wrong += [f"{what}: {path}" for what, path in seen["found"]]
    if wrong:
        raise BuildError(f"{len(wrong)} things do not belong into an image", tail=wrong)
    unread = f", {len(seen['unread'])} folders are closed to us" if seen["unread"] else ""
    return f"{seen['files']} files{unread}"


def _telling(kind: str, table: Any) -> Iterator[str]:
    """Names whose values are a site's or a person's own; a secret is not repeated."""
    for name, value in table.items():
        secret = _SECRET_VARIABLE.fullmatch(name) and not _SWITCH.fullmatch(value)
        if value and (secret or _SITE_VARIABLE.fullmatch(name)):
            yield f"the {kind} {name} is set"
        elif _LOGIN.search(value):
            yield f"the {kind} {name} holds a login"


def metadata(subject: Subject) -> str:
    """Labels, port, health check, and nothing that goes through a shell."""
    config, server = subject.config, subject.cell.framework.server
    wrong = [*_label_faults(subject), *_start_faults(subject)]
    if config.ports is not None and f"{server.port}/tcp" not in config.ports:
        wrong.append(f"the port {server.port} is not exposed")
    if config.health is not None:
        if not config.health or config.health[0] == "NONE":
            wrong.append("there is no health check")
        elif config.health[0] != "CMD" or _is_shell(config.health[1:]):
            wrong.append("the health check goes through a shell")
    if wrong:
        raise BuildError("; ".join(wrong))
    rest = "a SIF has no port and no health check" if subject.is_sif else "port, health check"
    return f"{len(config.labels)} labels, start without a shell, {rest}"


def _label_faults(subject: Subject) -> Iterator[str]:
    labels, cell = subject.config.labels, subject.cell
    if missing := [name for name in LABELS if not labels.get(name)]:
        yield f"no label {', '.join(missing)}"
    wanted = {
        "org.opencontainers.image.title": cell.id,
        "org.opencontainers.image.version": cell.release.version,
        "io.imgbuild.cell": cell.id,
    }
    for name, value in wanted.items():
        if labels.get(name, value) != value:
            yield f"the label {name} is {labels[name]}, not {value}"
    created = labels.get("org.opencontainers.image.created")
    try:
        datetime.fromisoformat(created or "2000-01-01")
    except ValueError:
        yield f"the label org.opencontainers.image.created is no time: {created}"


def _start_faults(subject: Subject) -> Iterator[str]:
    start = subject.config.start
    if not start:
        yield "nothing says what it starts"
    elif subject.is_sif:
        last = [line.strip() for line in start if line.strip()][-1:]
        if not last or not last[0].startswith("exec "):
            yield "the runscript does not end in exec, so that a shell stays before the server"
        elif _is_shell(last[0].split()[1:]):
            yield "the runscript goes through another shell, which stays before the server"
    elif _is_shell(start):
        yield "ENTRYPOINT or CMD goes through a shell, which keeps signals from the server"


def _is_shell(command: Sequence[str]) -> bool:
    """Whether it is a shell with a line to read, or starts one, as `tini -- sh -c LINE` does."""
    for index, word in enumerate(command):
        following = command[index + 1 :]
        if _SHELL.fullmatch(word) and _reads_a_line(following):
            return True
        if _ENV.fullmatch(word) and _is_shell(_split_by_env(following)):
            return True
    return False


def _reads_a_line(arguments: Sequence[str]) -> bool:
    """Whether -c is among a shell's options, which end where its script's name stands."""
    words = iter(arguments)
    for word in words:
        if word in ("-", "--") or word[:1] not in ("-", "+"):
            return False
        if word in ("--rcfile", "--init-file"):
            next(words, None)
        elif not word.startswith("--"):
            if word.startswith("-") and "c" in word:
                return True
            if word[-1] in "oO":  # -o pipefail, -euxo pipefail
                next(words, None)
    return False


def _split_by_env(arguments: Sequence[str]) -> list[str]:
    """Words of the text that `env -S TEXT` splits; none where it splits nothing."""
    for index, word in enumerate(arguments):
        if match := _ENV_SPLIT.fullmatch(word):
            return [*match[1].split(), *" ".join(arguments[index + 1 :]).split()]
        if not word.startswith("-") and "=" not in word:
            break
    return []


def version(subject: Subject) -> str:
    """The framework that is imported is the cell's release."""
    return subject.version(partial(subject.says, **ANYWHERE))


def distribution(name: str) -> Check:
    """The same by what pip knows, for upstream's images: their imports may want a GPU."""
    code = f"from importlib.metadata import version; print(version({name!r}))"

    def check(subject: Subject) -> str:
        return subject.confirms(name, subject.says(subject.python, "-c", code, **ANYWHERE))

    return check


def program(*command: str, on_device: bool = False, is_release: bool = True) -> Check:
    """The image's start runs a program of the framework's, which names its release.

    `on_device`: it stops where the device is missing. Not `is_release`: it names another one.
    """
    shown = f"`{' '.join(command)}`"

    def check(subject: Subject) -> str:
        if on_device and subject.cannot_serve:
            raise Skip(f"{shown} {subject.cannot_serve}")
        printed = subject.says(*command, **ANYWHERE)
        if is_release:
            return subject.confirms(shown, printed)
        if not printed.strip():
            raise BuildError(f"{shown} prints nothing")
        return f"{shown}: {printed.strip().splitlines()[-1]}"

    return check


Check = Callable[[Subject], str]
Named = tuple[str, Check]
ALL: tuple[Named, ...] = (
    ("user", user),
    ("any-uid", any_uid),
    ("read-only", read_only),
    ("no-home", no_home),
    ("no-network", no_network),
    ("sigterm", sigterm),
    ("zombies", zombies),
    ("tmpdir", tmpdir),
    ("contents", contents),
    ("metadata", metadata),
)
# Of images that we install a framework into; upstream's are their own affair.
INSTALLED: tuple[Named, ...] = (("version", version),)
# What README.md has users type after an image's name, and what upstream's images can tell.
OWN: dict[str, tuple[Named, ...]] = {
    "ray": (("program", program("ray", "--version")),),
    "tensorrt-llm": (("version", distribution("tensorrt_llm")),),
    # That of 3.3.7 calls itself 3.3.6-dev0:
    # https://github.com/huggingface/text-generation-inference/blob/v3.3.7/Cargo.toml
    "tgi": (("program", program("text-generation-launcher", "--version", is_release=False)),),
    # Its options depend on the device, which it looks for before it reads them.
    "vllm": (("program", program("vllm", "--version", on_device=True)),),
}


def checks_of(cell: Cell) -> tuple[Named, ...]:
    """Those of every image, then of every one with wheels, then the framework's own."""
    installed = () if cell.build.wrap else INSTALLED
    return (*ALL, *installed, *OWN.get(cell.framework_name, ()))

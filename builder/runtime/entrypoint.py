"""What the container starts: looks, tunes, then becomes the server or the user's command.

    python3 -ES /opt/imgbuild/runtime start SERVER... -- ARGUMENTS...

ARGUMENTS that begin with a program on PATH run that program (`docker run IMAGE bash`); any others
are the server's (`docker run IMAGE --model X`, `docker run IMAGE org/model`), also after the words
that start it (`docker run IMAGE vllm serve org/model`). Nothing of this process stays: it ends in
exec, under the init that started it.

IMGBUILD_TUNE=on|explain|off, IMGBUILD_PREFLIGHT=on|warn|off.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from . import (
    apply,
    caches,
    decide,
    gpus,
    host,
    manifest,
    options,
    preflight,
    reaper,
    seeds,
    weights,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence, Set

USAGE = 64  # EX_USAGE of sysexits.h
_ASKING = ("-h", "--help", "--version", "-v")


def is_program(arguments: Sequence[str], path: str | None = None) -> bool:
    """Whether the first argument is a program on PATH, or where it says.

    Not shutil.which: that module's import takes as long as the rest of a start.
    """
    if not arguments or arguments[0].startswith("-") or not arguments[0]:
        return False
    name = arguments[0]
    if os.sep in name:
        return os.path.isfile(name) and os.access(name, os.X_OK) and _begins_as_program(name)
    for folder in (path if path is not None else os.environ.get("PATH", "")).split(os.pathsep):
        file = os.path.join(folder, name)
        if os.path.isfile(file) and os.access(file, os.X_OK):
            return True
    return False


def _begins_as_program(file: str) -> bool:
    """Whether the kernel could run it: on CIFS and NTFS every file may be executed, models too."""
    try:
        with open(file, "rb") as opened:
            return opened.read(4).startswith((b"#!", b"\x7fELF"))
    except OSError:  # it may be run and not be read, which no model may
        return True


def own_arguments(server: Sequence[str], arguments: Sequence[str]) -> List[str] | None:
    """What follows the server's own command, where the arguments begin with that; None elsewhere.

    As far as its first long option, which the user may want another way; and by the program's name
    alone, be it `python` or `/usr/bin/python3.12`.
    """
    count = _words(server)
    if not count or len(arguments) < count or list(arguments[1:count]) != list(server[1:count]):
        return None
    return list(arguments[count:]) if _named(arguments[0]) == _named(server[0]) else None


def _words(server: Sequence[str]) -> int:
    """How many words say which server it is."""
    return next((n for n, word in enumerate(server) if word.startswith("--")), len(server))


def _named(program: str) -> str:
    return os.path.basename(program).rstrip("0123456789.")


def main(
    arguments: Sequence[str], query: gpus.Query | None = None, mask: Set[int] | None = None
) -> int:
    """Exec the command; returns only with an exit code that says why it could not.

    `query` was started, and the signals in place of `mask` were blocked, before all this was
    imported.
    """
    if "--" not in arguments[1:]:
        print("usage: start SERVER... -- ARGUMENTS...", file=sys.stderr)
        return USAGE
    split = list(arguments).index("--")
    server, own = list(arguments[:split]), list(arguments[split + 1 :])
    start = Start(server, own, manifest.read(), dict(os.environ), query)
    if os.getpid() == 1:
        return reaper.supervise(start.run, mask)
    return start.run()


class Start:
    """One start of the container."""

    def __init__(
        self,
        server: Sequence[str],
        arguments: Sequence[str],
        about: Dict[str, Any],
        environment: Dict[str, str],
        query: gpus.Query | None = None,
    ) -> None:
        self._query = query
        self._elsewhere = False
        self._model: Dict[str, Any] = {}
        rest = own_arguments(server, arguments)
        if rest is not None:  # with the program as he has spelled it
            server, arguments = [arguments[0], *server[1:]], rest
        self._program = rest is None and is_program(arguments, environment.get("PATH"))
        self._command = [*arguments] if self._program else [*server, *arguments]
        self._arguments = list(arguments)
        self._about = about
        self._environment = environment
        # Who asks for help or for a shell is not told of GPUs.
        self._serves = not self._program and not any(
            a.partition("=")[0] in _ASKING for a in arguments
        )

    def run(self) -> int:
        """Prepare, then exec; returns an exit code where that is not to be, or fails."""
        tuning = self._mode("IMGBUILD_TUNE", ("on", "explain", "off"))
        looking = self._mode("IMGBUILD_PREFLIGHT", ("on", "warn", "off"))
        if tuning is None or looking is None:
            return USAGE
        looks = self._serves and looking != "off"
        # Who has chosen another device is asked for none, nor bound to one.
        self._elsewhere = preflight.elsewhere(self._about, self._environment)
        asks = self._serves and not self._elsewhere and (looks or tuning != "off")
        query = self._query
        if asks and self._about["accelerator"] == "cuda":
            query = query or gpus.Query()
        elif query:
            query.drop()
            query = None
        try:
            chosen, wrong = caches.placed(self._environment, self._about["caches"])
        except Exception as error:  # the server may find a place by itself
            chosen, wrong = {}, [f"no place for caches: {type(error).__name__}: {error}"]
        for line in wrong:
            say(line)
        self._environment.update(chosen)
        if self._serves:
            seeds.plant(self._environment, self._about["caches"])
        if looks or tuning != "off":
            try:
                code = self._prepare(query, tuning, looking if looks else "off")
            except Exception as error:  # a server that is not tuned still serves
                say(f"neither tuned nor checked: {type(error).__name__}: {error}; please report it")
                code = 0
            if code:
                return code
        return self._become()

    def _prepare(self, query: gpus.Query | None, tuning: str, looking: str) -> int:
        """Tune and look; returns an exit code where the server does not fit."""
        answer = query.answer() if query else {"devices": []}
        hidden = self._environment.get("CUDA_VISIBLE_DEVICES")
        seen = gpus.visible(answer, hidden)
        facts = host.discover(host.Root(), seen, tpus=not self._elsewhere)
        flags = self._tuned(facts, explain=tuning == "explain") if tuning != "off" else []
        if looking != "off" and (code := self._looked(facts, flags, go_on=looking == "warn")):
            return code
        if self._serves:
            self._command += flags
        return 0

    def _mode(self, name: str, known: Sequence[str]) -> str | None:
        value = self._environment.get(name) or known[0]
        if value in known:
            return value
        say(f"{name}={value} is not one of {', '.join(known)}")
        return None

    def _tuned(self, facts: Dict[str, Any], *, explain: bool) -> List[str]:
        """Set variables and bind; returns the server's additional flags."""
        server = self._about["server"]
        model = weights.named(self._arguments, server, self._environment) if self._serves else None
        if model and (facts["gpus"]["devices"] or facts["memory"]["limit"]):
            self._model = weights.read(weights.folder(model, self._environment))
        # A program of the user's may bind itself: numactl refuses CPUs that we took away.
        rows = [r for r in self._about["tuning"] if self._serves or r["kind"] == "env"]
        made = decide.decide(
            facts, rows, self._environment, self._arguments, self._model, server=server
        )
        self._environment.update(apply.environment(made))
        made = apply.place(made)
        done = [f"{d['name']}={d['value']}" for d in made if d["status"] == decide.SET]
        if explain:
            self._explain(made, facts, model)
            return apply.flags(made)
        for row in made:
            if row["status"] == decide.REFUSED:
                say(f"not bound to {row['name']}: {row['why']}")
        if done:
            say(f"tuned: {', '.join(done)} (IMGBUILD_TUNE=explain says why)")
        return apply.flags(made)

    def _explain(
        self, made: Sequence[Dict[str, Any]], facts: Dict[str, Any], model: str | None
    ) -> None:
        """Say what was decided, why, and what the host could do."""
        from . import advice, explained  # noqa: PLC0415 - what most starts do not need

        folder = weights.folder(model, self._environment) if model else None
        disk = host.scheduler(host.Root(), folder) if folder else None
        for line in explained.lines(made, advice.of_host(facts, disk)):
            say(line)

    def _looked(self, facts: Dict[str, Any], flags: Sequence[str], *, go_on: bool) -> int:
        """Say what is wrong; returns the exit code where that ends the start."""
        server = self._about["server"]
        ranks = options.ranks(server, [*self._arguments, *flags], self._environment)
        cluster = bool(self._environment.get("RAY_ADDRESS"))  # the ranks may be other nodes'
        model = options.here(self._model, server, self._arguments, self._environment)
        ranks = None if cluster else ranks
        found = preflight.check(facts, self._about, ranks, model, self._environment)
        for finding in found:
            say(preflight.told(finding))
        if not any(finding["fatal"] for finding in found):
            return 0
        if go_on or cluster:
            why = "the server joins a Ray cluster" if cluster else "IMGBUILD_PREFLIGHT=warn asks"
            say(f"going on, as {why}")
            return 0
        say("this image does not fit this host; IMGBUILD_PREFLIGHT=warn starts it nevertheless")
        return preflight.MISFIT

    def _become(self) -> int:
        program = self._command[0]
        # Python ignores these, and what is ignored stays so: `bash -c "yes | head"` would complain.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvpe(program, self._command, self._environment)
        except OSError as error:
            say(f"cannot start {program}: {error.strerror}")
            return 127 if isinstance(error, FileNotFoundError) else 126


def say(line: str) -> None:
    """One line on stderr, where that can be written."""
    if sys.stderr is None:  # closed: print would take stdout, which is the server's
        return
    with suppress(OSError, ValueError):
        print(f"imgbuild: {line}", file=sys.stderr, flush=True)

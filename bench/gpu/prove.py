"""Proof of an image on a real GPU: its server, its operators, its GPU code.

    python3 -m bench.gpu.prove IMAGE [--whole WHOLE [--whole-server] | --reference FILE]
        [--cell CELL]
        [--engine docker|apptainer|none] [--rounds N] [--budget SECONDS] [-o images/proofs]
        [--parts servers,operators]

IMAGE is a Docker reference, a SIF, or a folder with an unpacked root; with --engine none it is a
Python environment of this host. Needs Python 3.11's standard library and an NVIDIA GPU. APPTAINER_*
and APPTAINERENV_* of the caller count. Writes <cell>.<gpu>.json anew after each check; one that
fails or finds no time is told there, and the others go on. Where a host is lent for minutes, one of
--parts is made at a time: the file keeps the other's checks. Exit code 1 where a check failed, 3
where what a proof needs was skipped or is incomplete.

docs/proofs.md says what each check is.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu import proofs
from bench.gpu.containers import DRIVER, Group, Meter, Where, output
from bench.gpu.identity import CONTENT, brief, identity, labels
from bench.gpu.proofs import FAILED, INCOMPLETE, OK, SKIPPED, Check
from bench.stamp import stamp
from builder.runtime import client

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = "/opt/imgbuild/manifest.json"
HEALTH_SECONDS, STOP_SECONDS, OPERATOR_SECONDS, IMPORT_SECONDS = 420.0, 30.0, 900.0, 180.0
AFTER_WHOLE = 500.0  # seconds that the operators and the identity have to have left
SERVERS_PART, OPERATORS_PART = PARTS = ("servers", "operators")
OPERATOR_CHECKS = ("compared", "operators", "without jit")
OPERATOR_RUNS = ("thin", "nojit", "whole")  # what "gpu code" names these by
BOTH = ("nvidia-smi", "gpu code")  # checks that each part makes
EXITS = {proofs.PASSED: 0, FAILED: 1, INCOMPLETE: 3}
WHOLE = 3  # runs of its operators: what varies may be the same twice by chance
WHOLE_COLD, WHOLE_IMPORT = "whole server cold", "whole import"
TAIL = 30  # lines of a log that a failure shows
_SMI = ("nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total")
_SMI_FORMAT = "--format=csv,noheader"


@dataclass(frozen=True)
class Server:
    """How a framework serves the tiny model in float32, as it does by default otherwise."""

    command: tuple[str, ...]  # with --engine none
    arguments: tuple[str, ...]
    module: str


SERVERS = {
    "vllm": Server(
        ("vllm", "serve"),
        (
            *("--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "8"),
            *("--gpu-memory-utilization", "0.2"),
        ),
        "vllm",
    ),
    "sglang": Server(
        ("python3", "-m", "sglang.launch_server"),
        ("--dtype", "float32", "--context-length", "256", "--mem-fraction-static", "0.2"),
        "sglang",
    ),
    "ray": Server(
        (),
        (
            *("--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "8"),
            *("--gpu-memory-utilization", "0.2"),
        ),
        "ray",
    ),
    "deepspeed": Server((), ("--dtype", "float32"), "deepspeed"),
}


class SkipError(Exception):
    """A check that cannot be made here, with what it had measured by then."""

    def __init__(self, why: str, **figures: Any) -> None:
        super().__init__(why)
        self.figures = figures


class FailureError(Exception):
    """A check that found something wrong, with what it had measured by then."""

    status = FAILED

    def __init__(self, why: str, **figures: Any) -> None:
        super().__init__(why)
        self.figures = figures


class IncompleteError(FailureError):
    """A check that found nothing wrong and did not see all, with what it had measured."""

    status = INCOMPLETE


class Proof:
    """One run: its checks in a row, and the file that they go to."""

    def __init__(self, given: argparse.Namespace, scratch: Path) -> None:
        self._given = given
        self._start = time.monotonic()
        self._scratch = scratch
        self._logs = given.logs or scratch / "logs"
        env = dict(item.partition("=")[::2] for item in given.env)
        self._thin = Where(given.engine, given.image, scratch, env)
        self._whole = Where(given.engine, given.whole, scratch, env) if given.whole else None
        self._parts: list[str] = given.parts
        self._groups: list[Group] = []
        self._lock = threading.Lock()
        self.checks: list[Check] = []
        self._about: dict[str, Any] = {}
        self._carried = ""  # its text
        self._manifest: dict[str, Any] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._compiled: dict[str, dict[str, int]] = {}
        self._missing: dict[str, list[str]] = {}
        self._golden: list[dict[str, Any]] = []
        self._file: Path | None = None

    # -- the run ------------------------------------------------------------------------------

    def run(self) -> int:
        """All checks; returns the exit code."""
        try:
            self._prepare()
            self.check("nvidia-smi", 0, self._smi)
            self._name()
            if SERVERS_PART in self._parts:
                self._servers()
            if OPERATORS_PART in self._parts:
                self._operators()
            self.check("gpu code", 0, self._gpu_code)
            self._identify()
        finally:
            self.end()
        self.flush(complete=True)
        state = proofs.report({}, self.checks, complete=True)["state"]
        say(f"{state}, without {', '.join(names)}" if (names := self._lacking()) else state)
        return EXITS[state]

    def _servers(self) -> None:
        """Start, ask and stop thin's, and whole's where that is asked for."""
        self.check("server cold", 60, lambda: self._served("server", "cold"))
        for number in range(self._given.rounds):
            suffix = f" {number + 1}" if number else ""
            self.check(
                f"server warm{suffix}",
                45,
                lambda n=number: self._served("server", f"warm{n or ''}"),  # type: ignore[misc]
            )
        self.check("import", 20, lambda: self._imports(self._thin, "import"))
        if self._whole and self._given.whole_server:
            self._beside(self._whole)

    def _carry(self) -> None:
        """Take over the checks of the part that is not made, if they are of this image and GPU."""
        if not self._file or set(self._parts) == set(PARTS):
            return
        kept = proofs.kept(self._file, self._about)
        if kept.why:
            say(f"{self._file.name} is not carried on: {kept.why}")
        made = OPERATORS_PART in self._parts
        for check in kept.checks:
            if check.name == "gpu code":  # made of all logs, of which this part makes its own anew
                for name, ours in (
                    ("compiled_by_driver", self._compiled),
                    ("missing", self._missing),
                ):
                    found: dict[str, Any] = check.figures.get(name, {})
                    ours.update({k: v for k, v in found.items() if (k in OPERATOR_RUNS) != made})
        if self._compiled or self._missing:  # told also where this run does not come to its end
            self.checks.append(judged("gpu code", self._gpu_code))
        others = [
            check
            for check in kept.checks
            if check.name not in BOTH and (check.name in OPERATOR_CHECKS) != made
        ]
        if others:
            self.checks += others
            self._about["earlier"] = {**kept.about, "checks": [check.name for check in others]}

    def _lacking(self) -> list[str]:
        return proofs.missing({check.name: check.told() for check in self.checks})

    def _beside(self, whole: Where) -> None:
        """What whole takes: before the operators, whose reading warms the disk's cache.

        It is measured and not judged: thin has passed or failed by then.
        """
        # The operators and the identity come first.
        needs = AFTER_WHOLE if OPERATORS_PART in self._parts else 60.0

        def served() -> tuple[str, dict[str, Any]]:
            health = min(self._given.whole_seconds, self.left() - needs)
            return self._served("whole-server", WHOLE_COLD, where=whole, health_seconds=health)

        self.check(WHOLE_COLD, needs + 60, lambda: measured(served))
        self.check(
            WHOLE_IMPORT,
            needs + 20,
            lambda: measured(lambda: self._imports(whole, "whole-import")),
        )

    def end(self) -> None:
        """Kill all that was started."""
        with self._lock:
            groups, self._groups = self._groups, []
        for group in groups:
            group.end()

    def left(self) -> float:
        """Seconds of the budget."""
        budget: float = self._given.budget
        return budget - (time.monotonic() - self._start)

    def check(
        self, name: str, needs: float, make: Callable[[], tuple[str, dict[str, Any]]]
    ) -> None:
        """One check, whatever it does; none where its time does not fit."""
        start = time.monotonic()
        if self.left() < needs:
            made = Check(name, SKIPPED, f"{max(self.left(), 0):.0f} s of the budget are left")
        else:
            say(f"{name} ...")
            made = judged(name, make)
        made = Check(name, made.status, made.why, time.monotonic() - start, made.figures)
        self.checks = [*(one for one in self.checks if one.name != name), made]
        say(f"{name}: {made.status}{f': {made.why}' if made.why else ''} ({made.seconds:.1f} s)")
        self.flush()

    def flush(self, *, complete: bool = False) -> None:
        """Write the file: aside, then renamed."""
        if not self._file:
            return
        told = proofs.report(self._about, self.checks, complete=complete)
        aside = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        aside.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        aside.replace(self._file)

    # -- what is needed first -----------------------------------------------------------------

    def _prepare(self) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        self._scratch.chmod(0o777)  # an image has a user of its own
        shutil.copy(ROOT / "bench" / "gpu" / "operators.py", self._scratch / "operators.py")
        script = ROOT / "builder" / "runtime" / "tinymodel.py"
        made = subprocess.run(
            [sys.executable, "-B", str(script), str(self._scratch / "model"), "--json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        (self._scratch / "golden.json").write_text(made.stdout, encoding="utf-8")
        self._golden = json.loads(made.stdout)["prompts"]
        told = stamp()
        self._about = {
            "cell": self._given.cell,
            "image": {
                "reference": Path(self._given.image).name,
                "content": labels(self._given.image, self._given.engine).get(CONTENT),
            },
            "gpu": {"name": "unknown", "driver": "unknown", "compute_capability": "unknown"},
            "engine": self._given.engine,
            "date": told["date"],
            "commit": self._given.commit or told["commit"],
            "machine": told["machine"],
            "settings": dict(self._thin.env),
        }
        self._carried = self._quick("manifest", "cat", MANIFEST)
        with contextlib.suppress(ValueError):
            self._manifest = json.loads(self._carried)
        framework = self._given.framework or self._manifest.get("framework") or "vllm"
        self._about["framework"] = {
            "name": framework,
            "version": self._manifest.get("version"),
            "build": self._manifest.get("build"),
            "sms": self._manifest.get("sms"),
        }
        self._about["cell"] = self._given.cell or self._label() or framework

    def _label(self) -> str:
        """The cell that the image says it is."""
        return labels(self._given.image, self._given.engine).get("io.imgbuild.cell", "")

    def _quick(self, home: str, *argv: str) -> str:
        with contextlib.suppress(FailureError, OSError):
            return self._ran(self._thin, home, *argv, limit=60)[0]
        return ""

    def _name(self) -> None:
        """The file, now that the GPU is known, with what it has of the part that is not made."""
        cell = "".join(c if c.isalnum() or c in "._-" else "-" for c in self._about["cell"])
        gpu = proofs.slug(self._about["gpu"]["name"])
        self._given.output.mkdir(parents=True, exist_ok=True)
        self._file = self._given.output / f"{cell}.{gpu}.json"
        say(f"writing {self._file}")
        self._carry()
        self.flush()

    # -- processes ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _started(
        self, where: Where, home: str, command: list[str], out: Path, err: Path | None = None
    ) -> Iterator[Group]:
        name = where.name(home) if where.engine == "docker" else ""
        group = Group(command, out, err, name)
        with self._lock:
            self._groups.append(group)
        try:
            yield group
        finally:
            group.end()
            with self._lock:
                if group in self._groups:
                    self._groups.remove(group)

    def _ran(
        self,
        where: Where,
        home: str,
        *argv: str,
        limit: float,
        env: Mapping[str, str] | None = None,
    ) -> tuple[str, float]:
        """What a command of ours prints, and its seconds; raises FailureError."""
        out, err = self._logs / f"{home}.out", self._logs / f"{home}.err"
        err.write_bytes(b"")
        limit = max(min(limit, self.left()), 5)
        command = where.program(home, *argv, env=env)
        with self._started(where, home, command, out, err) as group:
            try:
                code: int | None = group.process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            took = group.seconds()
        text = out.read_text(errors="replace")
        if code != 0:
            how = f"exit code {code}" if code is not None else f"no end in {limit:.0f} s"
            tail = [*text.splitlines()[-5:], *tail_of(err)]
            raise FailureError(f"`{argv[0]}`: {how}", log=tail)
        return text, took

    # -- checks -------------------------------------------------------------------------------

    def _smi(self) -> tuple[str, dict[str, Any]]:
        """Also from the host, for the name of the file, where the container cannot say it."""
        try:
            text, _ = self._ran(self._thin, "smi", *_SMI, _SMI_FORMAT, limit=60)
            self._gpu(text)
        except FailureError:
            path = f"{os.environ.get('PATH', '')}:{DRIVER}"
            found = shutil.which("nvidia-smi", path=path)
            with contextlib.suppress(OSError, IndexError, subprocess.TimeoutExpired):
                if found:
                    self._gpu(output(found, *_SMI[1:], _SMI_FORMAT))
            raise
        return "", {"gpus": text.strip().splitlines()}

    def _gpu(self, text: str) -> None:
        name, driver, capability, memory = (w.strip() for w in text.splitlines()[0].split(","))
        self._about["gpu"] = {
            "name": name,
            "driver": driver,
            "compute_capability": capability,
            "memory": memory,
        }

    def _imports(self, where: Where, home: str) -> tuple[str, dict[str, Any]]:
        framework = self._about["framework"]["name"]
        module = SERVERS[framework].module if framework in SERVERS else framework
        code = (
            f"import json, time; t = time.perf_counter(); import {module} as m; "
            "print(json.dumps({'import_s': round(time.perf_counter() - t, 2), "
            "'version': getattr(m, '__version__', '')}))"
        )
        text, took = self._ran(where, home, "python3", "-c", code, limit=IMPORT_SECONDS)
        told = json.loads(text.strip().splitlines()[-1])
        return "", {**told, "module": module, "container_s": round(took, 2)}

    def _served(
        self,
        home: str,
        name: str,
        *,
        where: Where | None = None,
        health_seconds: float | None = None,
    ) -> tuple[str, dict[str, Any]]:
        """Start it, wait, ask, stop it; thin where nothing is said."""
        where = where or self._thin
        cold = name in {"cold", WHOLE_COLD}
        framework = self._about["framework"]["name"]
        known = SERVERS.get(framework, Server((), (), framework))
        server = self._manifest.get("server", {})
        command = tuple(shlex.split(self._given.server)) or known.command
        if self._given.engine == "none" and not command:
            raise SkipError("--server does not say what serves")
        flag = (server.get("model_flags") or ["--model"])[0]
        if framework == "sglang":
            flag = "--model-path"
        port, log = free_port(), self._logs / f"{name}.log"
        arguments = [flag, f"{where.inside}/model", "--port", str(port), *known.arguments]
        if framework == "vllm" and self._given.engine == "none":
            arguments = arguments[1:]  # `vllm serve FOLDER`
        arguments += shlex.split(self._given.server_args)
        if not cold and not any(c.name == "server cold" and c.status == OK for c in self.checks):
            raise SkipError("the cold one did not pass")
        if cold:
            shutil.rmtree(self._scratch / home, ignore_errors=True)
        (self._scratch / home).mkdir(exist_ok=True)
        (self._scratch / home).chmod(0o777)
        url = f"http://127.0.0.1:{port}"
        start = where.server(home, command, *arguments)
        limit = health_seconds or min(HEALTH_SECONDS, max(0.6 * self.left(), 10))
        health = server.get("health", "/health")
        try:
            figures = self._asked(
                where, home, start, log, url=url, health=url + health, limit=limit
            )
        finally:
            if where is self._thin:  # what whole lacks is no fault of thin
                self._missing[name] = proofs.missing_code(log.read_text(errors="replace"))[:10]
            self._compiled[name] = compiled(self._scratch / home)
        figures["caches"] = "empty" if cold else "kept"
        if figures["wrong"]:
            raise FailureError("the tokens are not the golden ones", **figures, log=tail_of(log))
        return "", figures

    def _asked(
        self,
        where: Where,
        home: str,
        start: list[str],
        log: Path,
        *,
        url: str,
        health: str,
        limit: float,
    ) -> dict[str, Any]:
        """What there is to say of a server's life."""
        figures: dict[str, Any] = {}
        with self._started(where, home, start, log) as group:
            meter = Meter(group)
            meter.start()
            try:
                figures["health_s"] = self._healthy(group, health, limit)
                figures.update(first_token(group, url))
                figures.update(tokens(url, self._golden))
            except (
                OSError,
                http.client.HTTPException,
                ValueError,
                LookupError,
                TypeError,
            ) as error:
                figures.update(meter.figures())
                raise FailureError(brief(error), **figures, log=tail_of(log)) from error
            figures.update(meter.figures())
            told = time.monotonic()
            figures["exit_code"] = group.stop(STOP_SECONDS)
            figures["stop_s"] = round(time.monotonic() - told, 1)
        return figures

    def _healthy(self, group: Group, url: str, limit: float) -> float:
        deadline = group.start + limit
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline:
            if (code := group.process.poll()) is not None:
                raise OSError(f"the server ended with exit code {code}")
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                opener.open(url, timeout=2).close()
                return round(group.seconds(), 2)
            time.sleep(0.1)
        raise OSError(f"not healthy after {group.seconds():.0f} s")

    def _operators(self) -> None:
        """Thin, whole and thin without JIT at once: processes of their own, some memory each."""
        seconds = min(OPERATOR_SECONDS, self.left() - 40)  # the rest is the identity's
        if seconds < 40:
            why = f"{max(self.left(), 0):.0f} s of the budget are left"
            for name in OPERATOR_CHECKS:
                self.checks.append(Check(name, SKIPPED, why))
            self.flush()
            return
        say(f"operators, for at most {seconds:.0f} s ...")
        with ThreadPoolExecutor(3) as pool:
            runs: dict[str, Future[dict[str, Any]]] = {}
            runs["thin"] = pool.submit(self._computed, self._thin, "thin", seconds, 1, {})
            bare = {"CUDA_DISABLE_PTX_JIT": "1"}
            runs["nojit"] = pool.submit(self._computed, self._thin, "nojit", seconds, 1, bare)
            if self._whole:
                runs["whole"] = pool.submit(
                    self._computed, self._whole, "whole", seconds, WHOLE, {}
                )
            try:
                # The comparison first: what it finds says what may be broken in thin.
                self.check("compared", 0, lambda: self._compared(runs["thin"], runs.get("whole")))
                self.check("operators", 0, lambda: self._alone(runs["thin"]))
                self.check("without jit", 0, lambda: self._bare(runs["nojit"]))
            except BaseException:
                self.end()  # else the pool waits for them
                raise

    def _computed(
        self, where: Where, home: str, seconds: float, rounds: int, env: Mapping[str, str]
    ) -> dict[str, Any]:
        argv = ["python3", "-B", f"{where.inside}/operators.py", "--json", "--rounds", str(rounds)]
        argv += ["--model", f"{where.inside}/model", "--seconds", f"{seconds:.0f}"]
        argv += ["--device", self._given.device, "--silence", f"{min(120.0, seconds / 2):.0f}"]
        argv += ["--groups", self._given.groups] if self._given.groups else []
        text, _ = self._ran(where, home, *argv, limit=seconds + 12, env=env)
        told: dict[str, Any] = json.loads(text[text.index("{") :])
        self._results[home] = told
        self._compiled[home] = compiled(self._scratch / home)
        if not told["results"] or not told["about"]:
            err = self._logs / f"{home}.err"
            raise FailureError(f"nothing was computed: {told['results']}", log=tail_of(err))
        return told

    def _alone(self, run: Future[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
        told = run.result()
        self._about["libraries"] = told["about"]
        found = next((c.figures for c in self.checks if c.name == "compared"), {})
        beside = found if "identical" in found else None  # else there was no comparison
        missed = [*told["missed"], *([f"groups but {g}"] if (g := self._given.groups) else [])]
        made = proofs.alone(told["results"], beside, missed=missed)
        figures = {**made.figures, "groups_cut_off": told["missed"], "took_s": told["seconds"]}
        return _raised(made, figures)

    def _compared(
        self, thin_run: Future[dict[str, Any]], run: Future[dict[str, Any]] | None
    ) -> tuple[str, dict[str, Any]]:
        if thin_run.exception():
            raise SkipError("thin's operators have no results")
        if run:
            whole = run.result()
        elif self._given.reference:
            whole = json.loads(self._given.reference.read_text(encoding="utf-8"))
        else:
            raise SkipError("no whole image")
        thin = thin_run.result()
        if why := proofs.unlike(thin["about"], whole["about"]):
            if run:
                raise FailureError(why)
            raise SkipError(f"the reference is another's: {why}")
        rounds = whole.get("rounds", 1)
        made = proofs.compared(
            thin["results"],
            whole["results"],
            whole.get("vary", ()),
            rounds=rounds,
            cut=bool(thin["missed"]),
        )
        figures = {"against": "whole image" if run else "reference", **made.figures}
        return _raised(made, figures)

    def _bare(self, run: Future[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
        told = run.result()
        if "thin" not in self._results:
            raise SkipError("thin's operators have no results")
        thin = self._results["thin"]["results"]
        needs = proofs.without_jit(thin, told["results"])
        tried = len(set(thin) & set(told["results"]))
        figures = {"operators": tried, "of": len(thin), "need_jit": needs}
        figures["groups_cut_off"] = told["missed"]
        if told["missed"] or tried < len(thin):
            raise IncompleteError(f"{tried} of {len(thin)} operators were tried", **figures)
        return "", figures

    def _gpu_code(self) -> tuple[str, dict[str, Any]]:
        found = {k: v for k, v in self._missing.items() if v}
        for home in self._results:
            lines = proofs.missing_code((self._logs / f"{home}.err").read_text(errors="replace"))
            if lines and home == "thin":
                found[home] = lines[:10]
        figures = {"compiled_by_driver": self._compiled, "missing": found}
        if found:
            raise FailureError(f"code is missing, says the log of {', '.join(found)}", **figures)
        if not self._compiled:
            raise SkipError("nothing ran")
        return "", figures

    def _identify(self) -> None:
        """Last: reading the image would warm the disk's cache."""
        say("identity of the image ...")
        for name, image in (("image", self._given.image), ("whole", self._given.whole)):
            if image:
                file = self._given.file if name == "image" else None
                told = identity(image, self._given.engine, file, max(self.left(), 20))
                self._about[name] = {"reference": Path(image).name, **told}
        if self._carried:
            digest = hashlib.sha256(self._carried.encode()).hexdigest()
            self._about["image"]["carried_manifest_sha256"] = digest
        if self._given.digest:
            self._about["image"]["digest"] = self._given.digest


def _raised(made: Check, figures: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a check tells where it is ok; else its error."""
    if made.status == FAILED:
        raise FailureError(made.why, **figures)
    if made.status == INCOMPLETE:
        raise IncompleteError(made.why, **figures)
    return made.why, figures


def judged(name: str, make: Callable[[], tuple[str, dict[str, Any]]]) -> Check:
    """A check of what a function tells; nothing but a signal goes through."""
    try:
        why, figures = make()
    except SkipError as skip:
        return Check(name, SKIPPED, str(skip), figures=skip.figures)
    except FailureError as failure:
        return Check(name, failure.status, str(failure), figures=failure.figures)
    except Exception as error:  # the others are to go on
        return Check(name, FAILED, brief(error))
    return Check(name, OK, why, figures=figures)


def measured(
    make: Callable[[], tuple[str, dict[str, Any]]],
) -> tuple[str, dict[str, Any]]:
    """What is measured of whole; that it could not be is no failure of thin's."""
    try:
        return make()
    except FailureError as failure:
        raise SkipError(f"not measured: {failure}", **failure.figures) from failure
    except (OSError, ValueError, LookupError) as error:
        raise SkipError(f"not measured: {brief(error)}") from error


def first_token(group: Group, url: str) -> dict[str, Any]:
    """Seconds from the start of the container to the first answer."""
    model = client.get(f"{url}/v1/models")["data"][0]["id"]
    body = {"model": model, "prompt": "?", "max_tokens": 1, "temperature": 0}
    client.post(f"{url}/v1/completions", body)
    return {"first_token_s": round(group.seconds(), 2)}


def tokens(url: str, golden: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many are the golden ones, and which answers are not."""
    answers = list(client.compare(url, golden))
    right = sum(
        len(wanted["tokens"]) for wanted, a in zip(golden, answers, strict=True) if a["same"]
    )
    return {
        "tokens": f"{right} of {sum(len(wanted['tokens']) for wanted in golden)}",
        "by_ids": all(answer["tokens"] is not None for answer in answers),
        "answers_s": [answer["seconds"] for answer in answers],
        "wrong": [answer for answer in answers if not answer["same"]],
    }


def compiled(home: Path) -> dict[str, int]:
    """What the driver has compiled of PTX and kept, below that home or that folder of caches."""
    places = [folder for folder in (home / "nv", home / ".nv") if folder.is_dir()]
    files = [f for place in places for f in place.rglob("*") if f.is_file() and f.name != "index"]
    return {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail_of(file: Path) -> list[str]:
    """The end of a log."""
    with contextlib.suppress(OSError):
        lines = file.read_text(errors="replace").splitlines()
        return [line[:300] for line in lines[-TAIL:]]
    return []


def say(line: str) -> None:
    """Progress."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stderr.flush()


def chosen_engine(image: str) -> str:
    """The one that an image is for."""
    path = Path(image)
    return "apptainer" if path.is_dir() or path.is_file() else "docker"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("image", help="a Docker reference, a SIF, or a folder")
    beside = made.add_mutually_exclusive_group()
    beside.add_argument("--whole", help="the image that is not thinned, to compare with")
    beside.add_argument(
        "--reference", type=Path, metavar="FILE", help="what operators.py --json printed elsewhere"
    )
    made.add_argument(
        "--whole-server", action="store_true", help="start the whole image's server, too"
    )
    made.add_argument(
        "--whole-seconds",
        type=float,
        default=900.0,
        metavar="SECONDS",
        help="until the whole image's server is healthy, at most",
    )
    made.add_argument("--cell", default="", help="default: the image's label")
    made.add_argument("--engine", choices=("docker", "apptainer", "none"))
    made.add_argument("--rounds", type=int, default=1, metavar="N", help="warm starts")
    made.add_argument("--budget", type=float, default=3600.0, metavar="SECONDS")
    made.add_argument("-o", "--output", type=Path, default=ROOT / "images" / "proofs")
    made.add_argument("--digest", default="", help="of the image's manifest, where it is known")
    made.add_argument("--file", type=Path, help="what the folder is mounted from, to be hashed")
    made.add_argument("--commit", default="", help="where this is not a checkout")
    made.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for the image"
    )
    made.add_argument("--framework", default="", help="where the image has no manifest")
    made.add_argument("--server", default="", help="what serves, with --engine none")
    made.add_argument("--server-args", default="", help="more arguments of the server")
    made.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the logs there")
    made.add_argument("--scratch", type=Path, metavar="FOLDER", help="below which 1 GB is free")
    made.add_argument(
        "--parts",
        type=_parts,
        default=list(PARTS),
        metavar="PART[,PART]",
        help=f"what is made now: {' or '.join(PARTS)}, if not both; the file keeps the other's",
    )
    made.add_argument("--device", default="cuda", help="of the operators")
    made.add_argument("--groups", default="", help="of operators; default: all")
    return made


def _parts(text: str) -> list[str]:
    """Raises argparse.ArgumentTypeError."""
    if wrong := sorted(set(text.split(",")) - set(PARTS)):
        raise argparse.ArgumentTypeError(
            f"no part {', '.join(wrong)}; there are {', '.join(PARTS)}"
        )
    return text.split(",")


def main() -> int:
    """Prove and write; returns the exit code."""
    options = parser()
    given = options.parse_args()
    given.engine = given.engine or chosen_engine(given.image)
    if given.engine != "docker":
        given.image = str(Path(given.image).absolute())
        given.whole = str(Path(given.whole).absolute()) if given.whole else None
    given.output = given.output.absolute()
    given.logs = given.logs.absolute() if given.logs else None
    for file in (given.file, given.reference):
        if file and not file.is_file():
            options.error(f"{file} is no file")
    if given.whole_server and not given.whole:
        options.error("--whole-server wants --whole")
    if any("=" not in item for item in given.env):
        options.error("--env wants NAME=VALUE")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A shell has its background jobs ignore SIGINT; what nohup ignores stays so.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    scratch = Path(tempfile.mkdtemp(prefix="prove-", dir=given.scratch))
    proof = Proof(given, scratch)
    try:
        return proof.run()
    except KeyboardInterrupt:
        say("interrupted")
        proof.flush()
        return 130
    finally:
        proof.end()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

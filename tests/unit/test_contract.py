"""The contract: each check passes on a good image, and fails on one that breaks it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder import engines, proc
from builder import matrix as matrices
from builder.cli import smoke as command
from builder.engines import apptainer, host
from builder.engines.apptainer import Apptainer
from builder.engines.base import Config, Run, UnsupportedError, run_options
from builder.errors import BuildError, UserError
from builder.facts import Matrix
from builder.model import Cell
from builder.proc import Result
from builder.smoke import Check, SmokeReport, Status, check_contract, subject
from builder.smoke.contract import ALL, checks_of, inside
from builder.smoke.contract.confinement import LONG, STRANGERS
from builder.smoke.contract.processes import KILLED, OWN_CODE
from builder.smoke.contract.seen import INSIDE
from tests.unit.fakeengine import FakeContainer, FakeEngine
from tests.unit.fakeserver import serving
from tests.unit.test_cli import run as verb

NAMES = ["user", "any-uid", "read-only", "no-home", "no-network",
         "sigterm", "zombies", "tmpdir", "contents", "metadata"]  # fmt: skip
PLACES = {"HOME": "/tmp/imgbuild-1", "XDG_CACHE_HOME": "/tmp/imgbuild-1/.cache"}
WRITES = {"uid": 1000, "gid": 0, "passwd": None, "places": PLACES, "refused": {}, "read_only": True}
GOOD: dict[str, dict[str, Any]] = {
    "writable": WRITES,
    "offline": {"routes": []},
    "zombies": {"zombies": [], "init": "tini"},
    "tmpdir": {"folder": "/tmp/imgbuild-1/tmp-1", "real": LONG},
    "contents": {"files": 9, "unread": [], "found": []},
}
CONFIG = Config(
    labels={
        "org.opencontainers.image.title": "cpu-vllm",
        "org.opencontainers.image.version": "0.32.0",
        "org.opencontainers.image.source": "https://example.org",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.created": "2026-11-25T00:00:00Z",
        "io.imgbuild.cell": "cpu-vllm",
        "io.imgbuild.content": "0" * 12,
    },
    env={"PATH": "/opt/venv/bin:/usr/bin", "HOME": "/home/imgbuild"},
    start=("tini", "-s", "--", "python3", "start", "--"),
    user="1000:0",
    ports=("8000/tcp",),
    health=("CMD", "python3", "health.py"),
)
SIF = dataclasses.replace(
    CONFIG,
    user=None,
    ports=None,
    health=None,
    start=("#!/bin/sh", '  exec tini -s -- python3 "$@"'),
)


class Contained(FakeContainer):
    """A stand-in that says it is ready, and ends with `ends`; None: it does not."""

    def __init__(self, url: str, ends: int | None) -> None:
        super().__init__(url)
        self._ends = ends

    def log(self) -> str:
        return inside.READY

    def stop(self, timeout: float) -> int:
        if self._ends is None:
            raise BuildError("the server ignored SIGTERM")
        return self._ends


class Image:
    """An engine's answers for an image that keeps the contract, but for what a test changes."""

    def __init__(self, *, name: str = "docker", url: str = "http://127.0.0.1:9") -> None:
        self.uid = "1000"
        self.seen = {part: dict(seen) for part, seen in GOOD.items()}
        self.code = 0
        self.version: str | None = "vllm, version 0.32.0+cpu"
        self.stranger = True
        self.refuses: Callable[[Run], bool] = lambda _: False
        self.ends: dict[str, int | None] = {"handled": OWN_CODE, "killed": KILLED, "server": 0}
        self.runs: list[Run] = []
        self.containers: list[Contained] = []
        self._url = url
        self.config = CONFIG if name != "apptainer" else SIF
        self._name = name

    @property
    def engine(self) -> FakeEngine:
        made = FakeEngine(on_run=self._run, on_start=self._start, config=self.config)
        made.name = self._name
        return made

    def _run(self, asked: Run) -> Result:
        self.runs.append(asked)
        if self.refuses(asked):
            raise UnsupportedError("Apptainer: not for you")
        if asked.entrypoint == "id":
            return Result(code=0, stdout=f"{self.uid}\n", stderr="")
        if INSIDE not in asked.args:
            said = "" if self.version is None else f"noise\n{self.version}\n"
            return Result(code=0, stdout=said, stderr="")
        seen = dict(self.seen[asked.args[asked.args.index(INSIDE) + 1]])
        if asked.user in STRANGERS and self.stranger:
            seen["uid"], seen["gid"] = map(int, asked.user.split(":"))
        return Result(code=self.code, stdout=f"noise\n{json.dumps(seen)}\n", stderr="why")

    def _start(self, asked: Run) -> Contained:
        self.runs.append(asked)
        kind = "server" if INSIDE not in asked.args else "handled"
        kind = "killed" if asked.args[-1] == "wait" else kind
        self.containers.append(Contained(self._url, self.ends[kind]))
        return self.containers[-1]


def held(matrix: Matrix, image: Image, cell: str = "cpu-vllm", **how: Any) -> SmokeReport:
    how.setdefault("static", True)
    return check_contract(matrices.cell(matrix, cell), image.engine, "image", lambda _: None, **how)


def of(report: SmokeReport, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


@pytest.fixture(autouse=True)
def small_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "has_gpu", lambda: False)
    monkeypatch.setattr(host, "has_tpu", lambda: False)
    monkeypatch.setattr(subject, "tiny_model", lambda: tmp_path / "model")


OWN = [*NAMES, "version", "program"]  # vLLM's


def test_a_good_image_passes_all_ten_and_its_frameworks_own(matrix: Matrix) -> None:
    assert [name for name, _ in ALL] == NAMES
    image = Image()
    report = held(matrix, image)
    assert [check.name for check in report.checks] == OWN
    assert {check.status for check in report.checks} == {Status.PASSED}, report
    assert len(image.containers) == 2
    assert all(container.removed for container in image.containers)


def test_a_good_sif_passes_too(matrix: Matrix) -> None:
    image = Image(name="apptainer")
    image.uid = str(os.getuid())
    image.seen["contents"]["unread"] = ["/root"]
    report = held(matrix, image)
    assert {check.status for check in report.checks} == {Status.PASSED}, report
    assert of(report, "contents").detail == "9 files, 1 folders are closed to us"
    assert "a SIF has no port" in of(report, "metadata").detail
    scan = next(r for r in image.runs if "contents" in r.args)
    assert (scan.user, scan.network) == (None, True)


def test_every_cell_inherits_what_holds_of_all_and_tells_its_version(matrix: Matrix) -> None:
    for cell in matrices.select(matrix, None):
        assert checks_of(cell)[: len(ALL)] == ALL
        own = [name for name, _ in checks_of(cell)[len(ALL) :]]
        assert own[:1] == (["program"] if cell.framework_name == "tgi" else ["version"]), cell.id
        assert len(set(own)) == len(own)


@pytest.mark.parametrize(
    ("name", "own"),
    [("cuda12.4-tgi", ["program"]), ("cuda13.0-tensorrt-llm", ["version"])],
)
def test_a_wrapped_image_has_to_pass_them_all(matrix: Matrix, name: str, own: list[str]) -> None:
    cell = matrices.cell(matrix, name)
    image = Image()
    title = {"org.opencontainers.image.title": name, "io.imgbuild.cell": name}
    version = {"org.opencontainers.image.version": cell.release.version}
    image.config = dataclasses.replace(CONFIG, labels={**CONFIG.labels, **title, **version})
    image.version = "text-generation-launcher 3.3.6-dev0" if "tgi" in name else "1.2.1"
    report = held(matrix, image, name)
    assert [check.name for check in report.checks] == [*NAMES, *own]
    assert {check.status for check in report.checks} == {Status.PASSED}, report
    assert cell.build.wrap
    # Its own Python is asked, and imports nothing of upstream's.
    asked = [r.args for r in image.runs if INSIDE in r.args and r.entrypoint is None]
    assert {args[0] for args in asked} == {cell.build.wrap.python}
    assert {r.args[-1] for r in image.runs if r.read_only and "writable" in r.args} == {
        "",
        "writable",
    }


@pytest.mark.parametrize(
    ("name", "check", "version", "says"),
    [
        ("cpu-vllm", "version", "0.32.1", "vllm is 0.32.1, not 0.32.0"),
        ("cpu-vllm", "version", "0.32.0.post1", "vllm is 0.32.0.post1, not 0.32.0"),
        ("cpu-vllm", "version", "0.32.01", "vllm is 0.32.01, not 0.32.0"),
        ("cpu-vllm", "program", "0.31.0", "`vllm --version` is 0.31.0, not 0.32.0"),
        ("cpu-ray", "program", "ray, version 2.5", "`ray --version` is 2.5, not 2.59.0"),
        ("cuda13.0-sglang", "version", "0.5.23rc1", "sglang is 0.5.23rc1, not 0.5.23"),
        ("cuda13.0-tensorrt-llm", "version", "1.2.1rc4", "tensorrt_llm is 1.2.1rc4, not 1.2.1"),
        ("cuda12.4-tgi", "program", None, "`text-generation-launcher --version` prints nothing"),
        ("tpu-jax", "version", None, "jax is without a version, not 0.10.2"),
    ],
)
def test_another_release_than_the_cells_is_found(
    matrix: Matrix, name: str, check: str, version: str | None, says: str
) -> None:
    image = Image()
    image.version = version
    found = of(held(matrix, image, name), check)
    assert (found.status, found.detail) == (Status.FAILED, says)


def test_a_program_that_needs_a_device_is_skipped_without_one(
    matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = of(held(matrix, Image(), "cuda13.0-vllm"), "program")
    assert found.status is Status.SKIPPED
    assert found.detail == "`vllm --version` needs an NVIDIA GPU, and there is none"
    monkeypatch.setattr(host, "has_gpu", lambda: True)
    assert of(held(matrix, Image(), "cuda13.0-vllm"), "program").status is Status.PASSED


def test_how_each_is_started(matrix: Matrix) -> None:
    image = Image()
    held(matrix, image)
    parts = {r.args[r.args.index(INSIDE) + 1]: r for r in image.runs if INSIDE in r.args}
    assert not parts["offline"].network
    assert parts["tmpdir"].env["TMPDIR"] == LONG == parts["tmpdir"].tmpfs[0]
    assert len(LONG) == 150
    assert (parts["contents"].user, parts["contents"].entrypoint) == ("0:0", "python3")
    read_only, no_home = (r for r in image.runs if r.read_only and "writable" in r.args)
    assert read_only.args[-1] == "vllm"
    assert read_only.tmpfs == no_home.tmpfs == ("/tmp",)
    assert (read_only.home, no_home.home) == (True, False)
    assert {r.user for r in image.runs if "writable" in r.args} == {None, *STRANGERS}
    # All but what looks at the files is started as users' commands are.
    assert {r.entrypoint for r in image.runs} == {None, "id", "python3"}


Change = Callable[[Image], object]


def seen(part: str, **changes: Any) -> Change:
    return lambda image: image.seen[part].update(changes)


def config(**changes: Any) -> Change:
    def change(image: Image) -> None:
        image.config = dataclasses.replace(image.config, **changes)

    return change


def labels(**changes: str) -> Change:
    named = {f"org.opencontainers.image.{name}": value for name, value in changes.items()}
    return config(labels={**CONFIG.labels, **named})


def setting(**changes: Any) -> Change:
    return lambda image: vars(image).update(changes)


def ends(**changes: int | None) -> Change:
    return lambda image: image.ends.update(changes)


@pytest.mark.parametrize(
    ("check", "change", "says"),
    [
        ("user", setting(uid="0"), "the image runs as root"),
        ("user", setting(uid="nobody"), "`id -u` prints 'nobody'"),
        ("user", config(user="imgbuild"), "USER is 'imgbuild', not a number"),
        (
            "any-uid",
            seen("writable", refused={"HOME": "/root: Permission denied"}),
            "not writable for 123456:0: HOME\nHOME: /root: Permission denied",
        ),
        (
            "any-uid",
            setting(stranger=False),
            "it runs as 1000:0, and 123456:0 was asked for",
        ),
        (
            "any-uid",
            seen("writable", passwd="imgbuild"),
            "123456:0 is no stranger to it, but 'imgbuild'",
        ),
        ("read-only", seen("writable", read_only=False), "its root stays writable"),
        ("read-only", seen("writable", refused={"HF_HOME": "not set"}), "not writable: HF_HOME"),
        ("no-home", seen("writable", refused={"HOME": "not set"}), "not writable: HOME"),
        ("no-network", seen("offline", routes=["eth0"]), "it keeps a route by eth0"),
        ("no-network", setting(code=1), "`python3` exits 1 in it\nwhy"),
        ("sigterm", ends(handled=0), "a command gives exit code 0, not 43"),
        ("sigterm", ends(handled=None), "a command ignored SIGTERM for 10 s"),
        ("sigterm", ends(killed=0), "a command gives exit code 0, not 143"),
        (
            "zombies",
            seen("zombies", zombies=["7 (python3)"], init="python3"),
            "nobody reaps: 7 (python3) (init: python3)",
        ),
        ("tmpdir", setting(code=1), "exits 1 in it"),
        ("tmpdir", seen("tmpdir", real="/tmp"), "TMPDIR has 150 characters, and /tmp is used"),
        ("contents", seen("contents", found=[["setuid", "/opt/x"]]), "setuid: /opt/x"),
        ("contents", config(env={"https_proxy": "http://p"}), "the variable https_proxy is set"),
        ("contents", config(env={"UV_DEFAULT_INDEX": "x"}), "variable UV_DEFAULT_INDEX is set"),
        ("contents", config(env={"HF_TOKEN": "secret"}), "the variable HF_TOKEN is set"),
        ("contents", config(env={"PGPASSWORD": "secret"}), "the variable PGPASSWORD is set"),
        ("contents", labels(source="https://me:pw@x.org"), "image.source holds a login"),
        ("metadata", labels(version="1"), "image.version is 1, not 0.32.0"),
        ("metadata", labels(title=""), "no label org.opencontainers.image.title"),
        ("metadata", labels(created="now"), "image.created is no time: now"),
        ("metadata", config(ports=("80/tcp",)), "the port 8000 is not exposed"),
        ("metadata", config(health=()), "there is no health check"),
        ("metadata", config(health=("CMD-SHELL", "curl")), "health check goes through a shell"),
        ("metadata", config(health=("CMD", "sh", "-c", "x")), "health check goes through a shell"),
        ("metadata", config(start=("/bin/sh", "-c", "vllm")), "CMD goes through a shell"),
        (
            "metadata",
            config(start=("tini", "-s", "--", "bash", "-o", "pipefail", "-c", "vllm")),
            "CMD goes through a shell",
        ),
        ("metadata", config(start=()), "nothing says what it starts"),
    ],
)
def test_each_check_can_fail(matrix: Matrix, check: str, change: Change, says: str) -> None:
    image = Image()
    change(image)
    report = held(matrix, image)
    found = of(report, check)
    assert found.status is Status.FAILED
    assert says in found.detail
    assert "secret" not in found.detail
    assert not report.passed
    assert len(report.checks) == len(OWN), "the others are tried all the same"
    assert all(container.removed for container in image.containers)


@pytest.mark.parametrize(
    "name",
    [
        *("PGPASSWORD", "SMTP_PASS", "MYSQL_PWD", "REDIS_PASSWD", "SSH_PASSPHRASE", "PASS"),
        *("SSH_PRIVATE_KEY", "WANDB_KEY", "wandb_api_key", "OPENAI_APIKEY", "DJANGO_SECRET_KEY"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "CLIENT_SECRET", "GITHUB_TOKEN"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "SSH_AUTH_SOCK", "PIP_INDEX", "PIP_INDEX_URL"),
        *("PIP_EXTRA_INDEX_URL", "PIP_PYPI_URL", "UV_INDEX_SITE_PASSWORD", "no_proxy"),
    ],
)
@pytest.mark.parametrize("where", ["env", "labels"])
def test_a_sites_or_a_persons_variable_is_found(matrix: Matrix, name: str, where: str) -> None:
    image = Image()
    config(**{where: {**getattr(CONFIG, where), name: "v4lue"}})(image)
    found = of(held(matrix, image), "contents")
    assert found.status is Status.FAILED
    assert f"{name} is set" in found.detail
    assert "v4lue" not in found.detail
    config(**{where: {**getattr(CONFIG, where), name: ""}})(image)
    assert of(held(matrix, image), "contents").status is Status.PASSED


@pytest.mark.parametrize(
    "variable",
    [
        *("TOKENIZERS_PARALLELISM=false", "HF_HUB_DISABLE_IMPLICIT_TOKEN=1", "GPG_KEY=A035C8C1"),
        *("PWD=/", "OLDPWD=/root", "PIP_NO_CACHE_DIR=1", "PIP_CONSTRAINT=/etc/pip/constraint.txt"),
        *("UV_LINK_MODE=copy", "VLLM_MAX_TOKENS=8", "KEYBOARD=us", "XDG_CACHE_HOME=/tmp/x"),
        *("NVIDIA_REQUIRE_CUDA=cuda>=13.0", "SSH_PUBLIC_KEY=ssh-ed25519", "BYPASS=x", "COMPASS=n"),
        *("MONKEY=x", "PASSENGER_ROOT=/opt", "SECRETARY=x", "LD_LIBRARY_PATH=/usr/lib"),
    ],
)
def test_a_harmless_variable_is_not_refused(matrix: Matrix, variable: str) -> None:
    name, _, value = variable.partition("=")
    image = Image()
    config(env={**CONFIG.env, name: value})(image)
    assert of(held(matrix, image), "contents").status is Status.PASSED


SHELLS = [
    ["sh", "-c", "vllm"],
    ["/bin/bash", "-lc", "vllm"],
    ["dash", "-ec", "vllm"],
    ["tini", "--", "sh", "-c", "vllm"],
    ["/usr/bin/tini", "-s", "-g", "--", "/bin/sh", "-c", "vllm"],
    ["bash", "-o", "pipefail", "-c", "vllm"],
    ["bash", "-euxo", "pipefail", "-c", "vllm"],
    ["bash", "+o", "history", "-O", "extglob", "-c", "vllm"],
    ["bash", "--noprofile", "--rcfile", "/x", "-c", "vllm"],
    ["/usr/bin/env", "sh", "-c", "vllm"],
    ["env", "-i", "A=b", "sh", "-c", "vllm"],
    ["env", "-S", "bash -c", "vllm"],
    ["env", "-iS", "A=b bash", "-c", "vllm"],
    ["env", "--split-string=sh -c vllm"],
    ["dumb-init", "busybox", "sh", "-c", "vllm"],
    ["gosu", "1000", "zsh", "-c", "vllm"],
]
NO_SHELLS = [
    ["tini", "-s", "--", "python3", "-ES", "/opt/start", "start", "vllm", "serve", "--"],
    ["python3", "-c", "print()"],
    ["/opt/upstream/entrypoint.sh", "-c", "x"],
    ["bash", "--norc", "start.sh", "-c", "x"],  # a script's own option
    ["bash", "-o", "pipefail", "start.sh"],
    ["bash", "-", "-c"],
    ["env", "A=b", "vllm", "serve", "-S", "sh -c x"],
    ["sh"],
    ["bash", "-o"],
    ["env", "-S"],
    ["vllm", "serve", "--chat-template", "sh"],
]


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
@pytest.mark.parametrize("where", ["start", "health"])
def test_a_shell_is_found_behind_what_starts_it(
    matrix: Matrix, command: list[str], where: str
) -> None:
    image = Image()
    config(**{where: (*(("CMD",) if where == "health" else ()), *command)})(image)
    found = of(held(matrix, image), "metadata")
    assert found.status is Status.FAILED
    assert "through a shell" in found.detail


@pytest.mark.parametrize("command", NO_SHELLS, ids=" ".join)
def test_what_is_no_shell_passes(matrix: Matrix, command: list[str]) -> None:
    image = Image()
    config(start=tuple(command), health=("CMD", *command))(image)
    assert of(held(matrix, image), "metadata").status is Status.PASSED


@pytest.mark.parametrize("printed", ["", "null\n", "7\n", "not JSON\n"])
def test_an_image_that_prints_something_else_fails(matrix: Matrix, printed: str) -> None:
    engine = FakeEngine(on_run=lambda _: Result(code=0, stdout=printed, stderr=""), config=CONFIG)
    report = check_contract(
        matrices.cell(matrix, "cpu-vllm"), engine, "image", lambda _: None, static=True
    )
    assert of(report, "zombies").detail.splitlines()[0] == "`python3` prints something else"
    passed = {check.name for check in report.checks if check.status is Status.PASSED}
    assert passed <= {"metadata", "user"}


@pytest.mark.parametrize(
    ("check", "change", "says"),
    [
        ("user", setting(uid="4711"), "uid 4711, and the caller's is"),
        ("any-uid", setting(stranger=False), "it runs as 1000:0, and 123456:0 was asked for"),
        ("read-only", seen("writable", read_only=False), "its root stays writable"),
        ("no-network", seen("offline", routes=["eth0"]), "it keeps a route by eth0"),
        ("metadata", config(start=("#!/bin/sh", 'vllm "$@"')), "does not end in exec"),
        (
            "metadata",
            config(start=("#!/bin/sh", 'exec tini -- sh -c vllm "$@"')),
            "goes through another shell",
        ),
    ],
)
def test_a_sif_can_fail_too(matrix: Matrix, check: str, change: Change, says: str) -> None:
    image = Image(name="apptainer")
    change(image)
    found = of(held(matrix, image), check)
    assert found.status is Status.FAILED
    assert says in found.detail


@pytest.mark.parametrize(
    ("check", "refuses", "says"),
    [
        ("any-uid", lambda asked: asked.user, "Apptainer: not for you"),
        ("no-network", lambda asked: not asked.network, "Apptainer: not for you"),
        ("read-only", lambda asked: asked.read_only and asked.home, "Apptainer: not for you"),
    ],
)
def test_what_an_engine_cannot_do_is_skipped(
    matrix: Matrix, check: str, refuses: Callable[[Run], bool], says: str
) -> None:
    image = Image(name="apptainer")
    image.refuses = refuses
    found = of(held(matrix, image), check)
    assert (found.status, found.detail) == (Status.SKIPPED, says)


def test_without_a_folder_of_that_name_sockets_go_elsewhere(matrix: Matrix) -> None:
    image = Image(name="apptainer")
    image.refuses = lambda asked: LONG in asked.tmpfs
    image.seen["tmpdir"] = {"folder": "/tmp", "real": "/tmp"}
    found = of(held(matrix, image), "tmpdir")
    assert (found.status, found.detail) == (Status.PASSED, "a socket is bound in /tmp")


@pytest.mark.loopback
@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        (0, Status.PASSED, "the server gives 0"),
        (KILLED, Status.PASSED, "the server gives 143"),
        (1, Status.FAILED, "the server gives exit code 1, not 0 or 143"),
        (None, Status.FAILED, "the server ignored SIGTERM for 10 s"),
    ],
)
def test_a_server_that_can_run_here_is_ended(
    matrix: Matrix, code: int | None, status: Status, says: str
) -> None:
    with serving({"/health": (200, "")}) as (port, _):
        image = Image(url=f"http://127.0.0.1:{port}")
        image.ends["server"] = code
        found = of(held(matrix, image, static=False), "sigterm")
    assert found.status is status
    assert says in found.detail
    assert image.containers[-1].removed


def test_a_server_that_cannot_run_here_is_left_out(matrix: Matrix) -> None:
    image = Image()
    found = of(held(matrix, image, "cuda13.0-vllm", static=False), "sigterm")
    assert found.status is Status.PASSED
    assert found.detail.endswith("no server: needs an NVIDIA GPU, and there is none")


def test_options_are_those_that_docker_and_podman_share(tmp_path: Path) -> None:
    plain = Run(image="x", args=())
    assert run_options(plain) == ["--shm-size", "64m"]
    asked = dataclasses.replace(
        plain,
        env={"A": "1"},
        entrypoint="id",
        user="5:0",
        read_only=True,
        tmpfs=("/tmp",),
        home=False,
        mounts={tmp_path: "/model"},
    )
    assert " ".join(run_options(asked)[2:]) == (
        "--env A=1 --env HOME=/nonexistent --user 5:0 --read-only --entrypoint id "
        f"--volume {tmp_path}:/model:ro --tmpfs /tmp:rw,exec,mode=1777"
    )


def test_apptainer_gives_another_uid_to_root_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Run(image="x.sif", args=("ls",), user="5:0", network=False, tmpfs=("/tmp", "/s"))
    monkeypatch.setattr(host, "is_root", lambda: False)
    with pytest.raises(UnsupportedError, match="Apptainer runs as its caller"):
        Apptainer().run(asked)
    monkeypatch.setattr(host, "is_root", lambda: True)
    options = " ".join(apptainer._options(asked))
    assert options.endswith("--scratch /s --net --network none --security uid:5 --security gid:0")


@pytest.mark.parametrize(("bare", "refused"), [(255, True), (0, False)])
def test_apptainers_refusal_is_told_from_a_commands_failure(
    monkeypatch: pytest.MonkeyPatch, bare: int, refused: bool
) -> None:
    said = "\x1b[31mFATAL:  \x1b[0m network none: not allowed\n"
    codes = {"run": 255, "exec": bare}

    def capture(command: Any, *, check: bool = True) -> Result:
        return Result(code=codes[command.args[1]], stdout="", stderr=said)

    monkeypatch.setattr(proc, "capture", capture)
    asked = Run(image="x.sif", args=("ls",), network=False)
    if refused:
        with pytest.raises(UnsupportedError, match=r"^Apptainer: network none: not allowed$"):
            Apptainer().run(asked)
    else:
        assert Apptainer().run(asked).code == 255


def test_what_docker_tells_of_an_image() -> None:
    told = {"User": "1000:0", "Env": ["A=b=c"], "Cmd": ["x"], "ExposedPorts": {"80/tcp": {}}}
    found = Config.of_image({**told, "Labels": None, "Entrypoint": None}, None)
    assert found == Config(
        labels={}, env={"A": "b=c"}, start=("x",), user="1000:0", ports=("80/tcp",), health=()
    )


def test_what_apptainer_tells_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = {
        "labels": {"a": "b"},
        "environment": {"/.singularity.d/env/90.sh": '#!/bin/sh\n    export X="1"\nexport Y=2\n'},
        "runscript": '#!/bin/sh\nexec x "$@"\n',
    }
    text = json.dumps({"data": {"attributes": attributes}})
    monkeypatch.setattr(proc, "capture", lambda *_, check: Result(code=0, stdout=text, stderr=""))
    found = Apptainer().config("x.sif")
    assert (found.labels, found.env) == ({"a": "b"}, {"X": "1", "Y": "2"})
    assert found.start == ("#!/bin/sh", 'exec x "$@"')
    assert (found.user, found.ports, found.health) == (None, None, None)


# What runs inside, run here.


def part(*args: str, code: int = 0, **env: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", INSIDE, *args],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if not code else done.stderr


@pytest.mark.python
def test_writable_tells_every_place_that_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    found = part("writable", "json", HOME=str(tmp_path), XDG_CACHE_HOME=str(file / "x"))
    assert found["refused"] == {"XDG_CACHE_HOME": f"{file}/x: Not a directory"}
    assert found["places"]["HOME"] == str(tmp_path)
    assert part("writable")["refused"] == dict.fromkeys(("HOME", "XDG_CACHE_HOME"), "not set")
    assert "No module named 'nowhere'" in part("writable", "nowhere", code=1)


@pytest.mark.python
def test_a_long_tmpdir_breaks_a_socket(tmp_path: Path) -> None:
    long = tmp_path / ("t" * 150)
    long.mkdir()
    assert "AF_UNIX path too long" in part("tmpdir", TMPDIR=str(long), code=1)
    short = tmp_path / "s"
    short.symlink_to(long)
    if len(str(short)) < 50:
        found = part("tmpdir", TMPDIR=str(short))
        assert found == {"folder": str(short), "real": str(long)}


@pytest.mark.python
def test_a_stand_in_is_ready_and_ends_as_asked() -> None:
    for arguments, code in ((["7"], 7), ([], -15)):
        process = subprocess.Popen(
            [sys.executable, "-c", INSIDE, "wait", *arguments], stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout
            assert inside.READY in process.stdout.readline()
            process.terminate()
            assert process.wait(10) == code


def test_caches_are_the_manifests(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    assert inside.caches(str(file)) == []
    file.write_text("[]")
    assert inside.caches(str(file)) == []
    file.write_text('{"caches": [{"variable": "HF_HOME", "folder": "huggingface"}]}')
    assert inside.caches(str(file)) == ["HF_HOME"]


def test_the_dead_are_those_in_state_z(tmp_path: Path) -> None:
    for number, line in (("1", "1 (tini) S 0"), ("7", "7 (a) Z b) Z 1"), ("self", "9 (x) Z 1")):
        (tmp_path / number).mkdir()
        (tmp_path / number / "stat").write_text(line)
    (tmp_path / "8").mkdir()
    assert inside.dead(str(tmp_path)) == ["7 (a) Z b)"]


def image_of(root: Path, *files: tuple[str, str, int]) -> None:
    for path, text, mode in files:
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)


KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"


@pytest.mark.parametrize(
    ("path", "text", "mode", "what"),
    [
        ("/usr/local/bin/su", "", 0o4755, "setuid"),
        ("/usr/bin/tool", "", 0o2755, "setgid"),
        ("/opt/venv/lib/x.py", "", 0o666, "world-writable"),
        ("/etc/pip.conf", "", 0o644, "site setting"),
        ("/root/.config/pip/pip.conf", "", 0o644, "site setting"),
        ("/etc/uv/uv.toml", "", 0o644, "site setting"),
        ("/home/imgbuild/.netrc", "", 0o600, "site setting"),
        ("/home/imgbuild/.git-credentials", "", 0o600, "site setting"),
        ("/root/.docker/config.json", "", 0o600, "site setting"),
        ("/etc/apt/auth.conf.d/site.conf", "", 0o600, "site setting"),
        ("/home/imgbuild/.cache/huggingface/token", "x", 0o600, "site setting"),
        ("/root/.ssh/id_ed25519", "", 0o600, "site setting"),
        ("/etc/ssl/private/host.key", KEY, 0o600, "private key"),
        ("/usr/share/x/cert.pem", f"text\n{KEY}", 0o644, "private key"),
        ("/etc/apt/sources.list", "deb https://me:pw@x.org/d x\n", 0o644, "login in an address"),
        ("/etc/apt/apt.conf.d/site", 'Acquire::http::Proxy "http://p";\n', 0o644, "proxy"),
        ("/etc/environment", "export HTTPS_PROXY=http://p:1\n", 0o644, "proxy"),
        ("/etc/dnf/dnf.conf", "[main]\nproxy=http://p:1\n", 0o644, "proxy"),
    ],
)
def test_what_does_not_belong_into_an_image_is_found(
    tmp_path: Path, path: str, text: str, mode: int, what: str
) -> None:
    image_of(tmp_path, (path, text, mode))
    assert inside.contents(str(tmp_path))["found"] == [[what, path]]


def test_what_belongs_into_an_image_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_of(
        tmp_path,
        ("/usr/bin/su", "", 0o4755),
        ("/opt/venv/lib/python3.11/site-packages/x/test.pem", KEY, 0o644),
        ("/opt/venv/lib/python3.11/site-packages/x/pip.conf", "", 0o644),
        ("/etc/wgetrc", "#https_proxy = http://proxy:1/\n# http://me:pw@x.org\n", 0o644),
        ("/etc/apt/sources.list", "deb http://deb.debian.org/debian x main\n", 0o644),
        ("/etc/apt/apt.conf.d/01", '// Acquire::http::Proxy "x";\n', 0o644),
        ("/etc/ssl/certs/ca.pem", "-----BEGIN CERTIFICATE-----\n", 0o644),
    )
    os.chown(tmp_path / "usr/bin/su", 0, 0) if os.getuid() == 0 else monkeypatch.setattr(
        inside, "expected", lambda path, _: path == "/usr/bin/su"
    )
    (tmp_path / "usr/bin/su").chmod(0o4755)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    (tmp_path / "etc/link").symlink_to("/nowhere")
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(tmp_path)
        bound.bind("s")
        os.chdir(here)
    (tmp_path / "s").chmod(0o755)
    found = inside.contents(str(tmp_path))
    assert found["found"] == []
    assert found["unread"] == []
    assert found["files"] > 10


@pytest.mark.parametrize(
    ("path", "error", "found"),
    [
        ("/usr/bin/ping", None, True),
        ("/opt/venv/bin/tool", None, True),
        ("/opt/venv/lib/python3.11/site-packages/x/tool", None, True),
        ("/opt/newuidmap", None, True),
        ("/usr/bin/newuidmap", None, False),  # UBI's, in place of setuid
        ("/usr/bin/ping", errno.EOVERFLOW, True),
        ("/usr/bin/ping", errno.ENODATA, False),
        ("/usr/bin/ping", errno.ENOTSUP, False),
    ],
)
def test_a_file_that_gives_a_right_of_roots_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, error: int | None, found: bool
) -> None:
    def getxattr(file: str, name: str, *, follow_symlinks: bool) -> bytes:
        assert (name, follow_symlinks) == ("security.capability", False)
        assert not Path(file).is_dir()
        if error is not None:
            raise OSError(error, os.strerror(error))
        return bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep

    image_of(tmp_path, (path, "", 0o755))
    monkeypatch.setattr(os, "getxattr", getxattr)
    if os.getuid() != 0:
        monkeypatch.setattr(inside, "expected", lambda path, _: path == "/usr/bin/newuidmap")
    made = inside.contents(str(tmp_path))["found"]
    assert made == ([["file capability", path]] if found else [])


def test_everybodys_folders_are_known_and_sticky(tmp_path: Path) -> None:
    for name, mode in (("tmp", 0o777), ("data", 0o1777)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    found = inside.contents(str(tmp_path))["found"]
    assert found == [["world-writable", "/data"], ["world-writable", "/tmp"]]


def test_the_text_keeps_its_braces() -> None:
    """`Run.arguments` fills them in where a server listens."""
    assert "{port}" not in INSIDE
    assert "{host}" not in INSIDE


CONTRACT = ("smoke", "--contract", "--static", "--matrix")


def test_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Image()
    monkeypatch.setattr(command, "_find", lambda *_: (image.engine, "mine:1"))
    assert verb(monkeypatch, *CONTRACT, "cpu-vllm", "--json") == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert [check["name"] for check in report["checks"]] == OWN
    image.uid = "0"
    assert verb(monkeypatch, *CONTRACT, "cpu-vllm") == 1
    told = capsys.readouterr()
    assert "  user       FAILED the image runs as root [" in told.out
    assert told.err.endswith("imgbuild: smoke failed: cpu-vllm (user)\n")


def test_a_failing_image_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find(_bench: Any, cell: Cell, *_: Any) -> tuple[FakeEngine, str]:
        image = Image()
        image.version = cell.release.version
        image.uid = "0" if cell.id == "cpu-deepspeed" else "1000"
        names = {"title": cell.id, "version": cell.release.version}
        labels(**names)(image)
        image.config = dataclasses.replace(
            image.config, labels={**image.config.labels, "io.imgbuild.cell": cell.id}
        )
        return image.engine, f"{cell.id}:1"

    monkeypatch.setattr(command, "_find", find)
    assert verb(monkeypatch, *CONTRACT, "cpu-*", "--json") == 1
    told = capsys.readouterr()
    passed = {report["cell_id"]: report["passed"] for report in json.loads(told.out)}
    assert passed == {"cpu-vllm": True, "cpu-deepspeed": False, "cpu-ray": True}
    assert told.err.endswith("imgbuild: smoke failed: cpu-deepspeed (user)\n")
    assert "cpu-ray: program ...\n" in told.err
    assert verb(monkeypatch, *CONTRACT, "cpu-*") == 1
    shown = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert shown == [f"{cell}: {cell}:1 (docker)" for cell in passed]


def test_an_image_that_is_not_there_is_told_before_any_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Image()

    def find(_bench: Any, cell: Cell, *_: Any) -> tuple[FakeEngine, str]:
        if cell.id == "cpu-ray":
            raise UserError("cpu-ray is not built with any engine")
        return image.engine, "mine:1"

    monkeypatch.setattr(command, "_find", find)
    assert verb(monkeypatch, *CONTRACT, "cpu-*") == 2
    assert capsys.readouterr().err == "imgbuild: cpu-ray is not built with any engine\n"
    assert not image.runs


def test_a_sif_is_given_by_its_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sif = tmp_path / "mine.sif"
    sif.touch()
    image = Image(name="apptainer")
    image.uid = str(os.getuid())
    monkeypatch.setattr(engines, "usable", lambda *_: iter([image.engine]))
    args = (*CONTRACT, "cpu-vllm", "--image", str(sif))
    assert verb(monkeypatch, *args) == 0
    assert capsys.readouterr().out.startswith(f"cpu-vllm: {sif} (apptainer)\n  user       ok uid ")
    assert verb(monkeypatch, *args, "--engine", "docker") == 2
    told = f"imgbuild: --image: {sif}: docker runs no SIF; leave --engine out\n"
    assert capsys.readouterr().err == told
    assert verb(monkeypatch, *CONTRACT, "cpu-*", "--image", str(sif)) == 2
    assert "--image is one image; say with --matrix which cell" in capsys.readouterr().err

"""What a container starts: the user's program or the server, tuned, or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.runtime import (
    apply,
    caches,
    decide,
    entrypoint,
    gpus,
    host,
    manifest,
    preflight,
    reaper,
    tune,
)
from builder.runtime.__main__ import main as runtime
from tests.unit import hosts
from tests.unit.support import ROOT

SERVER = ("vllm", "serve")


class Exec:
    """Stands in for os.execvpe, which would not return."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.calls: list[tuple[str, list[str], dict[str, str]]] = []

    def __call__(self, file: str, args: list[str], env: dict[str, str]) -> None:
        self.calls.append((file, args, env))
        if self.error:
            raise self.error

    @property
    def command(self) -> list[str]:
        ((_, args, _),) = self.calls
        return args

    @property
    def env(self) -> dict[str, str]:
        ((_, _, env),) = self.calls
        return env


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> Exec:
    called = Exec()
    monkeypatch.setattr(os, "execvpe", called)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return called


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with one program, `bash`."""
    program = tmp_path / "bin/bash"
    program.parent.mkdir()
    program.touch(0o755)
    return str(program.parent)


# Which command.


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], ["vllm", "serve"]),
        (["--model", "x"], ["vllm", "serve", "--model", "x"]),
        (["org/model"], ["vllm", "serve", "org/model"]),
        (["bash", "-c", "id"], ["bash", "-c", "id"]),
        (["bash"], ["bash"]),
        (["nosuchprogram"], ["vllm", "serve", "nosuchprogram"]),
        (["-c", "bash"], ["vllm", "serve", "-c", "bash"]),
        (["x", "--", "y"], ["vllm", "serve", "x", "--", "y"]),
        ([""], ["vllm", "serve", ""]),
    ],
)
def test_the_users_program_or_the_server(
    tmp_path: Path, path: str, became: Exec, arguments: list[str], wanted: list[str]
) -> None:
    environment = {"PATH": path, "HOME": str(tmp_path)}
    entrypoint.Start(SERVER, arguments, manifest.NOTHING, environment).run()
    assert became.command == wanted
    assert entrypoint.is_program(arguments, path) == (wanted[:1] == ["bash"])


SGLANG = ("python3", "-m", "sglang.launch_server", "--host", "0.0.0.0")
OWN = ("/opt/venv/bin/python", "/opt/imgbuild/servers", "deepspeed")


@pytest.mark.parametrize(
    ("server", "arguments", "rest"),
    [
        (SERVER, ["vllm", "serve", "m", "--port", "1"], ["m", "--port", "1"]),
        (SERVER, ["vllm", "serve"], []),
        (SERVER, ["/opt/venv/bin/vllm", "serve", "m"], ["m"]),
        (SERVER, ["vllm", "bench", "serve"], None),
        (SERVER, ["vllm"], None),
        (SERVER, ["serve", "vllm"], None),
        (SGLANG, ["python3", "-m", "sglang.launch_server", "--tp", "2"], ["--tp", "2"]),
        (SGLANG, ["python", "-m", "sglang.launch_server"], []),
        (SGLANG, ["/usr/bin/python3.12", "-m", "sglang.launch_server"], []),
        (SGLANG, ["python3", "-m", "sglang.bench"], None),
        (SGLANG, ["python3"], None),
        (OWN, ["python3", "/opt/imgbuild/servers", "deepspeed", "--port", "1"], ["--port", "1"]),
        (("/tgi-entrypoint.sh",), ["/tgi-entrypoint.sh", "--port", "1"], ["--port", "1"]),
        (("/tgi-entrypoint.sh",), ["--port", "1"], None),
    ],
)
def test_the_servers_own_command_is_no_other_program(
    server: tuple[str, ...], arguments: list[str], rest: list[str] | None
) -> None:
    assert entrypoint.own_arguments(server, arguments) == rest


@pytest.mark.parametrize("program", ["vllm", "{bin}/vllm"])
def test_who_spells_the_servers_command_is_served_as_others(
    here: Here, tmp_path: Path, program: str
) -> None:
    """As Kubernetes' args often do."""
    (tmp_path / "bin/vllm").touch(0o755)
    model, own = str(tmp_path / "Llama"), program.format(bin=tmp_path / "bin")
    command = here.start("dgx-h100", CUDA, own, "serve", model)
    assert command == [own, "serve", model, "--tensor-parallel-size", "4"]
    assert here.asked == 1


def test_the_servers_own_help_asks_no_gpu(here: Here, tmp_path: Path) -> None:
    (tmp_path / "bin/vllm").touch(0o755)
    assert here.start("no-gpus-asked-for", CUDA, "vllm", "serve", "--help")[-1] == "--help"
    assert here.asked == 0


def test_a_cluster_of_ray_gets_no_parallelism_of_this_host(here: Here, tmp_path: Path) -> None:
    model = str(tmp_path / "Llama")
    assert here.start("dgx-h100", CUDA, model, RAY_ADDRESS="auto") == [*SERVER, model]


def test_a_model_in_a_folder_is_no_program(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not entrypoint.is_program(["org/model"], path)
    program = tmp_path / "org/program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert entrypoint.is_program(["org/program"], path)
    program.chmod(0o644)
    assert not entrypoint.is_program(["org/program"], path)


@pytest.mark.parametrize(
    ("head", "runs"),
    [
        (b"#!/bin/sh\n", True),
        (b"\x7fELF\2\1", True),
        (b"GGUF\3", False),
        (b"PK", False),
        (b"", False),
    ],
)
def test_a_model_that_may_be_executed_is_no_program(
    path: str, tmp_path: Path, head: bytes, runs: bool
) -> None:
    """As every file may on CIFS and NTFS."""
    file = tmp_path / "x.gguf"
    file.write_bytes(head)
    file.chmod(0o755)
    assert entrypoint.is_program([str(file)], path) == runs


def test_a_program_that_cannot_be_read_is_one(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "program"
    file.touch(0o711)
    monkeypatch.setattr("builtins.open", refused)
    assert entrypoint.is_program([str(file)], path)


@pytest.mark.parametrize("arguments", [[], ["vllm"], ["--"], ["--", "bash"]])
def test_without_a_server_it_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert entrypoint.main(arguments) == 64
    assert capsys.readouterr().err.startswith("usage: start SERVER... -- ARGUMENTS...")


def test_main_becomes_the_command(
    tmp_path: Path, path: str, became: Exec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", path)
    entrypoint.main([*SERVER, "--", "--port", "1", "--", "x"])
    runtime(["start", *SERVER, "--", "bash"])
    (file, args, env), (other, _, _) = became.calls
    assert (file, args) == ("vllm", ["vllm", "serve", "--port", "1", "--", "x"])
    assert env["HOME"] == str(tmp_path)
    assert other == "bash"


def test_as_pid_1_it_supervises(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Callable[[], int]] = []
    monkeypatch.setattr(os, "getpid", lambda: 1)

    def supervise(start: Callable[[], int], mask: set[int]) -> int:
        assert mask == {10}
        started.append(start)
        return 7

    monkeypatch.setattr(reaper, "supervise", supervise)
    assert entrypoint.main([*SERVER, "--"], mask={10}) == 7
    assert started


class Asked:
    """Stands in for gpus.Query."""

    count = 0

    def __init__(self) -> None:
        Asked.count += 1


@pytest.mark.parametrize(
    ("nodes", "tuning", "looking", "asks"),
    [
        (["/dev/nvidiactl"], None, None, True),
        (["/dev/dxg"], "on", "warn", True),
        (["/dev/nvidiactl"], "off", None, True),
        (["/dev/nvidiactl"], None, "off", True),
        (["/dev/nvidiactl"], "off", "off", False),
        ([], None, None, False),
    ],
)
def test_nvidia_smi_is_asked_early_where_there_are_gpus(
    became: Exec,
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[str],
    tuning: str | None,
    looking: str | None,
    asks: bool,
) -> None:
    """While the rest is imported."""
    for name, value in (("IMGBUILD_TUNE", tuning), ("IMGBUILD_PREFLIGHT", looking)):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    given: list[Any] = []
    monkeypatch.setattr(gpus, "Query", Asked)
    monkeypatch.setattr(os.path, "exists", lambda path: path in nodes)

    def start(*more: Any) -> int:
        given.extend(more)
        return 5

    monkeypatch.setattr(entrypoint, "main", start)
    before = Asked.count
    assert runtime(["start", *SERVER, "--"]) == 5
    assert Asked.count - before == asks
    arguments, query, mask = given
    assert arguments == [*SERVER, "--"]
    assert isinstance(query, Asked) == asks
    assert mask is None
    monkeypatch.setattr(tune, "main", lambda *more: len(more))
    assert runtime(["tune"]) == 1  # it asks by itself, and holds no signal
    assert Asked.count - before == asks


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["-h"]])
def test_the_runtime_names_its_parts(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert runtime(arguments) == 64
    assert capsys.readouterr().err == "usage: runtime start|tune|slim ...\n"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (FileNotFoundError(2, "No such file or directory"), 127, "No such file or directory"),
        (PermissionError(13, "Permission denied"), 126, "Permission denied"),
        (OSError(8, "Exec format error"), 126, "Exec format error"),
    ],
)
def test_it_says_why_it_could_not(
    tmp_path: Path,
    became: Exec,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    code: int,
    says: str,
) -> None:
    became.error = error
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IMGBUILD_TUNE", "off")
    assert entrypoint.main([*SERVER, "--"]) == code
    assert capsys.readouterr().err == f"imgbuild: cannot start vllm: {says}\n"


def test_no_place_at_all_is_told_and_the_server_starts_anyway(
    tmp_path: Path,
    became: Exec,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = [tmp_path / name for name in ("tmp", "shm")]
    for place in places:
        place.touch()  # a file: no folder can be made in it
    monkeypatch.setattr(caches, "SHARED", tuple(map(str, places)))
    environment = {"HOME": "/proc/none", "PATH": "", "IMGBUILD_TUNE": "off"}
    entrypoint.Start(SERVER, [], manifest.NOTHING, environment).run()
    assert became.env == {**environment, "USER": "imgbuild"}
    error = capsys.readouterr().err
    told = "no writable folder for caches; mount one and set IMGBUILD_CACHE and HOME"
    assert error == f"imgbuild: {told}\n"


# On a recorded host.


class Here:
    """One start on a recorded host, as its image has it."""

    def __init__(self, tmp_path: Path, became: Exec, monkeypatch: pytest.MonkeyPatch) -> None:
        self.became, self._tmp, self._monkeypatch = became, tmp_path, monkeypatch
        self.asked = 0
        self.refuses = "nothing"
        self.placed: list[tuple[str, str]] = []

    def start(
        self, name: str, image: str, *arguments: str, code: int = 0, **environment: str
    ) -> list[str]:
        """Returns the command that it became; `code` is the one that it ends with instead."""
        root = hosts.read(name).unpack(self._tmp / "host")
        here = self

        class Query:
            def __init__(self) -> None:
                here.asked += 1

            def answer(self) -> Any:
                return {"devices": [], "driver": None, "error": None, **(root.told("gpus") or {})}

        def place(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
            self.placed += [
                (d["kind"], d["value"])
                for d in made
                if d["kind"] in ("affinity", "memory") and d["status"] == decide.SET
            ]
            return [
                {**d, "status": decide.REFUSED, "why": "no"} if d["kind"] == self.refuses else d
                for d in made
            ]

        self._monkeypatch.setattr(host, "Root", lambda: root)
        self._monkeypatch.setattr(gpus, "Query", Query)
        self._monkeypatch.setattr(apply, "place", place)
        about = manifest.read(str(ROOT / f"images/manifests/{image}.json"))
        environment = {"PATH": str(self._tmp / "bin"), "HOME": str(self._tmp), **environment}
        start = entrypoint.Start(SERVER, arguments, about, environment)
        ended = start.run()
        if code:
            assert ended == code
            return []
        return self.became.command


@pytest.fixture
def here(tmp_path: Path, path: str, became: Exec, monkeypatch: pytest.MonkeyPatch) -> Here:
    (tmp_path / "Llama").mkdir()
    (tmp_path / "Llama/config.json").write_text(
        '{"num_attention_heads": 64, "num_key_value_heads": 8}'
    )
    with (tmp_path / "Llama/model.safetensors").open("wb") as file:
        file.truncate(141 * 10**9)  # a hole: it takes no space
    return Here(tmp_path, became, monkeypatch)


CPU, CUDA, TPU = "vllm-0.32.0-cpu", "vllm-0.32.0-cu130", "jax-0.12.0.1-tpu"


def test_a_quota_becomes_threads(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.start("quota-2.7", CPU, "m") == [*SERVER, "m"]
    assert here.became.env["OMP_NUM_THREADS"] == "2"
    assert here.asked == 0  # a CPU's image asks no nvidia-smi
    error = capsys.readouterr().err
    assert error.startswith("imgbuild: tuned: OMP_NUM_THREADS=2, ")
    assert error.count("\n") == 1


def test_without_anything_to_say_it_says_nothing(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    here.start("cpuset-3", CPU, "m")
    assert capsys.readouterr().err == ""


def test_explain(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here.start("untuned", CUDA, "m", IMGBUILD_TUNE="explain", MAX_JOBS="3")
    error = capsys.readouterr().err.splitlines()
    assert all(line.startswith("imgbuild: ") for line in error)
    assert "imgbuild: left MAX_JOBS=3: you have set it" in error
    assert any("set CPUs of the GPU's NUMA node=0,1,2" in line for line in error)
    assert any("On the host: cpupower" in line for line in error)
    assert here.became.env["MAX_JOBS"] == "3"
    assert ("memory", "0") in here.placed


def test_explain_tells_of_the_models_disk(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def scheduler(_: host.Root, folder: str) -> dict[str, Any]:
        asked.append(folder)
        return {"disk": "sda", "scheduler": "bfq", "rotates": False}

    monkeypatch.setattr(host, "scheduler", scheduler)
    model = str(tmp_path / "Llama")
    here.start("cpuset-3", CPU, model, IMGBUILD_TUNE="explain")
    assert asked == [model]
    assert "the model's disk sda has the I/O scheduler bfq" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["on", "explain"])
def test_what_the_kernel_refuses_is_not_told_as_done(
    here: Here, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    here.refuses = "memory"
    here.start("dgx-h100-node1", CUDA, "m", IMGBUILD_TUNE=mode)
    error = capsys.readouterr().err
    name = "memory of the GPU's NUMA node"
    told = f"not set {name}=1: no" if mode == "explain" else f"not bound to {name}: no"
    assert f"imgbuild: {told}\n" in error
    assert error.count(name) == 1


def test_a_refused_memory_policy_names_what_allows_it() -> None:
    assert apply._refusal(1).endswith(" (docker run --cap-add SYS_NICE allows it)")
    assert "docker" not in apply._refusal(22)


def test_off(here: Here) -> None:
    here.start("quota-2.7", CPU, "m", IMGBUILD_TUNE="off")
    assert "OMP_NUM_THREADS" not in here.became.env
    assert here.became.env["HF_HOME"]  # caches have places all the same


def test_weights_are_spread_over_gpus(here: Here, tmp_path: Path) -> None:
    model = str(tmp_path / "Llama")
    command = here.start("dgx-h100", CUDA, model)
    assert command == [*SERVER, model, "--tensor-parallel-size", "4"]


def test_the_users_own_spreading_stays(here: Here, tmp_path: Path) -> None:
    model = str(tmp_path / "Llama")
    assert here.start("dgx-h100", CUDA, model, "-tp", "8") == [*SERVER, model, "-tp", "8"]


def test_hidden_gpus_are_not_counted(here: Here, tmp_path: Path) -> None:
    """As SLURM hides them; and those that are left are all on one node."""
    model = str(tmp_path / "Llama")
    command = here.start("dgx-h100", CUDA, model, CUDA_VISIBLE_DEVICES="4,5")
    assert command == [*SERVER, model]
    assert ("memory", "1") in here.placed


def test_all_gpus_hidden_is_told(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.start("h100-vm", CUDA, "m", "-tp", "2", CUDA_VISIBLE_DEVICES="7")
    assert "CUDA_VISIBLE_DEVICES=7 names none of the GPUs here" in capsys.readouterr().err


def test_a_misfit_ends_it(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here.start("geforce-old-driver", CUDA, "m", code=preflight.MISFIT)
    assert here.became.calls == []
    error = capsys.readouterr().err.splitlines()
    assert "the driver is 535.183.01; this image's CUDA 13.0 needs 580.65.06" in error[-2]
    told = "this image does not fit this host; IMGBUILD_PREFLIGHT=warn starts it nevertheless"
    assert error[-1] == f"imgbuild: {told}"


@pytest.mark.parametrize(("mode", "says"), [("warn", True), ("off", False)])
def test_a_misfit_may_go_on(
    here: Here, capsys: pytest.CaptureFixture[str], mode: str, says: bool
) -> None:
    assert here.start("geforce-old-driver", CUDA, "m", IMGBUILD_PREFLIGHT=mode) == [*SERVER, "m"]
    assert ("the driver is" in capsys.readouterr().err) == says


def test_without_the_preflight_gpus_are_tuned_for_all_the_same(here: Here) -> None:
    here.start("dgx-h100-node1", CUDA, "m", IMGBUILD_PREFLIGHT="off")
    assert ("memory", "1") in here.placed
    assert here.asked == 1


def test_a_warning_does_not_end_it(
    here: Here, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = {"name": "n", "fatal": False, "what": "w", "why": "y", "fix": "f"}
    monkeypatch.setattr(preflight, "check", lambda *_: [finding])
    assert here.start("cpuset-3", CPU, "m") == [*SERVER, "m"]
    assert capsys.readouterr().err == "imgbuild: w. Because y. To mend it: f\n"


@pytest.mark.parametrize("arguments", [("bash",), ("--help",), ("m", "-h"), ("--version",)])
def test_who_asks_for_a_shell_or_for_help_is_not_refused(
    here: Here, arguments: tuple[str, ...]
) -> None:
    command = here.start("no-gpus-asked-for", CUDA, *arguments)
    assert command[-1] == arguments[-1]
    assert here.asked == 0


def test_who_chooses_the_cpu_is_neither_refused_nor_bound(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "Llama")
    command = here.start("dgx-h100-node1", CUDA, model, VLLM_TARGET_DEVICE="cpu")
    assert command == [*SERVER, model]
    assert (here.asked, here.placed) == (0, [])
    here.became.calls.clear()


def test_jax_on_a_cpu_of_two_nodes(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here.start("dgx-h100", TPU, "m", JAX_PLATFORMS="cpu")
    assert here.placed == []
    assert "TPU" not in capsys.readouterr().err


@pytest.mark.parametrize(("chosen", "node"), [("", "1"), ("cpu", None)])
def test_jax_on_the_cpu_of_a_tpu_host_is_not_bound_to_the_tpus_node(
    here: Here, chosen: str, node: str | None
) -> None:
    here.start("tpu-v5p-vm", TPU, "m", JAX_PLATFORMS=chosen)
    assert [value for kind, value in here.placed if kind == "memory"] == ([node] if node else [])
    assert bool(here.placed) == bool(node)


def test_a_ray_of_several_hosts_is_not_refused(here: Here) -> None:
    assert here.start("dgx-h100", CUDA, "m", "-tp", "16", "--nnodes", "2")


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("dgx-h100", ["m", "-tp", "16"], []),  # its ranks may be other nodes'
        (
            "geforce-old-driver",
            ["m"],
            ["the driver is 535.183.01", "going on, as the server joins a Ray cluster\n"],
        ),
    ],
)
@pytest.mark.parametrize("cluster", [True, False])
def test_a_server_that_joins_a_ray_cluster_is_not_refused(
    here: Here,
    capsys: pytest.CaptureFixture[str],
    name: str,
    arguments: list[str],
    says: list[str],
    cluster: bool,
) -> None:
    if not cluster:
        here.start(name, CUDA, *arguments, code=preflight.MISFIT, IMGBUILD_TUNE="off")
        return
    made = here.start(name, CUDA, *arguments, RAY_ADDRESS="auto", IMGBUILD_TUNE="off")
    assert made == [*SERVER, *arguments]
    error = capsys.readouterr().err
    assert all(part in error for part in says)
    assert bool(error) == bool(says)


@pytest.mark.parametrize(("arguments", "bound"), [(["m"], True), (["bash"], False)])
def test_a_program_of_the_users_gets_variables_and_is_not_bound(
    here: Here, arguments: list[str], bound: bool
) -> None:
    """It may bind itself: numactl refuses CPUs that we took away."""
    here.start("quota-2.7", CPU, *arguments)
    assert here.became.env["OMP_NUM_THREADS"] == "2"
    assert bool(here.placed) == bound


def test_with_stderr_closed_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Print would take stdout, which is the server's."""
    monkeypatch.setattr(sys, "stderr", None)
    entrypoint.say("x")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["IMGBUILD_TUNE", "IMGBUILD_PREFLIGHT"])
def test_a_mode_that_is_none(here: Here, capsys: pytest.CaptureFixture[str], name: str) -> None:
    here.start("cpuset-3", CPU, "m", code=64, **{name: "yes"})
    assert f"imgbuild: {name}=yes is not one of on, " in capsys.readouterr().err
    assert here.became.calls == []


@pytest.mark.parametrize("name", hosts.NAMES)
@pytest.mark.parametrize("image", [CPU, CUDA, TPU])
def test_it_starts_or_refuses_everywhere(
    here: Here, capsys: pytest.CaptureFixture[str], name: str, image: str
) -> None:
    here.start(name, image, "m", IMGBUILD_PREFLIGHT="warn", IMGBUILD_TUNE="explain")
    assert "please report" not in capsys.readouterr().err


def test_a_bug_of_the_tuner_does_not_keep_the_server_from_starting(
    here: Here, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("quota")

    monkeypatch.setattr(decide, "decide", broken)
    assert here.start("cpuset-3", CPU, "m") == [*SERVER, "m"]
    told = "neither tuned nor checked: KeyError: 'quota'; please report it"
    assert capsys.readouterr().err == f"imgbuild: {told}\n"


# With processes.


def image(tmp_path: Path) -> list[str]:
    """The runtime as it stands in an image, and how it is started there."""
    folder = tmp_path / "opt/imgbuild/runtime"
    shutil.copytree(ROOT / "builder/runtime", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return [sys.executable, "-ES", str(folder), "start"]


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    env["PYTHONDONTWRITEBYTECODE"] = "1"  # -E is for the image's Python, not for what it starts
    return subprocess.run(
        [*image(tmp_path), *arguments],
        env=env,
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
    )


@pytest.mark.python
def test_the_command_gets_this_process_and_its_signals_back(tmp_path: Path) -> None:
    """Python ignores SIGPIPE; `bash -c "yes | head"` must end in silence."""
    done = run(tmp_path, "false", "--", "sh", "-c", "yes | head -n 1; cat /proc/$$/status; exit 3")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("y\n")
    (ignored,) = (line for line in done.stdout.splitlines() if line.startswith("SigIgn:"))
    assert (
        int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)) == 0
    )


@pytest.mark.python
def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path, "no-such-server", "--", "--port", "1")
    assert done.returncode == 127
    assert done.stderr.endswith("cannot start no-such-server: No such file or directory\n")


@pytest.mark.python
def test_a_start_loads_no_slow_module(tmp_path: Path) -> None:
    """A start has 60 ms; each of these takes some."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "builder")!r})
import runtime.entrypoint
print(sorted(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-ESc", code], stdout=subprocess.PIPE, text=True, check=True
    )
    loaded = set(eval(done.stdout))
    assert "runtime.preflight" in loaded
    slow = {"typing", "subprocess", "dataclasses", "argparse", "ctypes", "logging", "hashlib"}
    assert not slow & loaded
    assert "runtime.links" not in loaded  # `tune` alone asks how GPUs are linked

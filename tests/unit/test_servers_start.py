"""How a server is started: its folder as a program, options, and what it refuses in one line."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.servers import (
    launch,
    llama_config,
    local,
    on_deepspeed,
    on_jax,
    on_ray,
    on_xla,
    tokenizer,
)
from builder.servers.engine import RequestError, ServerError
from tests.unit.support import ROOT

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
}


ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where an image has it: no package of ours is around it."""
    folder = tmp_path_factory.mktemp("opt") / "imgbuild" / "servers"
    shutil.copytree(ROOT / "builder" / "servers", folder)
    return folder


def start(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.python
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 1, "servers: backends are deepspeed, jax, xla, ray; none is named"),
        (("tgi",), 1, "servers: backends are deepspeed, jax, xla, ray; 'tgi' is none"),
        (("jax", "--model", "/nowhere"), 1, "servers: --model /nowhere: no such folder"),
        (("jax", "--help"), 0, "usage: servers jax"),
        (("jax",), 2, "the following arguments are required: --model"),
    ],
)
def test_the_folder_is_a_program(
    program: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = start(program, *arguments)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.python
def test_nothing_of_ours_stands_before_a_framework(program: Path) -> None:
    """The folder itself leaves sys.path: a module of it could shadow one of the same name."""
    code = (
        f"import runpy, sys; sys.path[0] = {str(program)!r}; sys.argv = ['x']\n"
        "try: runpy.run_path(sys.path[0], run_name='__main__')\n"
        "except SystemExit: import os; print(sys.path[0], os.environ['PYTHONPATH'])"
    )
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert str(program) not in done.stdout.split()
    assert str(program.parent) in done.stdout


def test_the_shared_options() -> None:
    for parse in (on_deepspeed.parse, on_jax.parse, on_xla.parse):
        options = parse(["--model", "/m", "--port", "1"])
        assert (options.model, options.host, options.port) == ("/m", "0.0.0.0", 1)
        assert (options.dtype, options.max_model_len) == ("auto", None)


def test_the_models_name() -> None:
    parse = on_jax.parse
    assert launch.names(parse(["--model", "/m"])) == ["/m"]
    assert launch.names(parse(["--model", "/m", "--served-model-name", "modèle"])) == ["modèle"]
    given = ["--served-model-name", "a", "b", "--model", "/m"]
    assert launch.names(parse(given)) == ["a", "b"]
    assert launch.names(on_ray.parse(given)[0]) == ["a", "b"]
    with pytest.raises(ServerError, match=r"--served-model-name 'm\\udcff': not UTF-8"):
        launch.names(parse(["--model", "/m", "--served-model-name", "a", "m\udcff"]))
    with pytest.raises(ServerError, match=r"--served-model-name 'm\\udcff': not UTF-8"):
        launch.names(parse(["--model", "/m", "--served-model-name", "m\udcff"]))
    with pytest.raises(ServerError, match=r"--model '/\\udcff': not UTF-8; give --served-model"):
        launch.names(parse(["--model", "/\udcff"]))


def test_deepspeed_runs_on_one_device() -> None:
    with pytest.raises(ServerError, match="use the vLLM or SGLang image"):
        on_deepspeed.parse(["--model", "/m", "--tensor-parallel-size", "2"])


def test_a_model_folder_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="nothing is downloaded"):
        launch.folder("org/model")
    with pytest.raises(ServerError, match=r"is no model folder: config\.json: No such file"):
        local.read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ServerError, match="is not JSON"):
        local.read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ServerError, match="is not an object"):
        local.read_config(tmp_path)


@pytest.mark.parametrize(
    ("own", "asked", "said"),
    [(512, 513, "is more than the model's 512"), (None, None, "give --max-model-len")],
)
def test_a_context_that_cannot_be(own: int | None, asked: int | None, said: str) -> None:
    with pytest.raises(ServerError, match=said):
        local.max_length({"max_position_embeddings": own}, asked)


def test_vllms_options_go_through_ray() -> None:
    given = ["--model", "/m", "--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    options, engine = on_ray.parse([*given, "--port", "9"])
    assert (options.port, options.replicas) == (9, 1)
    assert engine == [*given[2:], *given[:2]]
    with pytest.raises(ServerError, match="--replicas 0"):
        on_ray.parse([*given, "--replicas", "0"])


@pytest.mark.parametrize(
    ("given", "several"),
    [
        (["--tensor-parallel-size", "2"], True),
        (["--tensor-parallel-size=2"], True),
        (["--tensor_parallel_size", "2"], True),
        (["--tensor_parallel_size=2"], True),
        (["--tensor-parallel", "2"], True),
        (["-tp", "4"], True),
        (["-tp=4"], True),
        (["-tp4"], True),
        (["--pipeline_parallel-size=2"], True),
        (["-pp2"], True),
        (["--data-parallel-size", "2"], True),
        (["-dp=2"], True),
        (["--prefill_context_parallel_size=2"], True),
        (["-pcp", "2"], True),
        (["-tp", "1", "-pp=1", "-dp1", "--data_parallel_size", "1"], False),
        (["-tp", "2", "--tensor_parallel_size", "1"], False),
        (["-dcp", "2", "-dpl", "2", "--tensor-parallel-size-of-another", "2"], False),
        (["--enforce-eager"], False),
        ([], False),
    ],
)
def test_a_model_over_several_devices(given: list[str], several: bool) -> None:
    options, _ = on_ray.parse(["--model", "/m", *given])
    assert on_ray.spread(options) is several


def test_underscores_in_vllms_options_are_dashes() -> None:
    given = [
        "--served_model_name=a_b",
        "--max_model_len",
        "64",
        "--model",
        "/a_b",
        "--enforce_eager",
    ]
    given += ["--compilation_config.pass_config.enable_x=a_b", "--quantization", "fp_8", "-O3"]
    options, engine = on_ray.parse(given)
    assert (options.served_model_name, options.model) == (["a_b"], "/a_b")
    assert engine[:7] == [
        "--max-model-len",
        "64",
        "--enforce-eager",
        "--compilation-config.pass_config.enable_x=a_b",
        "--quantization",
        "fp_8",
        "-O3",
    ]


@pytest.mark.parametrize(
    "given",
    [
        ["--dtype", "half"],
        ["--dtype=float"],
        ["--max-model-len", "1k"],
        ["--max-model-len", "auto"],
        ["--max-model-len", "-1"],
        ["--max-model-len=25.6k"],
    ],
)
@pytest.mark.parametrize("more", [[], ["-tp", "2"]])
def test_what_vllm_reads_in_its_own_way_is_passed_on(given: list[str], more: list[str]) -> None:
    options, engine = on_ray.parse(["--model", "/m", *given, *more])
    assert engine[: len(given)] == given
    assert " ".join(given) in " ".join(on_ray.vllm_command(options, engine))


@pytest.mark.parametrize("word", ["--dtype", "--max-model-len"])
def test_what_is_not_given_is_vllms_to_choose(word: str) -> None:
    assert word not in on_ray.parse(["--model", "/m"])[1]


@pytest.mark.parametrize(
    ("given", "option", "value"),
    [
        (["--distributed-executor-backend", "mp"], "--distributed-executor-backend", "mp"),
        (["--distributed_executor_backend=mp"], "--distributed-executor-backend", "mp"),
        (["-dp", "2", "--data-parallel-backend=mp"], "--data-parallel-backend", "mp"),
        (["-dp", "2"], "--distributed-executor-backend", "ray"),
        (["-dp", "2"], "--data-parallel-backend", "ray"),
    ],
)
def test_a_backend_that_is_asked_for_is_not_overridden(
    given: list[str], option: str, value: str
) -> None:
    options, engine = on_ray.parse(["--model", "/m", "-tp", "2", *given])
    command = on_ray.vllm_command(options, engine)
    assert command.count(option) == 1
    assert command[command.index(option) + 1] == value


def test_a_backend_reaches_the_engines_of_replicas_too() -> None:
    _, engine = on_ray.parse(["--model", "/m", "--distributed-executor-backend", "mp"])
    assert "--distributed-executor-backend mp" in " ".join(engine)
    assert "--distributed-executor-backend" not in on_ray.parse(["--model", "/m"])[1]


def test_all_names_of_a_model_reach_vllm() -> None:
    options, engine = on_ray.parse(["--model", "/m", "-tp", "2", "--served-model-name", "a", "b"])
    assert "--served-model-name a b --host" in " ".join(on_ray.vllm_command(options, engine))


def test_a_model_that_is_spread_has_no_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "0.32.0")
    with pytest.raises(ServerError) as error:
        on_ray.run(["--model", "/m", "-tp", "2", "--replicas", "3"])
    told = "--replicas 3: vLLM itself spreads a model, without replicas; use --data-parallel-size "
    assert str(error.value) == f"{told}3"
    with pytest.raises(ServerError) as error:
        on_ray.run(["--model", "/m", "-tp", "2", "-dp", "2", "--replicas", "3"])
    assert str(error.value) == f"{told}6"


def test_copies_of_a_model_are_spread_over_the_cluster_too() -> None:
    options, engine = on_ray.parse(["--model", "/m", "-dp", "2"])
    command = " ".join(on_ray.vllm_command(options, engine))
    assert "--data-parallel-size 2" in command
    assert "--data-parallel-backend ray" in command
    options, engine = on_ray.parse(["--model", "/m", "-tp", "2"])
    assert "--data-parallel" not in " ".join(on_ray.vllm_command(options, engine))


def test_devices_of_a_model_are_counted_in_whole_numbers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        on_ray.parse(["--model", "/m", "-tp", "two"])
    assert (
        "argument --tensor-parallel-size/-tp: invalid int value: 'two'" in capsys.readouterr().err
    )


def test_it_is_vllms_own_server_that_spreads_a_model() -> None:
    options, engine = on_ray.parse(["--model", "/m", "-tp", "2", "--served-model-name", "m"])
    command = on_ray.vllm_command(options, engine)
    assert command[0] == "serve"
    assert " ".join(command[-2:]) == "--distributed-executor-backend ray"
    for pair in ("--tensor-parallel-size 2", "--model /m", "--served-model-name m", "--port 8000"):
        assert pair in " ".join(command)


def test_the_cpu_build_spreads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "0.32.0+cpu")
    with pytest.raises(ServerError, match="use --replicas"):
        on_ray.run(["--model", "/m", "-tp", "2"])


class FailingRay:
    """Ray on a busy host: the first `failures` starts fail."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls: list[str] = []

    def init(self, address: str, **_options: Any) -> None:
        self.calls.append(address)
        if len(self.calls) <= self.failures:
            raise Exception("The current node timed out")  # noqa: TRY002 - so does Ray

    def shutdown(self) -> None:
        """Nothing is left of a start that failed."""


def test_ray_is_started_again_on_a_busy_host() -> None:
    ray = FailingRay(2)
    on_ray._start(ray)
    assert ray.calls == ["local"] * 3
    with pytest.raises(ServerError, match="Ray does not start: The current node timed out"):
        on_ray._start(FailingRay(3))


def llama(config: dict[str, Any]) -> llama_config.Config:
    return llama_config.Config.read(config, Path("/m/config.json"))


def test_a_llama_config() -> None:
    config = llama({**LLAMA, "num_key_value_heads": 2, "rope_theta": 5e5})
    assert (config.head_dim, config.kv_heads, config.theta) == (8, 2, 5e5)
    assert (config.scaling, config.tied, config.bias) == (None, False, False)
    assert llama({**LLAMA, "architectures": ["Qwen2ForCausalLM"]}).bias


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel: the JAX server knows Llama"),
        ({"architectures": None}, "no architecture: the JAX server knows"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"quantization_config": {"x": 1}}, "quantization_config="),
        ({"rope_scaling": {"type": "yarn"}}, "'yarn': the JAX server knows default and llama3"),
    ],
)
def test_what_the_jax_server_does_not_compute(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ServerError, match=said):
        llama({**LLAMA, **more})


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "num_attention_heads"])
def test_a_llama_config_lacks_a_key(key: str) -> None:
    lacks = rf"/m/config\.json has no {key}$"
    with pytest.raises(ServerError, match=lacks):
        llama({name: value for name, value in LLAMA.items() if name != key})
    with pytest.raises(ServerError, match=lacks):
        llama({**LLAMA, key: None})


@pytest.mark.parametrize("key", ["factor", "original_max_position_embeddings"])
def test_a_llama_configs_rope_lacks_a_key(key: str) -> None:
    rope = {name: value for name, value in ROPE.items() if name != key}
    for name in ("rope_scaling", "rope_parameters"):
        with pytest.raises(ServerError, match=rf"/m/config\.json has no {name}\.{key}$"):
            llama({**LLAMA, name: rope})


def test_llama3_stretches_long_waves_only() -> None:
    plain = llama_config.frequencies(llama({**LLAMA, "head_dim": 64}))
    config = llama({**LLAMA, "head_dim": 64, "rope_parameters": ROPE})
    scaled = llama_config.frequencies(config)
    waves = 2 * math.pi / plain
    assert np.array_equal(scaled[waves < 256 / 4], plain[waves < 256 / 4])
    assert scaled[waves > 256] == pytest.approx(plain[waves > 256] / 8)
    between = (waves > 64) & (waves < 256)
    assert np.all((plain[between] / 8 < scaled[between]) & (scaled[between] < plain[between]))


class Words:
    """Stands in for tokenizers.Tokenizer: one token a character."""

    @classmethod
    def from_file(cls, file: str) -> Words:
        if not Path(file).is_file():
            raise Exception("No such file or directory")  # noqa: TRY002 - so does tokenizers
        return cls()

    def encode(self, text: str, add_special_tokens: bool = True) -> Any:
        ids = [ord(character) for character in text]
        return types.SimpleNamespace(ids=[1, *ids] if add_special_tokens else ids)

    def get_vocab(self) -> dict[str, int]:
        return {"a": 97, "</s>": 300}

    def token_to_id(self, token: str) -> int | None:
        return self.get_vocab().get(token)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder with a tokenizer."""
    module = types.SimpleNamespace(Tokenizer=Words)
    monkeypatch.setitem(sys.modules, "tokenizers", module)
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def write(folder: Path, name: str, **value: Any) -> None:
    (folder / name).write_text(json.dumps(value))


def said(found: tokenizer.FolderTokenizer, *contents: str) -> str:
    ids = found.encode_chat([{"role": "user", "content": content} for content in contents])
    return "".join(map(chr, ids))


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ServerError, match=r"tokenizer\.json: No such file"):
        tokenizer.FolderTokenizer(folder)


def test_where_the_end_of_an_answer_is_written(folder: Path) -> None:
    write(folder, "tokenizer_config.json", eos_token={"content": "</s>"})
    assert tokenizer.FolderTokenizer(folder).eos_ids == {300}
    write(folder, "config.json", eos_token_id=2)
    assert tokenizer.FolderTokenizer(folder).eos_ids == {2}
    write(folder, "generation_config.json", eos_token_id=[3, 4])
    assert tokenizer.FolderTokenizer(folder).eos_ids == {3, 4}
    assert tokenizer.FolderTokenizer(folder).vocab_size == 301


def test_a_chat_template(folder: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    write(folder, "tokenizer_config.json", bos_token="<s>", chat_template=template)
    found = tokenizer.FolderTokenizer(folder)
    assert said(found, "Hi", "ho") == "<s>[user]Hi[user]ho"
    assert found.encode("a") == [1, 97]
    named = [{"name": "tool", "template": "no"}, {"name": "default", "template": "yes"}]
    write(folder, "tokenizer_config.json", chat_template=named)
    assert said(tokenizer.FolderTokenizer(folder), "Hi") == "yes"
    (folder / "chat_template.jinja").write_text("{{ messages | tojson }}")
    assert '"<é>"' in said(tokenizer.FolderTokenizer(folder), "<é>")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('roles alternate') }}", "roles alternate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_chat_that_cannot_be_written(folder: Path, template: str | None, why: str) -> None:
    write(folder, "tokenizer_config.json", chat_template=template)
    with pytest.raises(RequestError, match=why):
        said(tokenizer.FolderTokenizer(folder), "Hi")


def test_a_broken_chat_template_is_told_at_the_start(folder: Path) -> None:
    write(folder, "tokenizer_config.json", chat_template="{% for %}")
    with pytest.raises(ServerError, match="the model's chat template"):
        tokenizer.FolderTokenizer(folder)


class _Serve:
    """`ray.serve`, which keeps what it is told."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.bound: tuple[Any, ...] = ()

    def ingress(self, _app: object) -> Callable[[type], type]:
        return lambda cls: cls

    def deployment(self, _cls: type, **options: Any) -> _Serve:
        self.options = options
        return self

    def bind(self, *arguments: Any) -> _Serve:
        self.bound = arguments
        return self


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> _Serve:
    made = _Serve()
    module = types.ModuleType("ray")
    module.serve = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", module)
    return made


@pytest.mark.parametrize("as_text", [True, False])
def test_serves_application_has_the_same_options(
    serve: _Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, as_text: bool
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "0.32.0")
    model = tmp_path / "a model"
    model.mkdir()
    given = ["--model", str(model), "--replicas", "3", "-tp", "4", "--served-model-name", "it's"]
    made = on_ray.application({"arguments": shlex.join(given) if as_text else given})
    assert made is serve
    assert serve.options["num_replicas"] == 3
    assert serve.options["ray_actor_options"] == {"num_gpus": 4}
    assert "max_replicas_per_node" not in serve.options
    engine, names = serve.bound
    assert names == ["it's"]
    assert "--tensor-parallel-size 4 --distributed-executor-backend mp" in " ".join(engine)


def test_an_application_may_have_one_engine_a_node(
    serve: _Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "0.32.0")
    given = ["--model", str(tmp_path), "--replicas", "3", "--replicas-per-node", "1"]
    on_ray.application({"arguments": given})
    assert serve.options["num_replicas"] == 3
    assert serve.options["max_replicas_per_node"] == 1
    assert "--replicas-per-node" not in serve.bound[0]


def test_an_applications_engine_is_on_one_device_by_default(
    serve: _Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, gpus in (("0.32.0", 1), ("0.32.0+cpu", 0)):
        monkeypatch.setattr("importlib.metadata.version", lambda _name, v=version: v)
        on_ray.application({"arguments": ["--model", str(tmp_path)]})
        assert serve.options["ray_actor_options"] == {"num_gpus": gpus}
        assert "--distributed-executor-backend" not in serve.bound[0]


@pytest.mark.parametrize(
    ("more", "version", "told"),
    [
        ("-tp 2", "0.32.0+cpu", "use --replicas"),
        ("-dp 2", "0.32.0", "copies of an engine are --replicas here"),
        ("--replicas x", "0.32.0", "wrong options"),
        ("--replicas-per-node 0", "0.32.0", "--replicas-per-node 0: at least 1"),
        ("", "0.32.0", "no such folder"),
    ],
)
def test_an_application_says_what_is_wrong(
    more: str, version: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _name: version)
    with pytest.raises(ServerError, match=told):
        on_ray.application({"arguments": f"--model /nowhere {more}"})

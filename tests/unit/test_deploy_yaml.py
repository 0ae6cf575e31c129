"""YAML that is read as it was meant, by Python and by Go; nothing can be injected."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builder import deploy
from builder.deploy import checked, quantity, template, yamltext
from builder.errors import UserError
from tests.unit import helm
from tests.unit.deployed import IMAGE, NASTY, expanded, served, texts

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | texts
data = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=12
)


@given(data)
def test_what_is_written_is_read(value: Any) -> None:
    assert yaml.safe_load(yamltext.text(value)) == value


@given(st.lists(data, min_size=1, max_size=4))
def test_documents_stay_apart(values: list[Any]) -> None:
    assert list(yaml.safe_load_all(yamltext.documents(values, says=["said"]))) == values


@given(texts)
def test_a_scalar_is_one_line(text: str) -> None:
    assert len(yamltext.quoted(text).splitlines()) <= 1


@pytest.mark.python
@helm.needed
def test_gos_reader_reads_the_same() -> None:
    """As `kubectl` and Helm read it."""
    value = {"texts": NASTY, "keys": dict.fromkeys(NASTY, 1)}
    code = "import json, sys, helm_python.chart as charts\n"
    code += "print(json.dumps(charts.values_from_yaml(sys.stdin.read())))"
    done = subprocess.run(
        [sys.executable, "-c", code], input=yamltext.text(value), capture_output=True, text=True,
        encoding="utf-8", check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == value


@given(texts, texts, texts)
def test_a_users_text_stays_a_text(argument: str, value: str, other: str) -> None:
    image = served("cuda13.0-vllm-h100")
    try:
        wanted = deploy.values(
            image,
            image=IMAGE,
            model="org/model",
            arguments=("--x", argument, other),
            env=(f"A={value}",),
        )
    except UserError as error:
        told = str(error)
        assert "which YAML cannot carry" in told or "is set already" in told
        return
    made = list(yaml.safe_load_all(deploy.stream(image, wanted)))
    assert [one["kind"] for one in made] == [
        "NetworkPolicy", "Service", "Deployment", "PodDisruptionBudget",
    ]  # fmt: skip
    (container,) = made[2]["spec"]["template"]["spec"]["containers"]
    assert [expanded(text, {"HOME": "/"}) for text in container["args"][-2:]] == [argument, other]
    assert expanded(container["env"][-1]["value"], {"HOME": "/"}) == value
    assert set(container["env"][-1]) == {"name", "value"}
    files = deploy.files(image, wanted, deploy.Format.HELM)
    chart = yaml.safe_load(files["vllm/values.yaml"])
    assert chart["extraArgs"] == container["args"][-3:]
    # What a user writes is data of the chart, and none of its code.
    assert all("extraArgs" in text or argument not in text for path, text in files.items()
               if path.startswith("vllm/templates/") and len(argument) > 12)  # fmt: skip


CHECKS: list[Callable[[str], Any]] = [
    checked.name,
    checked.namespace,
    checked.image,
    checked.hub_model,
    checked.variable,
    checked.profile,
    checked.cpus,
    lambda text: checked.object_name(text, "--x"),
    lambda text: checked.hostname(text, "--x"),
    lambda text: checked.label(text, "--x"),
    lambda text: checked.label_value(text, "--x"),
    lambda text: checked.folder(text, "--x"),
    lambda text: checked.secret(text, "--x"),
    lambda text: checked.seconds(text, "--x"),
    lambda text: quantity.memory(text, "--x"),
    lambda text: deploy.values(served("cpu-vllm"), image=IMAGE, model=text),
    lambda text: deploy.values(served("cpu-vllm"), image=IMAGE, model="a", hugepages=text),
    lambda text: deploy.values(served("cpu-vllm"), image=IMAGE, model="a", autoscale=text),
    lambda text: deploy.values(served("cpu-vllm"), image=IMAGE, model="a", gateway=text),
    lambda text: deploy.values(served("cpu-vllm"), image=IMAGE, model="a", secret_env=(text,)),
]
# Texts near those that are right.
near = st.text(st.sampled_from("aZ09-_./:@=~ \n$GiMm٣é"), max_size=20) | texts


@pytest.mark.parametrize("check", CHECKS)
@given(text=near)
def test_any_text_is_taken_or_refused_in_one_line(check: Callable[[str], Any], text: str) -> None:
    try:
        taken = check(text)
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        if isinstance(taken, str):
            assert taken.isascii()
            assert taken.isprintable()
            assert " " not in taken


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("32Gi", 32 << 30), ("5k", 5000), ("3M", 3_000_000), ("2Ti", 2 << 40)],
)
def test_quantities_are_bytes(text: str, size: int) -> None:
    assert quantity.in_bytes(quantity.memory(text, "--memory")) == size


@given(st.integers(1, 1 << 50))
def test_bytes_are_quantities(size: int) -> None:
    assert quantity.in_bytes(quantity.text_of(size)) == size


def test_a_template_says_how_deep_it_stands() -> None:
    made = template.file({"a": {"b": template.block("x")}, "c": [template.more("y")]}, ".Values.z")
    assert made == (
        "{{- if .Values.z }}\n"
        "a:\n"
        "  b:\n"
        "    {{- toYaml .Values.x | nindent 4 }}\n"
        "c:\n"
        "{{- with .Values.y }}\n"
        "{{- toYaml . | nindent 0 }}\n"
        "{{- end }}\n"
        "{{- end }}\n"
    )


def test_what_is_no_plain_data_is_a_defect() -> None:
    with pytest.raises(TypeError, match="float is no scalar"):
        yamltext.text({"a": 1.5})

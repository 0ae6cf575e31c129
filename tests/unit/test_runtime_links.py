"""How GPUs are linked: what is made of `nvidia-smi topo -m`, and of any other text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builder.runtime import gpus, links, tune
from tests.unit import hosts
from tests.unit.support import ROOT

OLD = (
    "\t\x1b[4mGPU0\tGPU1\tmlx5_0\tCPU Affinity\x1b[0m\n"
    "GPU0\t X \tNV2\tPHB\t0-7\nGPU1\tNV2\t X \tSYS\t0-7\n"
)
ONE = "\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t0-31\t0\t\tN/A\n"


def recorded(name: str) -> str:
    return hosts.read(name).files[f"/{links.RECORDED}"].decode()


def test_a_dgx() -> None:
    made = links.parse(recorded("dgx-h100"))
    assert made["gpus"]["0"] == {str(n): "NV18" for n in range(1, 8)}
    assert made["nics"]["3"]["mlx5_3"] == "PXB"
    assert made["nics"]["3"]["mlx5_7"] == "SYS"
    assert links.told(made)[3] == (
        "GPU 3: NV18 (NVLink) to 0, 1, 2, 4, 5, 6, 7; nearest network cards: mlx5_3 (PXB)"
    )


def test_older_drivers_underline_the_header_and_name_the_cards_in_it() -> None:
    assert links.parse(OLD) == {
        "gpus": {"0": {"1": "NV2"}, "1": {"0": "NV2"}},
        "nics": {"0": {"mlx5_0": "PHB"}, "1": {"mlx5_0": "SYS"}},
    }


@pytest.mark.parametrize("text", ["", ONE, "No devices were found\n", "\tGPU0\n", "GPU0"])
def test_nothing_is_linked(text: str) -> None:
    assert links.parse(text) == {}
    assert links.told({}) == []


_CELLS = st.sampled_from(
    ["GPU0", "GPU1", "GPU²", "NIC0", " X ", "NV4", "NV", "SYS", "", "\x1b[", "NIC0: a"]
)


@given(st.text() | st.lists(st.lists(_CELLS, max_size=6).map("\t".join), max_size=8).map("\n".join))
@example(recorded("dgx-h100")[:500])
@example(OLD * 3)
def test_any_text_can_be_read(text: str) -> None:
    made = links.parse(text)
    assert json.loads(json.dumps(made)) == made
    assert set(made) <= {"gpus", "nics"}
    links.told(made)
    links.advice(made, [{"index": n} for n in range(3)], 2)


@pytest.mark.parametrize(
    ("host", "ranks", "says"),
    [
        ("dgx-h100", 8, None),
        ("l40s-x4", None, None),
        ("l40s-x4", 1, None),
        ("l40s-x4", 2, None),  # behind one switch
        ("l40s-x4", 4, "the way between sockets"),
        ("l40s-x4", 5, None),  # the preflight refuses that
    ],
)
def test_tensor_parallelism_over_slow_links_is_told(
    host: str, ranks: int | None, says: str | None
) -> None:
    made = links.parse(recorded(host))
    advised = links.advice(
        made, [{"index": n} for n in range(8 if host == "dgx-h100" else 4)], ranks
    )
    assert [says in row["what"] for row in advised if says] == ([True] if says else [])
    assert bool(advised) == bool(says)


def test_nearer_gpus_are_named() -> None:
    """As CUDA_VISIBLE_DEVICES orders them, the first two are on two sockets."""
    made = links.parse(recorded("l40s-x4"))
    (advised,) = links.advice(made, [{"index": n} for n in (0, 2, 1, 3)], 2)
    assert "CUDA_VISIBLE_DEVICES=0,1" in advised["command"]
    assert "the GPUs 0,2" in advised["what"]


def test_the_report_has_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hosts.read("l40s-x4").unpack(tmp_path)
    about = ROOT / "images/manifests/vllm-0.32.0-cu130.json"
    common = ["--root", str(tmp_path), "--manifest", str(about)]
    assert tune.main([*common, "--", "-tp", "4"]) == 0
    said = capsys.readouterr().out
    assert "GPU 0: PIX (one PCIe switch) to 1; SYS" in said
    assert "without NVLink" in said
    assert "In its place: split layers in place of tensors (--pipeline-parallel-size)" in said
    tune.main([*common, "--json"])
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert made["facts"]["gpus"]["links"]["gpus"]["2"]["3"] == "NODE"
    assert made["advice"] == []


@pytest.mark.python
@pytest.mark.parametrize(
    ("body", "text"),
    [("print(sys.argv[1:])", "['topo', '-m']\n"), ("sys.exit(1)", ""), ("time.sleep(60)", "")],
)
def test_it_is_asked_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, text: str
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!{sys.executable} -ES\nimport sys, time\n{body}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "SECONDS", 0.5 if "sleep" in body else 5)
    assert links.asked() == text
    smi.unlink()
    assert links.asked() == ""

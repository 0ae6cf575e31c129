"""Which entries stay for which GPU."""

from __future__ import annotations

import pytest

from builder.runtime.slim import fatbin, targets
from tests.unit.elves import CUBIN, LTO, PTX, container, entry

NAMES = {PTX: "ptx", CUBIN: "cubin", LTO: "lto"}


def made(*names: str) -> fatbin.Container:
    """ "90a" is a cubin, "p80" PTX, "l75" LTO IR."""
    entries = []
    for size, name in enumerate(names, 64):
        kind = {"p": PTX, "l": LTO}.get(name[0], CUBIN)
        digits = name.strip("plaf")
        variant = name[-1] if name[-1] in "af" else ""
        entries.append(entry(kind, int(digits), size, variant))
    (one,) = fatbin.containers(text := container(*entries), len(text))
    assert not one.strange
    return one


def stay(sm: int | str, *names: str, links: bool = False) -> list[str]:
    one = made(*names)
    links = links or any(name.startswith("l") for name in names)
    kept = targets.kept(one, targets.parse(str(sm)), links=links)
    return [name for name, each in zip(names, one.entries, strict=True) if each in kept]


@pytest.mark.parametrize(
    ("sm", "there", "wanted"),
    [
        (90, "75 80 90 100 p120", "90"),
        (89, "80 86 90", "86"),
        (89, "80 86 89 p90", "89"),
        (86, "80 89 p80", "80"),
        (100, "90 90a p90", "p90"),  # code for 9.0 does not run on 10.0
        (103, "100 110 120", "100"),
        (103, "100f 103", "100f 103"),  # the driver's choice is not documented
        (103, "100a 103a 100f", "103a 100f"),
        (100, "103 103f p90", "p90"),
        (121, "120f 121 120 120a", "120f 121"),
        (90, "90 90a 80", "90 90a"),  # both hold kernels
        (90, "90a p90 p80", "90a"),
        (90, "p75 p80 p90a p100", "p80 p90a"),
        (103, "p100f p120 p90", "p100f p90"),
        (110, "p100f p90", "p90"),
        (90, "80 p80 p75", "p80"),  # its PTX is compiled on the host
        (90, "90 90 80", "90 90"),  # two modules
        (110, "101 100", "101"),  # Thor's former number
        (110, "101a 100a p90", "101a p90"),  # nobody says that it is taken
        (110, "101f 100f 110", "101f 110"),
        (110, "101 110 101a 110a", "110 110a"),  # the number that it has comes first
        (110, "101 p90 p80", "101 p90"),
        (110, "p101a p101f p101 p100f p90 p80", "p101a p101f p101 p90"),
        (101, "110 100 90", "110 100"),  # a 10.0 that is no Tegra may be chosen, and does not run
        (101, "110a 103a p90", "110a p90"),
        (101, "110f 101f", "110f 101f"),
        (101, "p110 p103 p90 p80", "p110 p90"),
        (103, "110 101a p90", "p90"),
        (89, "86 87", "86 87"),  # 8.7 is a Tegra: it may be chosen, and does not run
        (89, "87 p80", "87 p80"),
        (87, "80 86 87", "87"),
        (87, "80 86", "86"),
        ("80,90", "75 80 90 p90", "80 90"),
        ("80,90", "80 p80", "80 p80"),
        (90, "l75", "l75"),
        (90, "l75 l80 90 100", "l75 l80 90"),
        (90, "100 120", ""),
    ],
)  # fmt: skip
def test_what_stays(sm: int | str, there: str, wanted: str) -> None:
    assert stay(sm, *there.split()) == wanted.split()


def test_ptx_stays_where_a_library_links_at_run_time() -> None:
    assert stay(90, "p75", "p80", "90", "80", links=True) == ["p75", "p80", "90"]


def test_ptx_for_newer_gpus_stays_only_beside_what_is_linked() -> None:
    assert stay(90, "p80", "p120", "90", links=True) == ["p80", "90"]
    assert stay(90, "p120", links=True) == []
    assert stay("90,120", "p120", links=True) == ["p120"]
    assert stay(90, "l80", "p120") == ["l80", "p120"]
    assert stay(101, "p110", "p120", links=True) == ["p110"]


@pytest.mark.parametrize(
    ("sms", "there", "missing"),
    [
        ("90", "100 120", [90]),
        ("90", "p80", []),
        ("80,90", "90 p90", [80]),
        ("89", "87", [89]),
        ("90", "90a", []),
        ("100", "90a", [100]),
        ("80", "l75", []),
        ("80", "l90", [80]),  # LTO IR does not become code for an older GPU
        ("90", "l100 80", [90]),
        ("90,100", "l100 80", [90]),
        ("90", "l100 l75 80", []),
        ("90", "l90a 80", []),
        ("100", "l90a", [100]),
        ("103", "l100f", []),
        ("110", "l101", [110]),
        ("101", "l110", [101]),
        ("110", "l101 l100", []),
        ("110", "101a p101f", [110]),
        ("101", "110 p110", [101]),
        ("101,110", "101 110a", []),
    ],
)
def test_what_finds_nothing(sms: str, there: str, missing: list[int]) -> None:
    assert targets.uncovered(made(*there.split()), targets.parse(sms)) == missing


def test_what_was_zeroed_serves_nobody() -> None:
    text = bytearray(container(entry(CUBIN, 90, 100), entry(PTX, 80, 100)))
    text[16 + 64 : 16 + 164] = bytes(100)
    (one,) = fatbin.containers(bytes(text), len(text))
    assert [each.name for each in targets.serving(one.entries, 90)] == ["sm_80 ptx"]


@pytest.mark.parametrize(("text", "sms"), [("90", [90]), ("9.0, 80", [80, 90]), ("10.3", [103])])
def test_sms_are_read(text: str, sms: list[int]) -> None:
    assert targets.parse(text) == sms


@pytest.mark.parametrize(
    "text", ["", "90a", "h100", "9", "9.", "9.00", "90,,80", "1000", "-90", "10", "091", "0.9"]
)
def test_what_is_no_sm(text: str) -> None:
    with pytest.raises(ValueError, match="no SM"):
        targets.parse(text)

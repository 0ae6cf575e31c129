"""Layouts of cards that MIG divides: what fits, against an oracle, and what is printed of it."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builder import cli
from builder.errors import UserError
from builder.facts import Matrix
from builder.host.mig import cards, commands, fits, layout
from tests.unit.test_cli import run

CARDS = cards.table().cards

# The oracle's own facts, as nvidia-smi prints them: -lgipp of the MIG user guide, of an H100 and of
# an H200, and -lgip's numbers of instances.
EIGHT_SLICES = """\
GPU  0 Profile ID 19 Placements: {0,1,2,3,4,5,6}:1
GPU  0 Profile ID 20 Placements: {0,1,2,3,4,5,6}:1
GPU  0 Profile ID 15 Placements: {0,2,4,6}:2
GPU  0 Profile ID 14 Placements: {0,2,4}:2
GPU  0 Profile ID  9 Placements: {0,4}:4
GPU  0 Profile ID  5 Placement : {0}:4
GPU  0 Profile ID  0 Placement : {0}:8
"""
FOUR_SLICES = """\
GPU  0 Profile ID 14 Placements: {0,1,2,3}:1
GPU  0 Profile ID 21 Placements: {0,1,2,3}:1
GPU  0 Profile ID  5 Placements: {0,2}:2
GPU  0 Profile ID  6 Placements: {0,2}:2
GPU  0 Profile ID  0 Placement : {0}:4
"""
# Of an RTX PRO 6000, without profiles for graphics and those that take all media engines or none.
TWELVE_SLICES = """\
GPU  0 Profile ID 14 Placements: {0,3,6,9}:3
GPU  0 Profile ID 21 Placements: {0,3,6,9}:3
GPU  0 Profile ID  5 Placements: {0,6}:6
GPU  0 Profile ID  0 Placement : {0}:12
"""
# Card -> its placements, and profile -> (id, instances).
PRINTED = {
    "a30": (
        FOUR_SLICES,
        {
            "1g.6gb": (14, 4),
            "1g.6gb+me": (21, 1),
            "2g.12gb": (5, 2),
            "2g.12gb+me": (6, 1),
            "4g.24gb": (0, 1),
        },
    ),
    "rtxpro6000": (
        TWELVE_SLICES,
        {"1g.24gb": (14, 4), "1g.24gb+me": (21, 1), "2g.48gb": (5, 2), "4g.96gb": (0, 1)},
    ),
    **{
        card: (
            EIGHT_SLICES,
            {
                f"1g.{one}gb": (19, 7),
                f"1g.{one}gb+me": (20, 1),
                f"1g.{two}gb": (15, 4),
                f"2g.{two}gb": (14, 3),
                f"3g.{four}gb": (9, 2),
                f"4g.{four}gb": (5, 1),
                f"7g.{all_of_it}gb": (0, 1),
            },
        )
        for card, one, two, four, all_of_it in (
            ("a100-40", 5, 10, 20, 40),
            ("a100-80", 10, 20, 40, 80),
            ("h100-80", 10, 20, 40, 80),
            ("h100-94", 12, 24, 47, 94),
            ("h200", 18, 35, 71, 141),
            ("b200", 23, 45, 90, 180),
        )
    },
}
# As `nvidia-smi mig -lgip` of driver 580.159.04 printed them on an H100 80GB HBM3 and on an H200.
READ = {
    "h100-80": """\
MIG 1g.10gb         19     7/7        9.75
MIG 1g.10gb+me      20     1/1        9.75
MIG 1g.20gb         15     4/4        19.62
MIG 2g.20gb         14     3/3        19.62
MIG 3g.40gb          9     2/2        39.50
MIG 4g.40gb          5     1/1        39.50
MIG 7g.80gb          0     1/1        79.25
""",
    "h200": """\
MIG 1g.18gb         19     7/7        16.00
MIG 1g.18gb+me      20     1/1        16.00
MIG 1g.35gb         15     4/4        32.50
MIG 2g.35gb         14     3/3        32.50
MIG 3g.71gb          9     2/2        69.75
MIG 4g.71gb          5     1/1        69.75
MIG 7g.141gb         0     1/1        140.00
""",
}
_LINE = re.compile(r"GPU +0 Profile ID +(\d+) Placements? ?: \{([\d,]+)\}:(\d+)")


@cache
def oracle(card: str) -> frozenset[tuple[tuple[str, int], ...]]:
    """All layouts of a card: every set of placements whose bits do not overlap, as counts."""
    text, profiles = PRINTED[card]
    names = {number: name for name, (number, _) in profiles.items()}
    places = [
        (names[int(number)], ((1 << int(size)) - 1) << int(start))
        for number, starts, size in _LINE.findall(text)
        for start in starts.split(",")
    ]
    assert len({name for name, _ in places}) == len(profiles)
    found: set[tuple[tuple[str, int], ...]] = set()
    pending: list[tuple[int, int, tuple[str, ...]]] = [(0, 0, ())]
    while pending:
        index, taken, chosen = pending.pop()
        if index == len(places):
            found.add(tuple(sorted(Counter(chosen).items())))
            continue
        name, bits = places[index]
        pending.append((index + 1, taken, chosen))
        if not taken & bits:
            pending.append((index + 1, taken | bits, (*chosen, name)))
    return frozenset(
        one
        for one in found
        if one
        and all(count <= profiles[name][1] for name, count in one)
        and sum(count for name, count in one if "+me" in name) < 2
    )


def requests(card: str) -> Iterator[dict[str, int]]:
    """Every layout that could be asked for, one instance more than there may be of each."""
    profiles = PRINTED[card][1]
    for counts in itertools.product(*(range(most + 2) for _, most in profiles.values())):
        if any(counts):
            yield {n: count for n, count in zip(profiles, counts, strict=True) if count}


def test_the_cards_are_those_that_are_printed() -> None:
    assert set(CARDS) == set(PRINTED)
    for name, card in CARDS.items():
        told = {profile: (facts.id, facts.most) for profile, facts in card.profiles.items()}
        assert told == PRINTED[name][1]


@pytest.mark.parametrize("name", READ)
def test_a_card_is_what_was_read_from_one(name: str) -> None:
    rows = [line.split() for line in READ[name].splitlines()]
    told = {row[1]: (int(row[2]), int(row[3][0]), float(row[4])) for row in rows}
    assert told == {p: (one.id, one.most, one.gib) for p, one in CARDS[name].profiles.items()}


@pytest.mark.parametrize("name", CARDS)
def test_memory_is_shared_out(name: str) -> None:
    """Two halves are no more than the whole, and no instance has more than its name says."""
    card = CARDS[name]
    whole = max(one.gib for one in card.profiles.values())
    for profile, one in card.profiles.items():
        assert one.gib * (card.memory // one.memory) <= whole + 1
        assert one.gib * 2**30 <= int(profile.split(".")[1].split("gb")[0]) * 1.07e9


@pytest.mark.parametrize("name", CARDS)
def test_what_fits_is_what_the_oracle_says(name: str) -> None:
    card, allowed = CARDS[name], oracle(name)
    asked = 0
    for counts in requests(name):
        fits_here = layout.place(card, counts) is not None
        assert fits_here == (tuple(sorted(counts.items())) in allowed), counts
        asked += 1
    assert asked > len(allowed)


@pytest.mark.parametrize("name", CARDS)
def test_all_layouts_are_enumerated(name: str) -> None:
    listed = [tuple(sorted(counts)) for counts in layout.every(CARDS[name])]
    assert len(listed) == len(set(listed))
    assert set(listed) == oracle(name)


@pytest.mark.parametrize("name", CARDS)
def test_instances_lie_where_the_driver_puts_them(name: str) -> None:
    card = CARDS[name]
    for counts in layout.every(card):
        placed = layout.place(card, dict(counts))
        assert placed is not None
        assert Counter(one.profile for one in placed) == Counter(dict(counts))
        slices: list[int] = []
        for one in placed:
            profile = card.profiles[one.profile]
            assert one.start in profile.at
            slices += range(one.start, one.start + profile.memory)
        assert len(slices) == len(set(slices))
        assert set(slices) <= set(range(card.memory))


def test_an_a100_has_nineteen_full_arrangements() -> None:
    """Without double memory: the whole, or one of six left halves beside one of three right ones.

    4, 3, 2-2, 2-1-1, 1-1-2 or 1-1-1-1 on slices 0 to 3; 3, 2-1 or 1-1-1 above them.
    """
    card = CARDS["a100-40"]
    plain = ("7g.40gb", "4g.20gb", "3g.20gb", "2g.10gb", "1g.5gb")
    places = [
        (name, frozenset(range(start, start + card.profiles[name].memory)))
        for name in plain
        for start in card.profiles[name].at
    ]
    apart = {
        frozenset(chosen)
        for size in range(1, 8)
        for chosen in itertools.combinations(places, size)
        if len(frozenset().union(*(taken for _, taken in chosen)))
        == sum(len(taken) for _, taken in chosen)
    }
    full = [one for one in apart if not any({*one, place} in apart for place in {*places} - one)]
    assert len(full) == 1 + 6 * 3
    for one in full:
        assert layout.place(card, Counter(name for name, _ in one))


# What NVIDIA ships and shows: mig-parted's default configurations (deployments/systemd/
# config-default.yaml), and the examples of the MIG user guide, getting started.
PUBLISHED = [
    ("a100-40", "7x1g.5gb"),
    ("a100-40", "1x1g.5gb+me"),
    ("a100-40", "2x3g.20gb"),
    ("a100-40", "3x2g.10gb"),
    ("a100-40", "4x1g.10gb"),
    ("a100-40", "7g.40gb"),
    ("a100-40", "2x1g.5gb,1x2g.10gb,1x3g.20gb"),
    ("a100-40", "2g.10gb,5x1g.5gb"),
    ("a100-80", "2x1g.10gb,1x2g.20gb,1x3g.40gb"),
    ("h100-80", "4x1g.20gb"),
    ("h100-80", "2x1g.10gb,1x2g.20gb,1x3g.40gb"),
    ("h100-94", "2x1g.12gb,1x2g.24gb,1x3g.47gb"),
    ("h200", "2x1g.18gb,1x2g.35gb,1x3g.71gb"),
    ("h200", "4x1g.35gb"),
    ("b200", "2x1g.23gb,1x2g.45gb,1x3g.90gb"),
    ("b200", "1x4g.90gb"),
    ("a30", "2x1g.6gb,1x2g.12gb"),
    ("a30", "4x1g.6gb"),
    ("rtxpro6000", "4x1g.24gb"),
    ("rtxpro6000", "2x1g.24gb,1x2g.48gb"),
]


@pytest.mark.parametrize(("gpu", "text"), PUBLISHED)
def test_what_nvidia_shows_fits(gpu: str, text: str) -> None:
    chosen = layout.choose(gpu, text)
    assert chosen.card_name == gpu
    assert layout.parse(str(chosen)) == layout.parse(text)


@pytest.mark.parametrize(
    ("gpu", "text", "card"),
    [
        ("h100", "7x1g.10gb", "h100-80"),
        ("h100", "7x1g.12gb", "h100-94"),
        ("H100", "3G.40GB", "h100-80"),
        ("a100", "7x1g.10gb", "a100-80"),
        ("a100", "1g.5gb", "a100-40"),
        ("h200", "mig-3g.71gb, 3g.71gb", "h200"),
    ],
)
def test_the_layout_tells_the_cards_of_a_family_apart(gpu: str, text: str, card: str) -> None:
    assert layout.choose(gpu, text).card_name == card


@pytest.mark.parametrize(
    ("gpu", "text", "told"),
    [
        ("h10", "1g.10gb", "no GPU 'h10' that MIG divides; did you mean 'h100'?"),
        ("gh200", "1g.12gb", "'gh200' is divided by MIG, and where its instances may begin is not"),
        ("B300", "7x1g.34gb", "`nvidia-smi mig -lgipp` on the card tells it"),
        ("rtxpro6000", "3x2g.48gb", "what fits: 2x2g.48gb or 1x2g.48gb,2x1g.24gb"),
        ("h100", "1g.11gb", "h100 has no profile '1g.11gb'; did you mean '1g.1"),
        ("a30", "1g.6gb+gfx", "a30 has no profile '1g.6gb+gfx'; did you mean '1g.6gb"),
        ("a100", "4x1g.10gb", "fits on a100-40 and on a100-80; say which: --gpu a100-40 or --gpu"),
        ("h100", "1g.12gb,1g.10gb", "no one h100 has all of 1g.12gb, 1g.10gb"),
        ("a100", "8x1g.10gb", "does not fit on a100-80: at most 7 of 1g.10gb"),
        ("a100", "5x2g.10gb", "does not fit on a100-40: at most 3 of 2g.10gb"),
        (
            "h100",
            "8x1g.10gb",
            "of 1g.10gb can be on one, and it names 8; what fits: 7x1g",
        ),
        ("h100", "3g.40gb,3g.40gb,1g.10gb", "it needs 9 memory slices of 8; what fits: "),
        ("h100", "4g.40gb,2x2g.20gb", "it needs 8 compute slices of 7; what fits: "),
        ("a30", "1g.6gb+me,2g.12gb+me", "one instance alone can have the media engines"),
        ("h100", "", "layout '': an empty part is no COUNTxPROFILE"),
        ("h100", "1g.10gb,", "an empty part is no COUNTxPROFILE"),
        ("h100", "1g.10gb 2g.20gb", "'1g.10gb 2g.20gb' is no COUNTxPROFILE"),
        ("h100", "0x1g.10gb", "0 instances of '1g.10gb'; a count is from 1 to 100"),
        ("h100", "99999999999x1g.10gb", "a count is from 1 to 100"),
    ],
)
def test_what_is_wrong_is_told(gpu: str, text: str, told: str) -> None:
    with pytest.raises(UserError) as raised:
        layout.choose(gpu, text)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [("a30", {"at most", "one instance", "it needs"}), ("h100-80", {"at most", "it needs"})],
)
def test_each_refusal_has_its_reason_and_layouts_that_fit(name: str, reasons: set[str]) -> None:
    card, told = CARDS[name], set()
    for index, counts in enumerate(requests(name)):
        if tuple(sorted(counts.items())) in oracle(name):
            continue
        told.add(" ".join(layout.problem(card, counts).split()[:2]))
        if index % 97 == 0:
            near = layout.nearest_layouts(card, counts)
            assert len(near) == 3
            assert all(tuple(sorted(one)) in oracle(name) for one in near)
    assert told == reasons


def test_slices_enough_without_a_placement_are_told() -> None:
    """No card of the table has such a layout; one may come."""
    odd = {"id": 1, "compute": 1, "memory": 2, "at": (1,), "most": 2, "gib": 1.0}
    card = cards.Card(**{**CARDS["a30"].model_dump(), "profiles": {"1g.2gb": odd}})
    assert layout.place(card, {"1g.2gb": 2}) is None
    told = layout.problem(card, {"1g.2gb": 2})
    assert "no placement of them: 1g.2gb begins at slice 1 only" in told


def test_a_card_has_no_more_of_a_profile_than_it_says() -> None:
    """On the cards of the table there are no more places either; nvidia-smi tells both."""
    few = {"id": 1, "compute": 1, "memory": 1, "at": (0, 1, 2), "most": 2, "gib": 1.0}
    card = cards.Card(**{**CARDS["a30"].model_dump(), "profiles": {"1g.1gb": few}})
    assert layout.place(card, {"1g.1gb": 2})
    assert layout.place(card, {"1g.1gb": 3}) is None
    assert "at most 2 of 1g.1gb" in layout.problem(card, {"1g.1gb": 3})


@given(st.text(max_size=40), st.sampled_from([*CARDS, "h100", "a100", "x"]))
def test_no_text_is_a_defect(text: str, gpu: str) -> None:
    told = ""
    try:
        layout.choose(gpu, text)
    except UserError as error:
        told = str(error)
    assert "\n" not in told


def test_commands_name_each_instance_by_id_and_slice() -> None:
    chosen = layout.choose("h100", "3g.40gb,4x1g.10gb")
    by_name = {step.name: step.commands for step in commands.nvidia_smi(chosen, "0,2")}
    assert by_name["enable"] == ("nvidia-smi -i 0,2 -mig 1",)
    assert by_name["create"] == ("nvidia-smi mig -i 0,2 -cgi 9:4,19:3,19:2,19:1,19:0 -C",)
    assert by_name["destroy"][-1] == "nvidia-smi -i 0,2 -mig 0"
    (everything,) = (s for s in commands.nvidia_smi(chosen, "all") if s.name == "create")
    assert everything.commands[0].startswith("nvidia-smi mig -cgi ")


@pytest.mark.parametrize("name", CARDS)
def test_three_slices_come_before_smaller_ones(name: str) -> None:
    """The guide: where `9` comes after others, the driver may have no place left for it."""
    for counts in layout.every(CARDS[name]):
        placed = layout.place(CARDS[name], dict(counts))
        assert placed is not None
        sizes = [CARDS[name].profiles[one.profile].memory for one in placed]
        assert sizes == sorted(sizes, reverse=True)


def test_a_reset_is_told_where_the_card_needs_one() -> None:
    ampere = commands.nvidia_smi(layout.choose("a30", "4g.24gb"), "0")[0].why
    hopper = commands.nvidia_smi(layout.choose("h200", "7g.141gb"), "0")[0].why
    assert "--gpu-reset" in ampere
    assert "no reset" in hopper


@pytest.mark.parametrize("name", CARDS)
def test_the_configuration_is_what_mig_parted_reads(name: str) -> None:
    for counts in layout.every(CARDS[name]):
        chosen = layout.choose(name, layout.spelled(counts))
        config = yaml.safe_load(commands.mig_parted(chosen, "0,1"))
        assert config["version"] == "v1"
        label = commands.config_name(chosen)
        assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", label), label
        (entry,) = config["mig-configs"][label]
        assert entry == {"devices": [0, 1], "mig-enabled": True, "mig-devices": dict(counts)}


def test_kubernetes_names() -> None:
    mixed, single = commands.kubernetes(layout.choose("h100", "6x1g.10gb,1g.10gb+me"))
    assert mixed.resources == (("nvidia.com/mig-1g.10gb", 6), ("nvidia.com/mig-1g.10gb.me", 1))
    assert single.resources == ()
    assert "cannot be" in single.note
    _, single = commands.kubernetes(layout.choose("h100", "7x1g.10gb"))
    assert single.resources == (("nvidia.com/gpu", 7),)


@pytest.mark.parametrize("text", ["", "a", "0,", "-1", "0;reboot", "0 && x", "1000"])
def test_devices_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="are no indexes"):
        commands.devices_of(text)


def test_rooms_are_reckoned_as_is_said() -> None:
    facts = cards.table()
    room = fits.room(CARDS["h100-80"], "1g.10gb", facts.fit)
    assert room.weights_gib == pytest.approx(9.75 * 0.9 - 1 - 9.75 * 0.2, abs=0.01)
    billions = dict(room.most)
    assert billions["fp8"] == pytest.approx(2 * billions["bf16"], abs=0.1)
    assert dict(room.usual) == {"bf16": 3, "fp8": 4}
    for card in CARDS.values():
        rooms = [fits.room(card, name, facts.fit) for name in card.profiles]
        assert all(room.weights_gib > 0 for room in rooms)


def test_cells_are_those_with_code_for_the_card(matrix: Matrix) -> None:
    b200 = {cell.id for cell in fits.cells(matrix, CARDS["b200"])}
    assert "cuda13.0-vllm" in b200
    assert "cuda13.0-vllm-b200" in b200
    assert "cuda12.4-vllm" not in b200  # its PyTorch is older than Blackwell
    a30 = {cell.id for cell in fits.cells(matrix, CARDS["a30"])}
    assert "cuda13.0-vllm-a100" in a30
    assert "cuda13.0-vllm-b200" not in a30
    h100 = {cell.id for cell in fits.cells(matrix, CARDS["h100-80"])}
    assert "cuda13.0-vllm-gh200" not in h100  # for another CPU
    assert not {cell for cell in h100 if cell.startswith(("cpu", "tpu"))}


def test_the_command_prints_all_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("host", "mig", "--gpu", "h100", "--layout", "7x1g.10gb")
    assert run(monkeypatch, *asked) == 0
    shown = capsys.readouterr().out
    for part in ("7 of 7 compute", "-cgi 19:6,", "1g.10gb: 7", "nvidia.com/mig-1g.10gb", "cells:"):
        assert part in shown
    assert run(monkeypatch, *asked, "--format", "mig-parted") == 0
    assert "7x1g.10gb" in yaml.safe_load(capsys.readouterr().out)["mig-configs"]
    assert run(monkeypatch, *asked, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["card"] == "h100-80"
    assert len(told["instances"]) == 7
    assert told["kubernetes"]["single"]["resources"] == {"nvidia.com/gpu": 7}
    assert "cuda13.0-vllm-h100" in told["cells"]


def test_the_commands_alone_are_a_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What undoes the layout is a comment in it."""
    asked = ("host", "mig", "--gpu", "h100", "--layout", "7x1g.10gb", "--format", "nvidia-smi")
    assert run(monkeypatch, *asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "nvidia-smi -i 0 -mig 1",
        "nvidia-smi mig -i 0 -cgi 19:6,19:5,19:4,19:3,19:2,19:1,19:0 -C",
        "nvidia-smi mig -i 0 -lgi",
        "nvidia-smi mig -i 0 -lci",
        "nvidia-smi -L",
    ]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("mgi",), "no command 'host mgi'; did you mean 'mig'?"),
        (("mig", "--gpu", "h100"), "--layout is required; see `imgbuild host mig --help`"),
        (("mig", "--gpu", "h100", "--layout", "8x1g.10gb"), "does not fit on h100-80"),
        (("mig", "--gpu", "h100", "--layout", "x", "--format", "k8s"), "'k8s' is unknown"),
    ],
)
def test_a_mistake_is_one_line(
    args: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.VERBS["host"]
    assert run(monkeypatch, "host", *args) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert told in shown.err

"""How GPUs are linked with one another, and which network card is near: `nvidia-smi topo -m`.

Asked for by `tune` alone. On eight GPUs it takes longer than all else that a start does, and no
decision of a start hangs on it: ranks take the first GPUs, however these are linked.
"""

from __future__ import annotations

from . import gpus
from .numbers import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    Facts = Dict[str, Any]

RECORDED = "nvidia-smi-topo.txt"  # in a recorded root: what it printed
# Its legend: from one PCIe bridge to the way between sockets.
_NEAREST_FIRST = ("PIX", "PXB", "PHB", "NODE", "SYS")
_WORDS = {
    "PIX": "one PCIe switch",
    "PXB": "several PCIe switches",
    "PHB": "the CPU's PCIe root",
    "NODE": "PCIe roots of one socket",
    "SYS": "the way between sockets",
}


def asked() -> str:
    """What it prints, within two seconds; "" where it does not."""
    return gpus.Query("topo", "-m").text() or ""


def parse(text: str) -> Facts:
    """`{"gpus": {"0": {"1": "NV18"}}, "nics": {"0": {"mlx5_0": "PXB"}}}`; {} for any other text.

    Its header names the columns, tabs part them, and older drivers underline it for a terminal.
    """
    lines = [_plain(line) for line in text.splitlines()]
    header = next((line for line in lines if "GPU0" in line.split("\t")), "")
    columns = [name.strip() for name in header.split("\t")]
    cards = _cards(lines)
    found: Facts = {}
    for line in lines:
        row = [cell.strip() for cell in line.split("\t")]
        own = _index(row[0])
        if own is None or line == header:
            continue
        for name, link in zip(columns[1:], row[1:]):
            if not _is_link(link):
                continue
            kind, key = ("nics", cards.get(name, name))
            if (other := _index(name)) is not None:
                kind, key = "gpus", str(other)
            elif not name.startswith(("NIC", "mlx")):
                continue
            found.setdefault(kind, {}).setdefault(str(own), {})[key] = link
    return found


def _plain(line: str) -> str:
    """A line without the terminal's escapes."""
    first, *rest = line.split("\x1b[")
    return first + "".join(part.partition("m")[2] for part in rest)


def _index(name: str) -> int | None:
    return number(name[3:]) if name.startswith("GPU") else None


def _cards(lines: List[str]) -> Dict[str, str]:
    """The legend's `NIC0: mlx5_0`."""
    pairs = (line.strip().partition(": ") for line in lines)
    return {name: card.strip() for name, colon, card in pairs if colon and name.startswith("NIC")}


def _is_link(text: str) -> bool:
    return text in _NEAREST_FIRST or (text.startswith("NV") and number(text[2:]) is not None)


def between(links: Facts, chosen: List[int]) -> str | None:
    """The worst link among these GPUs; None where one is not known, or there are not two."""
    among: List[str] = []
    for one in chosen:
        for other in chosen:
            link = links.get("gpus", {}).get(str(one), {}).get(str(other))
            if one != other and link is None:
                return None
            among += [link] if one != other else []
    slow = [link for link in among if link in _NEAREST_FIRST]
    return max(slow, key=_NEAREST_FIRST.index) if slow else next(iter(among), None)


def told(links: Facts) -> List[str]:
    """Each GPU's links as a line for people, and the cards that are nearest to it."""
    lines = []
    for own, others in sorted(links.get("gpus", {}).items(), key=lambda pair: int(pair[0])):
        kinds: Dict[str, List[str]] = {}
        for other, link in others.items():
            kinds.setdefault(link, []).append(other)
        parts = [f"{_named(link)} to {', '.join(them)}" for link, them in kinds.items()]
        near = _nearest(links.get("nics", {}).get(own, {}))
        lines.append(f"GPU {own}: {'; '.join([*parts, *near])}")
    return lines


def _named(link: str) -> str:
    return f"{link} ({_WORDS[link]})" if link in _WORDS else f"{link} (NVLink)"


def _nearest(cards: Dict[str, str]) -> List[str]:
    known = {card: link for card, link in cards.items() if link in _NEAREST_FIRST}
    if not known:
        return []
    best = min(known.values(), key=_NEAREST_FIRST.index)
    return [f"nearest network cards: {', '.join(c for c in known if known[c] == best)} ({best})"]


def advice(links: Facts, devices: List[Facts], ranks: int | None) -> List[Facts]:
    """What tensor parallelism over the first `ranks` devices suffers from, where it does."""
    chosen = [device["index"] for device in devices[: ranks or 0]]
    if ranks is None or len(chosen) < ranks or None in chosen:
        return []
    worst = between(links, chosen)
    if worst not in ("NODE", "SYS"):
        return []
    names = ",".join(map(str, chosen))
    instead = "split layers in place of tensors (--pipeline-parallel-size)"
    better = _better(links, [device["index"] for device in devices], ranks)
    if better:
        instead = f"take nearer ones (CUDA_VISIBLE_DEVICES={better}), or {instead}"
    return [
        {
            "what": f"the GPUs {names} would share a model over {_WORDS[worst]}, without NVLink",
            "why": "tensor parallelism sums over all of them twice in each layer",
            "where": "In its place",
            "command": instead,
        }
    ]


def _better(links: Facts, indexes: List[int], ranks: int) -> str | None:
    """As many GPUs that are nearer to one another; None where there are none."""
    for own in indexes:
        near = links.get("gpus", {}).get(str(own), {})
        group = [i for i in indexes if i == own or near.get(str(i)) not in ("SYS", "NODE", None)]
        if len(group) >= ranks and between(links, group[:ranks]) not in ("SYS", "NODE", None):
            return ",".join(map(str, group[:ranks]))
    return None

"""Recorded hosts: what is read of each, and what each image would set, advise and refuse there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.runtime import (
    advice,
    apply,
    caches,
    decide,
    gpus,
    host,
    links,
    options,
    preflight,
    tune,
)
from builder.runtime.numbers import spelled
from tests.unit import hosts
from tests.unit.support import ROOT

GOLDEN = ROOT / "tests/golden/tune"
MANIFESTS = ROOT / "images/manifests"
# 141 GB in bfloat16: two GPUs of 141 GB, three of 80 and so four, eight of 40.
LLAMA_70B = {"bytes": 141_107_412_992, "heads": 64, "kv_heads": 8}
GIB = 1 << 30


def manifest(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((MANIFESTS / f"{name}.json").read_text())
    return read


def images_for(facts: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Which images one would start there, and with which model."""
    gpus = facts["gpus"]
    has_gpus = gpus["control"] or gpus["nodes"]
    if not has_gpus and not facts["tpus"]:
        yield "vllm-0.32.0-cpu", None
    if has_gpus or name in ("no-gpus-asked-for", "kubernetes-burstable", "empty"):
        arm = "-arm64-sm90" if name == "gh200" else ""
        yield f"vllm-0.32.0-cu130{arm}", None
        if gpus["devices"]:
            yield f"vllm-0.32.0-cu130{arm}", LLAMA_70B
    if facts["tpus"] or name == "empty":
        yield "jax-0.12.0.1-tpu", None


def size(value: int | None) -> str:
    return "not known" if value is None else f"{value / GIB:.4g} GiB"


def told(facts: dict[str, Any]) -> Iterator[str]:
    """The facts, for people."""
    cpus, memory, gpus = facts["cpus"], facts["memory"], facts["gpus"]
    yield (
        f"cpus: {cpus['online']} online, {len(cpus['allowed'])} allowed"
        f" ({spelled(cpus['allowed'])}),"
        f" quota {cpus['quota'] or 'none'}"
    )
    limit = "none" if memory["limit"] is None else size(memory["limit"])
    yield f"memory: {size(memory['total'])}, limit {limit}, /dev/shm {size(facts['shm'])}"
    nodes = [f"{n['node']}: {spelled(n['cpus']) or 'no CPUs'}" for n in facts["numa"]]
    yield f"nodes: {'; '.join(nodes) or 'not known'}"
    platform = facts["platform"]
    yield f"container: {platform['container'] or 'none'}{', WSL' if platform['wsl'] else ''}"
    limits = {name: "no limit" if v is None else v for name, v in facts["limits"].items()}
    yield f"limits: {', '.join(f'{k} {v}' for k, v in limits.items()) or 'not known'}"
    known = {key: value for key, value in facts["kernel"].items() if value is not None}
    yield f"kernel: {', '.join(f'{k} {v}' for k, v in known.items()) or 'not known'}"
    if facts["infiniband"]:
        yield f"infiniband: {', '.join(facts['infiniband'])}"
    if facts["tpus"]:
        yield f"tpus: {facts['tpus']}, nodes {spelled(facts['tpu_nodes']) or 'not known'}"
    if gpus["control"] or gpus["nodes"]:
        yield f"driver: {gpus['driver'] or 'not known'}; device files: {len(gpus['nodes'])}"
    for one in gpus["devices"]:
        mib = "of unknown size" if one["memory_mib"] is None else f"{one['memory_mib']} MiB"
        node = "not known" if one["numa"] is None else one["numa"]
        mig = ", MIG" if one["mig"] else ""
        yield f"gpu {one['index']}: {one['name']}, SM {one['sm']}, {mib}, node {node}{mig}"
    if gpus["error"]:
        yield f"nvidia-smi: {gpus['error']}"
    for library in gpus["libraries"]:
        yield f"libcuda: {library['version']} in {library['folder']}"


def findings(
    facts: dict[str, Any],
    about: dict[str, Any],
    settings: list[dict[str, Any]],
    model: dict[str, Any] | None,
) -> Iterator[str]:
    ranks = options.ranks(about["server"], apply.flags(settings), {})
    for finding in preflight.check(facts, about, ranks, model):
        yield f"{'REFUSED' if finding['fatal'] else 'warning'} {finding['name']}"
        yield f"  what: {finding['what']}"
        yield f"  why:  {finding['why']}"
        yield f"  fix:  {finding['fix']}"


def decided(facts: dict[str, Any], name: str, linked: dict[str, Any]) -> str:
    lines = ["facts", *(f"  {line}" for line in told(facts))]
    lines += [f"  {line}" for line in links.told(linked)]
    for image, model in images_for(facts, name):
        about = manifest(image)
        settings = decide.decide(facts, about["tuning"], {}, [], model, server=about["server"])
        lines += ["", f"{image}{', Llama 70B' if model else ''}"]
        for row in settings:
            value = row["value"]
            if row["kind"] == "affinity" and value:
                value = spelled(map(int, value.split(",")))
            lines.append(f"  {row['status']}: {row['name']}{'' if value is None else f'={value}'}")
        lines += [f"  {line}" for line in findings(facts, about, settings, model)] or ["  starts"]
        size = options.ranks(about["server"], apply.flags(settings), {})
        near = links.advice(linked, facts["gpus"]["devices"], size)
        lines += [f"  advice: {row['what']}: {row['command']}" for row in near]
    advised = advice.of_host(facts)
    lines += ["", "advice"] if advised else []
    for row in advised:
        lines += [f"  {row['what']}: {row['why']}", f"    {row['command']}"]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", hosts.NAMES)
def test_what_is_decided_on_a_recorded_host(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    recorded = hosts.read(name)
    root = recorded.unpack(tmp_path)
    linked = links.parse(root.text(f"/{links.RECORDED}"))
    made = f"{recorded.title}\n\n{decided(host.discover(root), name, linked)}"
    file = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(made)
    assert made == file.read_text()


def test_no_golden_decision_is_left_over() -> None:
    assert sorted(file.stem for file in GOLDEN.iterdir()) == hosts.NAMES
    assert len(hosts.NAMES) >= 25


def test_the_report_of_a_recorded_host_is_plain_data(tmp_path: Path) -> None:
    """What `tune --json --root DIR` prints."""
    hosts.read("dgx-h100").unpack(tmp_path)
    about = manifest("vllm-0.32.0-cu130")
    made = tune.report(str(tmp_path), about, [], {"CUDA_VISIBLE_DEVICES": "0", "MAX_JOBS": "1"})
    assert json.loads(json.dumps(made)) == made
    # This host's environment says nothing of a recorded one.
    assert len(made["facts"]["gpus"]["devices"]) == 8
    assert all(row["status"] != decide.YOURS for row in made["settings"])
    assert made["not_set"]


@pytest.mark.parametrize(("chosen", "tpus"), [("", 4), ("tpu", 4), ("cpu", 0)])
def test_the_report_of_a_tpu_host_where_jax_is_to_use_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str, tpus: int
) -> None:
    """As the start does, `tune` binds nobody to a node of TPUs that he does not use."""
    root = hosts.read("tpu-v5p-vm").unpack(tmp_path)
    root.live = True  # a recorded host has no environment
    monkeypatch.setattr(host, "Root", lambda *_: root)
    about = manifest("jax-0.12.0.1-tpu")
    made = tune.report("/", about, [], {"JAX_PLATFORMS": chosen})
    assert made["facts"]["tpus"] == tpus
    bound = [r["kind"] for r in made["settings"] if r["status"] == decide.SET]
    assert bound == (["affinity", "memory"] if tpus else [])
    assert made["preflight"] == []


def test_what_is_recorded_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tune --record` writes a folder of which the same facts are read."""
    live = hosts.read("dgx-h100-node1").unpack(tmp_path / "live")
    told = json.loads(live.text(f"/{host.RECORDED}"))
    original = host.Root

    def root(folder: str = "/") -> host.Root:
        return live if folder == "/" else original(folder)

    class Query:
        def answer(self) -> Any:
            return told["gpus"]

    monkeypatch.setattr(host, "Root", root)
    monkeypatch.setattr(gpus, "Query", Query)
    monkeypatch.setattr(links, "asked", lambda: "\tGPU0\n")
    tune.record(str(tmp_path / "copy"))
    copy = original(str(tmp_path / "copy"))
    assert host.discover(copy) == host.discover(live)
    assert copy.text(f"/{links.RECORDED}") == "\tGPU0\n"


def test_weights_below_the_users_cache_are_found_without_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start finds them: the Hub's cache is below IMGBUILD_CACHE by then."""
    snapshot = tmp_path / "mine/huggingface/hub/models--o--m/snapshots/1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    about = {**manifest("vllm-0.32.0-cpu")}
    asked: list[str] = []

    def scheduler(_: host.Root, folder: str) -> None:
        asked.append(folder)

    monkeypatch.setattr(host, "scheduler", scheduler)
    environment = {"HOME": f"{tmp_path}/home", "IMGBUILD_CACHE": f"{tmp_path}/mine"}
    tune.report("/", about, ["o/m"], environment)
    assert asked == [str(snapshot)]
    assert sorted(tmp_path.rglob("*")) == before


def test_what_only_looks_finds_the_starts_places(tmp_path: Path) -> None:
    rows = [{"variable": "T", "folder": "triton"}, {"variable": "H", "folder": "huggingface"}]
    for environment in (
        {"HOME": f"{tmp_path}/home"},
        {"HOME": f"{tmp_path}/home", "XDG_CACHE_HOME": f"{tmp_path}/xdg"},
        {"HOME": f"{tmp_path}/home", "IMGBUILD_CACHE": __file__, "T": "/t"},
    ):
        looked = caches.looked_up(environment, rows)
        assert not [*tmp_path.iterdir()]
        chosen, _ = caches.placed(environment, rows)
        assert looked == {name: chosen[name] for name in ("T", "H") if name in chosen}
        for folder in tmp_path.iterdir():
            shutil.rmtree(folder)


def test_the_models_disk_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path.stat().st_dev
    at = f"{os.major(device)}:{os.minor(device)}"
    live = hosts.read("cpuset-3").unpack(tmp_path / "live")
    disk = tmp_path / "live/sys/dev/block/sda"
    (disk / at).mkdir(parents=True)
    (disk / "queue").mkdir()
    (disk / "queue/scheduler").write_text("none [bfq]\n")
    (disk / "queue/rotational").write_text("1\n")
    (disk / "uevent").write_text("MAJOR=8\nDEVNAME=sda\n")
    (tmp_path / "live/sys/dev/block" / at).symlink_to(disk / at)
    original = host.Root
    monkeypatch.setattr(
        host, "Root", lambda folder="/": live if folder == "/" else original(folder)
    )

    class Query:
        def answer(self) -> Any:
            return {}

    monkeypatch.setattr(gpus, "Query", Query)
    tune.record(str(tmp_path / "copy"), str(tmp_path))
    copy = original(str(tmp_path / "copy"))
    assert host.scheduler(copy, "") == {"disk": "sda", "scheduler": "bfq", "rotates": True}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--record", "/proc/none/x"], "cannot record into /proc/none/x: "),
        (["--record", "."], ". is not empty"),
        (["--record", "new", "--root", "."], "--record is of this host, --root of another"),
    ],
)
def test_what_cannot_be_recorded_is_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    says: str,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        tune.main(more)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err

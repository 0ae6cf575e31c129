"""`discover` and `weights` read what is there, and never fail at it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builder.runtime import advice, decide, explained, host, manifest, preflight, rules, weights
from tests.unit import hosts
from tests.unit.support import ROOT

# Every file that `host` reads, and some that its patterns find.
READ = [
    "/imgbuild.json",
    "/proc/self/cgroup",
    "/proc/self/mountinfo",
    "/proc/self/status",
    "/proc/self/limits",
    "/proc/meminfo",
    "/proc/version",
    "/proc/cpuinfo",
    "/proc/driver/nvidia/version",
    "/proc/sys/kernel/numa_balancing",
    "/proc/sys/vm/nr_hugepages",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/smt/active",
    "/sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    "/sys/devices/system/node/node0/cpulist",
    "/sys/devices/system/node/node1x/cpulist",
    "/sys/devices/system/node/node²/cpulist",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/bus/pci/devices/0000:1b:00.0/numa_node",
    "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/cpu.cfs_quota_us",
    "/sys/fs/cgroup/cpu.cfs_period_us",
    "/sys/fs/cgroup/memory.limit_in_bytes",
    "/sys/class/infiniband/x/ports/1/state",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d/x.conf",
    "/usr/lib/libcuda.so.1",
    "/usr/lib/libcuda.so.x.y",
    "/dev/nvidia0",
    "/dev/accel0",
]
# Where chance alone would get no further than the first field.
_WORDS = st.sampled_from(
    [
        *("0-3", "0", "-1", "max", "100000", "0::/", "4:cpu:/a", "0::/a/../b", "/", "1 2 0:3 /a "),
        *("1 2 0:3 / /sys/fs/cgroup rw - cgroup2 c rw", "1 2 0:3 / /sys/fs/cgroup rw - cgroup"),
        *("1 2 0:3 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu,memory", "Cpus_allowed_list:\t0-1"),
        *("MemTotal: 1 kB", "Max open files", "processor\t: 0", "[", "]", "[always]", "/usr/lib"),
        *("NVRM version: 580.95.05", "580..05", "/[\0", "²", "9" * 5000, "\x85", " ", "\n", "\r"),
    ]
)
_TEXTS = st.lists(_WORDS | st.text(max_size=5), max_size=6).map(" ".join) | st.lists(
    _WORDS, max_size=6
).map("\n".join)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["gpus", "devices", "driver", "error", "bus", "sm", "mig", "shm", "current"]
            )
            | st.sampled_from(["memory_mib", "ld_library_path", "index", "name", "uuid"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
).map(json.dumps)
_CONTENTS = (
    st.binary(max_size=64)
    | _TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | _JSON.map(str.encode)
)
IMAGES = [
    {**manifest.NOTHING, "accelerator": accelerator, "driver_floor": "580.65.06", "sms": ["9.0"]}
    for accelerator in ("cpu", "cuda", "tpu")
]
ROWS = [
    {"kind": "env", "name": rule, "rule": rule, "why": "", "source": ""} for rule in rules.RULES
]


def discovered(files: dict[str, bytes]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return host.discover(hosts.Recorded("", files).unpack(Path(folder)))


@given(st.dictionaries(st.sampled_from(READ), _CONTENTS, max_size=12))
@example(dict.fromkeys(READ, b"\0"))
@example(dict.fromkeys(READ, bytes(range(256))))
@example({"/imgbuild.json": b"[" * 100_000})
@example({"/imgbuild.json": b'{"gpus": {"devices": 5, "driver": 5, "error": []}}'})
@example({"/imgbuild.json": b'{"ld_library_path": 5, "shm": "x"}'})
@example({"/etc/ld.so.conf": b"/a[\0\n/[\n/*\n"})
@example({"/sys/devices/system/cpu/online": b"0-65535," * 50})
def test_discover_and_all_that_follows_never_fail(files: dict[str, bytes]) -> None:
    facts = discovered(files)
    json.dumps(facts)
    assert facts["cpus"]["allowed"]
    assert facts["cpus"]["online"] >= 1
    made = decide.decide(facts, ROWS, {}, [], {"bytes": 1 << 40, "heads": 8})
    explained.lines(made, advice.of_host(facts))
    for about in IMAGES:
        for finding in preflight.check(facts, about, 4):
            assert preflight.told(finding)


@pytest.mark.parametrize(
    ("name", "shown"), [("apptainer", False), ("memory-limit", True), ("cgroup-v1-quota", True)]
)
def test_whether_programs_see_the_memory_limit(name: str, shown: bool, tmp_path: Path) -> None:
    """A Slurm job's stands further down than they look."""
    memory = hosts.facts(name, tmp_path)["memory"]
    assert memory["limit"]
    assert memory["shown"] == (memory["limit"] if shown else None)


@pytest.mark.parametrize("name", [name for name in hosts.NAMES if name.startswith("kubernetes")])
def test_a_pod_is_known_for_one(name: str, tmp_path: Path) -> None:
    """With and without a token of a service account; no mask then, its pool of CPUs changes."""
    facts = hosts.facts(name, tmp_path)
    assert facts["platform"]["container"] == "kubernetes"
    assert rules.RULES["quota-cpus"](facts, {}) is None


def test_cuda_compat_is_known_by_its_folder(tmp_path: Path) -> None:
    """Not by a part of another's name."""
    folders = ["/opt/incompatible-drivers/lib", "/usr/local/cuda-13.0/compat", "/compatible"]
    files = {f"{folder}/libcuda.so.1": b"" for folder in folders}
    files["/imgbuild.json"] = json.dumps({"ld_library_path": folders}).encode()
    found = host.discover(hosts.Recorded("", files).unpack(tmp_path))["gpus"]["libraries"]
    assert [library["compat"] for library in found] == [False, True, False]


@pytest.mark.parametrize(("live", "container"), [(True, "kubernetes"), (False, None)])
def test_kubernetes_tells_its_pods_where_it_is(
    live: bool, container: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This host's variables say nothing of a recorded one."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    root = host.Root(str(tmp_path))
    root.live = live
    assert host.discover(root)["platform"]["container"] == container


def test_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = hosts.read("dgx-h100").unpack(tmp_path)
    read: list[str] = []
    original = open

    def counting(file: Any, *rest: Any, **options: Any) -> Any:
        read.append(str(file))
        return original(file, *rest, **options)

    monkeypatch.setattr("builtins.open", counting)
    host.discover(root)
    assert f"{tmp_path}/proc/self/status" in read
    assert len(read) == len(set(read))


@pytest.mark.parametrize("name", hosts.NAMES)
def test_any_file_may_be_missing(name: str, tmp_path: Path) -> None:
    recorded = hosts.read(name)
    for absent in list(recorded.files)[:40]:
        if "thread_siblings" not in absent:
            rest = {path: text for path, text in recorded.files.items() if path == absent}
            host.discover(hosts.Recorded("", rest).unpack(tmp_path / "only" / name))
    root = recorded.unpack(tmp_path / "all")
    whole = host.discover(root)
    for absent in recorded.files:
        if "thread_siblings" not in absent:
            file = Path(root.folder + absent)
            file.rename(file.with_suffix(".away"))
            assert set(host.discover(host.Root(root.folder))) == set(whole)
            file.with_suffix(".away").rename(file)


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    for path in READ:
        (tmp_path / path.lstrip("/")).mkdir(parents=True)
    assert host.discover(host.Root(str(tmp_path)))["cpus"]["online"] == 1


def test_this_host_is_discovered() -> None:
    facts = host.discover(host.Root(), {})
    assert set(facts["cpus"]["allowed"]) == os.sched_getaffinity(0)
    assert facts["memory"]["total"]
    assert facts["gpus"]["devices"] == []


# Control groups.


def cgroup(own: str, mounts: str, files: dict[str, str]) -> dict[str, Any]:
    online = {"/sys/devices/system/cpu/online": "0-7", "/proc/meminfo": "MemTotal: 999999999 kB"}
    every = {"/proc/self/cgroup": own, "/proc/self/mountinfo": mounts, **online, **files}
    return discovered({path: text.encode() for path, text in every.items()})


V2 = "30 29 0:26 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
V1 = "31 29 0:27 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct"


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("max 100000", None),
        ("100000 100000", 1.0),
        ("50000 100000", 0.5),
        ("299999 100000", 2.999),  # never rounded up
        ("1000 1000000", 0.001),
        ("1 1000000", 0.001),
        ("0 100000", None),
        ("100000 0", None),
        ("100000", None),
        ("-1 100000", None),
        ("", None),
    ],
)
def test_the_quota_of_version_2(text: str, quota: float | None) -> None:
    facts = cgroup("0::/", V2.format(root="/"), {"/sys/fs/cgroup/cpu.max": text})
    assert facts["cpus"]["quota"] == quota


def test_the_tightest_group_counts() -> None:
    files = {
        "/sys/fs/cgroup/a/cpu.max": "200000 100000",
        "/sys/fs/cgroup/a/b/cpu.max": "400000 100000",
        "/sys/fs/cgroup/memory.max": "max",
        "/sys/fs/cgroup/a/memory.max": "4096",
        "/sys/fs/cgroup/a/b/memory.max": "8192",
    }
    facts = cgroup("0::/a/b\n", V2.format(root="/"), files)
    assert facts["cpus"]["quota"] == 2.0
    assert facts["memory"]["limit"] == 4096


@pytest.mark.parametrize(
    ("bytes_", "limit"),
    [
        (999999999 * 1024 - 1, 999999999 * 1024 - 1),
        (999999999 * 1024, None),  # `docker run --memory` with all that there is
        (999999999 * 1024 + 1, None),
    ],
)
def test_a_limit_of_all_the_memory_is_none(bytes_: int, limit: int | None) -> None:
    facts = cgroup("0::/", V2.format(root="/"), {"/sys/fs/cgroup/memory.max": str(bytes_)})
    assert facts["memory"]["total"] == 999999999 * 1024
    assert facts["memory"]["limit"] == limit


@pytest.mark.parametrize(
    ("root", "own", "folder"),
    [
        ("/", "/", ""),
        ("/", "/a", "/a"),
        ("/docker/id", "/docker/id", ""),
        ("/docker/id", "/docker/id/sub", "/sub"),
        ("/docker/id", "/", ""),  # a namespace that the mount is not of
        ("/docker/i", "/docker/id/sub", ""),  # a name that only begins alike
        ("/", "/../../other", "/other"),
    ],
)
def test_where_a_group_is_mounted(root: str, own: str, folder: str) -> None:
    base = "/sys/fs/cgroup/cpu,cpuacct"
    files = {f"{base}{folder}/cpu.cfs_quota_us": "300000"}
    files[f"{base}{folder}/cpu.cfs_period_us"] = "100000"
    facts = cgroup(f"4:cpu,cpuacct:{own}\n", V1.format(root=root), files)
    assert facts["cpus"]["quota"] == 3.0


# The disk of the weights.


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, None),
        (
            {"queue/scheduler": "none [mq-deadline] kyber", "uevent": "MAJOR=259\nDEVNAME=nvme0n1"},
            {"disk": "nvme0n1", "scheduler": "mq-deadline", "rotates": False},
        ),
        (
            {"queue/scheduler": "none", "queue/rotational": "1", "uevent": "DEVNAME=sda\n"},
            {"disk": "sda", "scheduler": "none", "rotates": True},
        ),
        ({"queue/scheduler": "[bfq]"}, {"disk": "", "scheduler": "bfq", "rotates": False}),
    ],
)
@pytest.mark.parametrize("partition", [False, True])
def test_the_models_disk(
    tmp_path: Path, files: dict[str, str], found: dict[str, Any] | None, partition: bool
) -> None:
    disk = tmp_path / "sys/block/disk"
    own = disk / "part" if partition else disk
    own.mkdir(parents=True)
    link = tmp_path / "sys/dev/block/259:1"
    link.parent.mkdir(parents=True)
    link.symlink_to(own)
    for name, text in files.items():
        (disk / name).parent.mkdir(exist_ok=True)
        (disk / name).write_text(text)
    (tmp_path / host.RECORDED).write_text('{"model_device": "259:1"}')
    assert host.scheduler(host.Root(str(tmp_path)), "/models") == found


# The model's folder.


def model(folder: Path, config: Any = None, **files: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    for name, size in files.items():
        (folder / name.replace("__", ".").replace("_of_", "-of-")).write_bytes(b"x" * size)
    return folder


def test_heads_and_bytes(tmp_path: Path) -> None:
    config = {"num_attention_heads": 64, "num_key_value_heads": 8}
    place = model(tmp_path / "a", config, m1_of_2__safetensors=10, m2_of_2__safetensors=5)
    assert weights.read(str(place)) == {"heads": 64, "kv_heads": 8, "bytes": 15}
    place = model(tmp_path / "b", {"text_config": config})
    assert weights.read(str(place)) == {"heads": 64, "kv_heads": 8}


def test_the_same_weights_in_two_formats_count_once(tmp_path: Path) -> None:
    place = model(
        tmp_path,
        model__safetensors=10,
        consolidated__safetensors=10,
        pytorch_model__bin=10,
        training_args__bin=3,
        optimizer__pt=20,
    )
    assert weights.read(str(place)) == {"bytes": 10}
    for name in ("model.safetensors", "consolidated.safetensors"):
        (place / name).unlink()
    assert weights.read(str(place)) == {"bytes": 10}
    only = model(tmp_path / "mistral", consolidated__safetensors=7)
    assert weights.read(str(only)) == {"bytes": 7}


def test_a_download_that_is_not_complete_has_no_size(tmp_path: Path) -> None:
    place = model(tmp_path, m1__safetensors=10)
    (place / "m2.safetensors").symlink_to(tmp_path / "not there")
    assert weights.read(str(place)) == {}


@given(_CONTENTS)
@example(b"[" * 100_000)
@example(b'{"text_config": 5}')
@example(b'{"num_attention_heads": true, "num_key_value_heads": -1}')
@example(b'{"num_attention_heads": "64"}')
@example("\ufeff{}".encode())
def test_any_config_can_be_read(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_bytes(content)
        found = weights.read(folder)
        assert all(type(value) is int and value > 0 for value in found.values())


@pytest.mark.parametrize("place", [None, "", "/nonexistent", "a\0b", "/proc/self/status"])
def test_any_place_can_be_read(place: str | None) -> None:
    assert weights.read(place) == {}


@pytest.mark.parametrize(
    ("arguments", "image", "named"),
    [
        ([], "vllm-0.32.0-cu130", None),
        (["org/model", "--port", "1"], "tensorrt-llm-1.2.1-cu131", "org/model"),
        (["org/model"], "vllm-0.32.0-cu130", "org/model"),
        (["--model", "m"], "vllm-0.32.0-cu130", "m"),
        (["--port", "1", "--model=m"], "vllm-0.32.0-cu130", "m"),
        (["--model", "m", "--model", "n"], "vllm-0.32.0-cu130", "n"),  # the last holds
        (["--model"], "vllm-0.32.0-cu130", None),
        (["--port", "1"], "vllm-0.32.0-cu130", None),
        (["--port", "1", "HERE"], "vllm-0.32.0-cu130", "HERE"),
        (["--port=1", "HERE"], "vllm-0.32.0-cu130", "HERE"),
        (["--port", "1", "none/here"], "vllm-0.32.0-cu130", None),
        (["--port", "1", "--tokenizer", "HERE"], "vllm-0.32.0-cu130", None),
        (["--model", "m"], "sglang-0.5.23-cu130", "m"),
        (["--model-path", "m"], "sglang-0.5.23-cu130", "m"),
        (["--port", "1"], "tgi-3.3.7-cu124", "from/variable"),
        (["--model-id", "m"], "tgi-3.3.7-cu124", "m"),
        ([""], "vllm-0.32.0-cu130", None),
    ],
)
def test_which_model_is_named(
    arguments: list[str], image: str, named: str | None, tmp_path: Path
) -> None:
    here = {"HERE": str(tmp_path)}
    about = manifest.read(str(ROOT / f"images/manifests/{image}.json"))
    found = weights.named(
        [here.get(word, word) for word in arguments],
        about["server"],
        {"MODEL_ID": "from/variable"},
    )
    assert found == here.get(named or "", named)


@pytest.mark.parametrize(
    ("config", "float32"),
    [
        ({"torch_dtype": "float32"}, True),
        ({"dtype": "float32"}, True),
        ({"dtype": "bfloat16", "torch_dtype": "float32"}, False),
        ({"dtype": "bfloat16"}, False),
        ({"text_config": {"torch_dtype": "float32"}}, True),
        ({"dtype": "float32", "text_config": {"dtype": "bfloat16"}}, True),
        ({}, False),
        ({"dtype": ["float32"]}, False),
    ],
)
def test_weights_of_32_bits(config: dict[str, Any], float32: bool, tmp_path: Path) -> None:
    found = weights.read(str(model(tmp_path, config, m__safetensors=8)))
    assert found == ({"float32": True, "bytes": 8} if float32 else {"bytes": 8})


def test_where_a_models_files_are(tmp_path: Path) -> None:
    own = model(tmp_path / "own")
    assert weights.folder(str(own), {}) == str(own)
    old, new = (tmp_path / "hub/models--o--m/snapshots" / name for name in ("1", "2"))
    for age, place in ((100, old), (10, new)):
        model(place)
        os.utime(place, (1e9 - age, 1e9 - age))
    assert weights.folder("o/m", {"HF_HOME": str(tmp_path)}) == str(new)
    assert weights.folder("o/m", {"HF_HUB_CACHE": str(tmp_path / "hub")}) == str(new)
    # Without either, huggingface_hub looks below the caches.
    (tmp_path / "huggingface").symlink_to(tmp_path)
    found = weights.folder("o/m", {"XDG_CACHE_HOME": str(tmp_path)})
    assert found == str(tmp_path / "huggingface" / new.relative_to(tmp_path))
    for name in ("o/other", "m", "a/b/c"):
        assert weights.folder(name, {"HF_HOME": str(tmp_path)}) is None


# The manifest.


@pytest.mark.parametrize("text", ["", "[]", "5", "{", '"x"', "\udcff"])
def test_a_broken_manifest_says_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "manifest.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert manifest.read(str(file)) == manifest.NOTHING
    assert manifest.read(str(tmp_path / "none")) == manifest.NOTHING


def test_a_manifest_of_an_older_image_is_completed(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text('{"accelerator": "tpu"}')
    assert manifest.read(str(file)) == {**manifest.NOTHING, "accelerator": "tpu"}


def test_the_current_cpu_is_one_of_ours() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(before)})
        assert host.discover(host.Root())["cpus"]["current"] == max(before)
    finally:
        os.sched_setaffinity(0, before)

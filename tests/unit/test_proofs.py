"""A proof on a GPU: what is said of its results, and the page of those that are committed."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bench import repull
from bench.gpu import containers, identity, operators, proofs, prove
from bench.gpu.proofs import FAILED, INCOMPLETE, OK, SKIPPED, Check
from builder.engines import oci

ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("Tesla T4", "t4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtxpro6000"),
        ("unknown", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_gpu_is_named_as_in_the_matrix(name: str, slug: str) -> None:
    assert proofs.slug(name) == slug


@pytest.mark.parametrize(
    ("told", "absent", "broken"),
    [
        (ONE, False, False),
        ("ImportError: not installed", True, False),
        ("NotImplementedError: no", True, False),
        ("RuntimeError: CUBLAS_STATUS_NOT_SUPPORTED when calling", True, False),
        ("RuntimeError: Supported only on GPUs with compute capability 8.x", True, False),
        ("RuntimeError: float8 is not supported on this device", True, False),
        ("RuntimeError: CUDA error: no kernel image is available", False, True),
        ("RuntimeError: device kernel image is invalid; not supported", False, True),
        ("RuntimeError: invalid device function; not supported", False, True),
        ("crashed: signal SIGSEGV", False, True),
        ("hung: no answer in 120 s", False, True),
        ("RuntimeError: vLLM's library of kernels is not loaded", False, True),
    ],
)
def test_an_operator_that_is_not_there_is_not_a_broken_one(
    told: str, *, absent: bool, broken: bool
) -> None:
    assert (proofs.absent(told), proofs.broken(told)) == (absent, broken)


def test_a_broken_operator_fails_where_nothing_is_beside_it() -> None:
    made = proofs.alone({"a": ONE, "b": "RuntimeError: CUDA error", "c": "ImportError: no"})
    assert made.status == FAILED
    assert made.figures["broken"] == {"b": "RuntimeError: CUDA error"}
    assert made.figures["not_there"] == {"c": "ImportError: no"}
    assert proofs.alone({"a": ONE}).status == OK
    assert proofs.alone({"c": "ImportError: no"}).status == FAILED


def test_what_is_not_there_is_unproven_where_no_whole_image_shows_the_same() -> None:
    thin = {"a": ONE, "b": "RuntimeError: CUDNN_STATUS_NOT_SUPPORTED"}
    made = proofs.alone(thin)
    assert made.status == INCOMPLETE
    assert made.figures["unproven"] == ["b"]
    beside = proofs.compared(thin, thin, []).figures
    assert proofs.alone(thin, beside).figures["unproven"] == []
    assert proofs.alone(thin, beside).status == OK


def test_what_is_broken_in_whole_too_is_no_fault_of_thin() -> None:
    thin = {"a": ONE, "b": "crashed: x", "c": "crashed: x"}
    made = proofs.alone(thin, {"in_neither": {"b": "crashed: x"}})
    assert made.status == FAILED
    assert made.why == "1 broken: c"
    del thin["c"]
    made = proofs.alone(thin, {"in_neither": {"b": "crashed: x"}})
    assert (made.status, made.why) == (OK, "1 broken in whole, too: b")


def test_groups_that_had_no_time_are_not_proven() -> None:
    made = proofs.alone({"a": ONE}, missed=["fourier"])
    assert (made.status, made.why) == (INCOMPLETE, "no time for fourier")


def test_every_bit_counts_where_whole_is_the_same_twice() -> None:
    whole = {"same": ONE, "other": ONE, "varies": ONE, "gone": ONE, "no": "ImportError: x"}
    thin = {"same": ONE, "other": TWO, "varies": TWO, "gone": "RuntimeError: y", "no": "z: x"}
    made = proofs.compared(thin, whole, ["varies"])
    assert made.status == FAILED
    assert made.figures["differ"] == {"other": [ONE, TWO], "gone": [ONE, "RuntimeError: y"]}
    assert made.figures["vary_in_whole"] == ["varies"]
    assert made.figures["in_neither"] == {"no": "z: x"}
    assert made.figures["identical"] == 1


def test_one_that_varies_must_run_all_the_same() -> None:
    made = proofs.compared({"a": ONE, "b": "crashed: x"}, {"a": ONE, "b": TWO}, ["b"])
    assert made.status == FAILED
    assert list(made.figures["differ"]) == ["b"]


def test_a_result_that_whole_has_and_thin_lacks_is_a_failure() -> None:
    made = proofs.compared({"a": ONE}, {"a": ONE, "c": ONE, "d": "ImportError: x"}, [])
    assert (made.status, made.why) == (FAILED, "1 lacking in thin: c")
    assert made.figures["lacking_in_thin"] == ["c"]


def test_a_result_that_thin_had_no_time_for_is_not_compared() -> None:
    whole = {"a": ONE, "c": ONE, "d": ONE}
    made = proofs.compared({"a": ONE, "d": ONE}, whole, [], cut=True)
    assert (made.status, made.why) == (INCOMPLETE, "1 not compared: c")
    assert proofs.compared({"a": ONE, "d": TWO}, whole, [], cut=True).status == FAILED


def test_one_of_a_hundred_is_not_compared() -> None:
    thin = {f"op{number}": ONE for number in range(100)}
    made = proofs.compared(thin, {"op0": ONE}, [])
    assert made.status == INCOMPLETE
    assert made.figures["not_compared"]["count"] == 99
    broken = {**dict.fromkeys(thin, "hung: no answer"), "op0": ONE}
    assert proofs.compared(thin, broken, []).status == INCOMPLETE
    assert proofs.compared(broken, broken, []).why == "only 1 of 100 are identical"
    assert proofs.compared({"b": ONE}, {"c": "x: y"}, []).status == FAILED


def test_other_software_is_not_compared() -> None:
    about = {"torch": "2", "cuda": "13", "gpu": "H100"}
    assert proofs.unlike(about, about) == ""
    assert "torch is 3" in proofs.unlike(about, {**about, "torch": "3"})


def test_what_needs_the_compiler_of_the_driver() -> None:
    assert proofs.without_jit({"a": ONE, "b": TWO, "c": "x: y"}, {"a": ONE, "b": "no: z"}) == ["b"]


def test_a_log_that_speaks_of_missing_code() -> None:
    log = "fine\nCUDA error: no kernel image is available for execution\nptxas info\n"
    assert proofs.missing_code(log) == [log.splitlines()[1]]


def about() -> dict[str, Any]:
    gpu = {"name": "NVIDIA H100", "driver": "580", "compute_capability": "9.0"}
    return {
        "cell": "c",
        "gpu": gpu,
        "date": "2026-01-01",
        "commit": "abc",
        "image": {"content": "1" * 12},
    }


def needed(*, but: str = "") -> list[Check]:
    return [Check(name, OK) for name in proofs.NEEDED if name != but]


def test_a_failed_check_fails_the_proof() -> None:
    bad = Check("two", FAILED, "why", figures={"log": ["x"]})
    assert proofs.report(about(), needed(), complete=True)["passed"]
    told = proofs.report(about(), [*needed(), bad], complete=True)
    assert not told["passed"]
    assert told["state"] == FAILED
    assert told["checks"]["two"] == {"result": "failed: why", "seconds": 0.0, "log": ["x"]}


@pytest.mark.parametrize("name", proofs.NEEDED)
@pytest.mark.parametrize("instead", [SKIPPED, INCOMPLETE, ""])
def test_a_proof_without_what_it_needs_is_incomplete(name: str, instead: str) -> None:
    checks = [*needed(but=name), *([Check(name, instead, "x")] if instead else [])]
    told = proofs.report(about(), checks, complete=True)
    assert not told["passed"]
    assert (told["state"], told["missing"]) == (INCOMPLETE, [name])


def test_one_that_was_cut_off_or_did_nothing_has_not_passed() -> None:
    assert not proofs.report(about(), needed(), complete=False)["passed"]
    skipped = Check("compared", SKIPPED, "no whole image")
    told = proofs.report(about(), [skipped], complete=True)
    assert not told["passed"]
    assert told["checks"]["compared"]["result"] == "skipped: no whole image"


@pytest.mark.parametrize("proof", proofs.committed(), ids=lambda proof: proof["cell"])
def test_a_committed_proof_has_passed_under_todays_rules(proof: dict[str, Any]) -> None:
    assert proofs.state_of(proof["checks"], complete=proof["complete"]) == proofs.PASSED
    ran, found = proof["checks"]["operators"], proof["checks"]["compared"]
    assert not ran["groups_cut_off"]
    assert not set(ran["broken"]) - set(found["in_neither"])
    assert not set(ran["not_there"]) - set(found["in_neither"])
    assert not found["differ"]
    assert not found["only_in_thin"]
    assert not found["not_compared"]["count"]
    assert ran["operators"] == found["operators"]


def test_whatever_a_check_raises_is_recorded() -> None:
    def skips() -> Any:
        raise prove.SkipError("not here")

    def fails() -> Any:
        raise prove.FailureError("broken", tokens="1 of 2")

    def breaks() -> Any:
        raise ZeroDivisionError("a defect\nof ours")

    assert prove.judged("a", lambda: ("", {"n": 1})) == Check("a", OK, figures={"n": 1})
    assert prove.judged("a", skips) == Check("a", SKIPPED, "not here")
    assert prove.judged("a", fails) == Check("a", FAILED, "broken", figures={"tokens": "1 of 2"})
    assert prove.judged("a", breaks).why == "ZeroDivisionError: a defect of ours"


def given(tmp_path: Path, *more: str) -> argparse.Namespace:
    made = prove.parser().parse_args(["image.sif", "-o", str(tmp_path), *more])
    made.engine = made.engine or "apptainer"
    return made


def test_no_time_is_a_reason_and_the_file_is_written_each_time(tmp_path: Path) -> None:
    proof = prove.Proof(given(tmp_path, "--budget", "0"), tmp_path)
    proof._about = about()
    proof._name()
    proof.check("server cold", 60, lambda: ("", {}))
    told = json.loads((tmp_path / "c.h100.json").read_text())
    assert told["checks"]["server cold"]["result"] == "skipped: 0 s of the budget are left"
    assert not told["complete"]
    assert [file.name for file in tmp_path.iterdir()] == ["c.h100.json"]


def operated(tmp_path: Path, thin: dict[str, str], reference: dict[str, Any]) -> dict[str, Any]:
    """What a proof with a reference says of these results."""
    file = tmp_path / "reference.json"
    file.write_text(json.dumps(reference))
    proof = prove.Proof(given(tmp_path, "--reference", str(file)), tmp_path)

    def computed(_where: object, home: str, *_: object) -> dict[str, Any]:
        told = {"about": LIKE, "results": thin, "missed": [], "seconds": 1, "rounds": 1}
        proof._results[home] = told
        return told

    proof._computed = computed  # type: ignore[assignment, method-assign]
    proof._operators()
    return dict(proofs.report({}, [Check("server cold", OK), *proof.checks], complete=True))


LIKE = {"torch": "2", "cuda": "13", "gpu": "NVIDIA H100"}


def test_an_unlike_reference_excuses_nothing(tmp_path: Path) -> None:
    thin = {"a": ONE, "b": "RuntimeError: CUDA error: no kernel image is available"}
    other = {"about": {**LIKE, "gpu": "NVIDIA H200"}, "results": thin}
    told = operated(tmp_path, thin, other)
    assert told["checks"]["compared"]["result"].startswith("skipped: the reference is another's")
    assert told["checks"]["operators"]["result"] == "failed: 1 broken: b"
    assert told["state"] == FAILED
    thin["c"] = TWO
    assert operated(tmp_path, thin, {"about": LIKE, "results": thin})["state"] == proofs.PASSED
    fine = {"a": ONE}
    told = operated(tmp_path, fine, {**other, "results": fine})
    assert (told["state"], told["missing"]) == (INCOMPLETE, ["compared"])


def test_thin_is_set_beside_whole() -> None:
    checks = [
        Check(
            "server cold", OK, figures={"health_s": 50.0, "peak_pss_bytes": 3, "read_bytes": None}
        ),
        Check("whole server cold", OK, figures={"health_s": 200.0, "peak_pss_bytes": 4}),
        Check("import", OK, figures={"import_s": 3.0}),
        Check("whole import", SKIPPED, "x"),
    ]
    told = proofs.report(
        {**about(), "image": {"bytes": 50}, "whole": {"bytes": 100}}, checks, complete=True
    )
    assert told["thin_to_whole"] == {"disk_bytes": 0.5, "health_s": 0.25, "peak_pss_bytes": 0.75}
    folder = {**about(), "image": {"bytes": 50}, "whole": {"bytes": 100, "files": 3}}
    assert "thin_to_whole" not in proofs.report(folder, checks[:1], complete=True)
    assert "thin_to_whole" not in proofs.report(about(), checks[:1], complete=True)


def test_the_server_of_whole_is_measured_and_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = prove.Proof(given(tmp_path, "--whole", "whole.sif", "--whole-server"), tmp_path)
    started: list[str] = []

    def asked(where: containers.Where, home: str, _start: object, log: Path, **_: object) -> Any:
        started.append(f"{where.image} {home}")
        log.parent.mkdir(exist_ok=True)
        log.write_text("no kernel image")
        raise prove.FailureError("not healthy after 900 s", peak_pss_bytes=7)

    def imports(where: containers.Where, home: str) -> Any:
        started.append(f"{where.image} {home}")
        return "", {"import_s": 9.0}

    monkeypatch.setattr(proof, "_asked", asked)
    monkeypatch.setattr(proof, "_imports", imports)
    monkeypatch.setattr(prove, "free_port", lambda: 8000)
    proof._about = {**about(), "framework": {"name": "vllm"}}
    assert proof._whole
    proof._beside(proof._whole)
    assert started == ["whole.sif whole-server", "whole.sif whole-import"]
    server, took = proof.checks
    assert (server.name, server.status) == ("whole server cold", SKIPPED)
    assert server.why == "not measured: not healthy after 900 s"
    assert server.figures == {"peak_pss_bytes": 7}
    assert (took.name, took.status, took.figures) == ("whole import", OK, {"import_s": 9.0})
    assert proof._missing == {}


def parted(tmp_path: Path, part: str, **about_now: Any) -> prove.Proof:
    """A run of one part that has its file."""
    proof = prove.Proof(given(tmp_path, "--parts", part), tmp_path)
    proof._about = {**about(), "machine": "m", "settings": {}, "engine": "apptainer"}
    proof._about.update(about_now)
    proof._name()
    return proof


def test_the_other_part_is_carried_on(tmp_path: Path) -> None:
    first = parted(tmp_path, "servers")
    assert first.checks == []
    code = {"compiled_by_driver": {"cold": {"files": 1, "bytes": 2}}, "missing": {}}
    first.checks += [Check("server cold", OK, "", 80.0, {"tokens": "128 of 128"})]
    first.checks += [Check("whole import", SKIPPED, "not measured: x: y"), Check("nvidia-smi", OK)]
    first.checks += [Check("gpu code", OK, figures=code)]
    first.flush(complete=True)
    second = parted(tmp_path, "operators", date="later")
    assert second.checks == [first.checks[3], *first.checks[:2]]
    assert second._compiled == code["compiled_by_driver"]
    names = ["server cold", "whole import"]
    assert second._about["earlier"] == {
        "date": "2026-01-01",
        "commit": "abc",
        "checks": names,
    }
    second.checks += [Check("compared", OK), Check("operators", OK)]
    second.flush(complete=True)
    told = json.loads((tmp_path / "c.h100.json").read_text())
    assert told["state"] == proofs.PASSED
    again = parted(tmp_path, "servers")
    assert [check.name for check in again.checks] == ["compared", "operators"]
    assert again._about["earlier"]["checks"] == ["compared", "operators"]
    assert prove.Proof(given(tmp_path), tmp_path)._parts == ["servers", "operators"]


def test_what_logs_of_a_part_said_goes_when_it_is_made_again(tmp_path: Path) -> None:
    first = parted(tmp_path, "operators")
    missing = {"thin": ["no kernel image"], "cold": ["invalid device function"]}
    compiled = {"nojit": {"files": 1, "bytes": 2}, "warm": {"files": 3, "bytes": 4}}
    figures = {"compiled_by_driver": compiled, "missing": missing}
    first.checks += [Check("gpu code", FAILED, "code is missing", figures=figures)]
    first.flush(complete=True)
    again = parted(tmp_path, "operators")
    assert again._missing == {"cold": missing["cold"]}
    assert again._compiled == {"warm": compiled["warm"]}
    # Nor is what the other part's said lost with a run that was cut off behind its begin.
    cut = parted(tmp_path, "operators")
    assert cut._missing == {"cold": missing["cold"]}
    assert [(check.name, check.status) for check in cut.checks] == [("gpu code", FAILED)]
    cut._missing.clear()
    cut.check("gpu code", 0, cut._gpu_code)
    assert [(check.name, check.status) for check in cut.checks] == [("gpu code", OK)]


@pytest.mark.parametrize(
    "other",
    [
        {"image": {"content": "2" * 12}},
        {"image": {}},
        {"gpu": {"name": "NVIDIA H100", "driver": "other"}},
        {"machine": "other"},
        {"settings": {"A": "1"}},
    ],
)
def test_checks_of_another_image_or_host_are_not(tmp_path: Path, other: dict[str, Any]) -> None:
    first = parted(tmp_path, "servers")
    first.checks += [Check("server cold", OK)]
    first._about.update(other)
    first.flush(complete=True)
    assert parted(tmp_path, "operators").checks == []
    (tmp_path / "c.h100.json").write_text("[]")
    assert parted(tmp_path, "operators").checks == []


def test_parts_have_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        prove.parser().parse_args(["image.sif", "--parts", "server"])
    assert "no part server; there are servers, operators" in capsys.readouterr().err


def test_the_longest_groups_are_run_beside_the_others() -> None:
    assert operators.shares(["dense", "fourier", "vllm"]) == [["dense", "vllm"], ["fourier"]]
    assert operators.shares(["fourier-double"]) == [["fourier-double"]]
    assert operators.shares(list(operators.GROUPS))[1:] == [[name] for name in operators.LONG]
    told = operators.together(
        [
            {"about": {}, "results": {"a": ONE}, "missed": ["dense"]},
            {"about": LIKE, "results": {"b": TWO}, "missed": []},
        ]
    )
    assert told == {"about": LIKE, "results": {"a": ONE, "b": TWO}, "missed": ["dense"]}


def test_a_command_in_each_engine(tmp_path: Path) -> None:
    def command(engine: str) -> list[str]:
        return containers.Where(engine, "image", tmp_path, {"A": "1"}).program("thin", "id")

    assert command("apptainer")[:3] == ["apptainer", "exec", "--nv"]
    assert command("docker")[:2] == ["docker", "run"]
    assert command("none")[:2] == ["env", "A=1"]
    for engine in ("apptainer", "docker", "none"):
        assert command(engine)[-3:] == ["env", "A=1", "id"]
    served = containers.Where("apptainer", "image", tmp_path, {}).server(
        "server", (), "--model", "m"
    )
    assert served[:2] == ["apptainer", "run"]
    assert served[-3:] == ["image", "--model", "m"]
    assert "--env=IMGBUILD_CACHE=/proof/server" in served


def test_lines_of_a_process_that_fell() -> None:
    progress = operators.Progress()
    progress.read('["begin", "dense"]\n["begin", "a"]\n["end", "a", "x"]\n["begin", "b"]\n["en')
    progress.fell("crashed: signal SIGSEGV")
    assert progress.results == {"a": "x", "b": "crashed: signal SIGSEGV"}
    progress.fell("crashed: again")
    assert progress.results["b"] == "crashed: signal SIGSEGV"
    progress.read('["done", "dense"]\n["begin", "vllm"]\n')
    progress.fell("hung: no answer")
    assert progress.done == {"dense", "vllm"}


def test_what_varies_between_rounds() -> None:
    rounds = [
        {"results": {"a": ONE, "b": ONE, "c": ONE}, "missed": []},
        {"results": {"a": ONE, "b": TWO}, "missed": ["fourier"]},
    ]
    told = operators.joined(rounds, 1.0)
    assert told["results"] == {"a": ONE, "b": ONE}
    assert told["vary"] == ["b"]
    assert told["missed"] == ["fourier"]
    assert told["rounds"] == 2


def test_the_page_is_of_the_committed_proofs() -> None:
    page = proofs.PAGE.read_text(encoding="utf-8")
    found = proofs.committed()
    made = proofs.written(page, found, proofs.planned(found))
    assert made == page, "run python3 -m bench.gpu.proofs"


def test_a_row_of_a_former_build_says_so() -> None:
    def row(**image: str) -> str:
        told = proofs.report({**about(), "image": image}, needed(), complete=True)
        return proofs.table([told], {"c": {"1" * 12}}).splitlines()[-1]

    assert row(content="1" * 12).endswith("| 2026-01-01, abc |")
    assert row(content="2" * 12).endswith("| 2026-01-01, of a former build: abc |")
    assert row().endswith("| 2026-01-01, of an unknown build: abc |")


def test_what_a_cell_would_be_built_as_now() -> None:
    cells = [{"cell": "cuda13.0-vllm-h100"}, {"cell": "cuda1.0-nothing"}]
    now = proofs.planned(cells)
    assert all(len(content) == 12 for content in now["cuda13.0-vllm-h100"])
    assert now["cuda13.0-vllm-h100"]
    assert now["cuda1.0-nothing"] == set()


def files(folder: Path) -> Path:
    """A file with three names, and a link to a folder."""
    (folder / "in").mkdir(parents=True)
    (folder / "a").write_bytes(b"x" * 1000)
    (folder / "b").hardlink_to(folder / "a")
    (folder / "in" / "c").hardlink_to(folder / "a")
    (folder / "l").symlink_to("in")
    return folder


def test_a_file_with_several_names_weighs_once(tmp_path: Path) -> None:
    told = identity.tree(files(tmp_path / "one"), 60)
    assert (told["bytes"], told["files"]) == (1000, 1)
    assert told["hashed"] == "contents"


def test_a_folder_of_other_contents_has_another_hash(tmp_path: Path) -> None:
    folder = files(tmp_path / "one")
    before = identity.tree(folder, 60)
    assert identity.tree(files(tmp_path / "two"), 60) == before
    (folder / "a").write_bytes(b"y" * 1000)
    after = identity.tree(folder, 60)
    assert after["sha256_of_contents"] != before["sha256_of_contents"]
    assert after["sha256_of_names_and_sizes"] == before["sha256_of_names_and_sizes"]
    (folder / "l").unlink()
    (folder / "l").symlink_to("en")
    assert (
        identity.tree(folder, 60)["sha256_of_names_and_sizes"] != after["sha256_of_names_and_sizes"]
    )


def test_without_time_names_and_sizes_are_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "CONTENT_SECONDS", -1.0)
    told = identity.tree(files(tmp_path / "one"), 60)
    assert told["hashed"] == "names and sizes: no time for contents"
    assert "sha256_of_contents" not in told


def test_an_image_is_known_by_its_labels(tmp_path: Path) -> None:
    folder = files(tmp_path / "one")
    (folder / ".singularity.d").mkdir()
    own = {"io.imgbuild.content": "1" * 12, "io.imgbuild.cell": "c", "org.x": "y"}
    (folder / ".singularity.d" / "labels.json").write_text(json.dumps(own))
    told = identity.identity(str(folder), "apptainer", None, 60)
    assert told["content"] == "1" * 12
    assert sorted(told["labels"]) == ["io.imgbuild.cell", "io.imgbuild.content"]
    assert identity.identity(str(tmp_path / "two"), "none", None, 60)["content"] is None


def test_a_row_of_the_table() -> None:
    checks = [
        Check("server cold", OK, figures={"tokens": "128 of 128", "first_token_s": 80.1}),
        Check("server warm", OK, figures={"first_token_s": 40.2}),
        Check("operators", OK),
        proofs.compared({"a": ONE, "b": TWO, "c": ONE}, {"a": ONE, "b": THREE, "c": ONE}, ["b"]),
    ]
    told = proofs.report(about(), checks, complete=True)
    assert proofs.table([told], {"c": {"1" * 12}}).splitlines()[-1] == (
        "| `c` | NVIDIA H100 | 580 | passed | 128 of 128 | 80.1 | 40.2 | "
        "2 identical to whole, 0 differ, 1 vary in whole | 2026-01-01, abc |"
    )


def test_what_was_tried_without_jit_is_under_the_table() -> None:
    figures = {
        "operators": 326,
        "need_jit": ["fa 64", "fa 128", "c"],
        "groups_cut_off": ["fourier"],
    }
    ran = Check("operators", OK, figures={"operators": 4274, "gave_a_result": 4270})
    checks = [*needed(but="operators"), ran, Check("without jit", OK, figures=figures)]
    told = proofs.report(about(), checks, complete=True)
    made = proofs.table([told], {"c": {"1" * 12}})
    assert "| passed; incomplete: without jit |" in made
    assert made.endswith(
        "|\n\n`without jit` of `c` on NVIDIA H100: 326 of 4,274 operators were tried (cut off: "
        "fourier); 3 of them need the driver's compiler: `fa` (2), `c`.\n"
    )


@pytest.mark.parametrize(
    ("checks", "complete", "said"),
    [
        ([*needed(), Check("b", SKIPPED, "x")], True, "passed; skipped: b"),
        ([*needed(), Check("b", INCOMPLETE, "x")], True, "passed; incomplete: b"),
        ([*needed(), Check("b", FAILED, "x")], True, "failed: b"),
        ([*needed()], False, "incomplete; cut off"),
        (needed(but="compared"), True, "incomplete; missing: compared"),
    ],
)
def test_the_table_hides_nothing(checks: list[Check], said: str, *, complete: bool) -> None:
    told = proofs.report(about(), checks, complete=complete)
    assert f"| {said} |" in proofs.table([told], {"c": {"1" * 12}})


def test_a_page_without_a_place_for_the_table() -> None:
    with pytest.raises(ValueError, match="proofs: begin"):
        proofs.written("no marks", [], {})


def test_what_a_second_pull_is_measured_of_is_kept(tmp_path: Path) -> None:
    def blob(value: dict[str, Any]) -> str:
        text = json.dumps(value).encode()
        digest = oci.digest_of(text)
        (tmp_path / "blobs" / "sha256" / digest.removeprefix("sha256:")).write_bytes(text)
        return digest

    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    history = [{"created_by": "RUN x"}, {"created_by": "ENV", "empty_layer": True}]
    config = blob({"config": {"Labels": {repull.LOCK: "one"}}, "history": history})
    layers = [{"digest": "sha256:1", "size": 5}]
    manifest = blob({"config": {"digest": config}, "layers": layers})
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [{"digest": manifest}]}))
    (tmp_path / "locks" / "one").mkdir(parents=True)
    (tmp_path / "locks" / "one" / "torch.txt").write_text("torch==1")
    told = repull.described(tmp_path, [tmp_path / "none", tmp_path / "locks"])
    assert (told["id"], told["manifest"], told["lock"]) == (config, manifest, "one")
    assert told["layers"] == [{"made_by": "RUN x", "bytes": 5, "digest": "sha256:1"}]
    assert told["lock_sha256"] == {"torch.txt": hashlib.sha256(b"torch==1").hexdigest()}
    assert repull.lock_digests("one", [tmp_path]) == {}

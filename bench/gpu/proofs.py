"""What a proof says, and the table of those that are committed.

    python3 -m bench.gpu.proofs [--check]

Writes the table in docs/proofs.md from images/proofs/*.json; --check exits 1 where it is another.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "images" / "proofs"
PAGE = ROOT / "docs" / "proofs.md"
BEGIN, END = "<!-- proofs: begin -->", "<!-- proofs: end -->"
SCHEMA = 1
OK, FAILED, SKIPPED, INCOMPLETE = "ok", "failed", "skipped", "incomplete"
PASSED = "passed"
NEEDED = ("server cold", "operators", "compared")  # without one of these nothing is shown

_NUMBER = re.compile(r" \d+\b")  # of an operator: a size, a version
_HASH = re.compile(r"[0-9a-f]{64}")
# An operator that this PyTorch or this vLLM does not have, or not for these numbers or this GPU.
_ABSENT = re.compile(
    r"^(ImportError|ModuleNotFoundError|AttributeError|NotImplementedError)\b"
    r"|not? (currently )?support|[Uu]nsupported|NOT_SUPPORTED|not implemented|not compiled"
    r"|supported only on"
    r"|No viable backend|No available kernel|expected .* to be a floating",
    re.IGNORECASE,
)
# In a log: code for this GPU is missing, or was to be made of PTX and could not.
_MISSING = re.compile(
    r"no kernel image|kernel image is invalid|CUDA_ERROR_NO_BINARY_FOR_GPU"
    r"|invalid device function|cudaErrorNoKernelImage"
    r"|PTX JIT compil|unsupported toolchain|CUDA_ERROR_INVALID_PTX|CUDA_ERROR_JIT_COMPILER"
)


@dataclass(frozen=True)
class Check:
    """One of a proof's, with what was measured."""

    name: str
    status: str
    why: str = ""
    seconds: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """As JSON has it: the result reads "skipped: why" where there is a why."""
        result = f"{self.status}: {self.why}" if self.why and self.status != OK else self.status
        told: dict[str, Any] = {"result": result, "seconds": round(self.seconds, 1)}
        return {
            **told,
            **({"note": self.why} if self.why and self.status == OK else {}),
            **self.figures,
        }


def report(about: Mapping[str, Any], checks: Sequence[Check], *, complete: bool) -> dict[str, Any]:
    """The whole of a proof."""
    told = {check.name: check.told() for check in checks}
    state = state_of(told, complete=complete)
    return {
        "schema": SCHEMA,
        "passed": state == PASSED,
        "state": state,
        "missing": missing(told),
        "complete": complete,
        **about,
        **({"thin_to_whole": ratios} if (ratios := thin_to_whole(about, told)) else {}),
        "checks": told,
    }


def thin_to_whole(
    about: Mapping[str, Any], checks: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Thin's figure divided by whole's, wherever both were measured and are counted alike."""
    image, whole_image = about.get("image", {}), about.get("whole", {})
    alike = ("files" in image) == ("files" in whole_image)  # a folder has more bytes than a SIF
    pairs = [("disk_bytes", image, whole_image, "bytes")] if alike else []
    for check, names in (
        ("server cold", ("health_s", "first_token_s", "peak_pss_bytes", "read_bytes")),
        ("import", ("import_s",)),
    ):
        thin, whole = checks.get(check, {}), checks.get(f"whole {check}", {})
        pairs += [(name, thin, whole, name) for name in names]
    return {
        told: round(thin[name] / whole[name], 3)
        for told, thin, whole, name in pairs
        if thin.get(name) and whole.get(name)
    }


def state_of(checks: Mapping[str, Mapping[str, Any]], *, complete: bool) -> str:
    """Failed where a check did; passed where all was tried and what a proof needs is ok."""
    if any(status(check) == FAILED for check in checks.values()):
        return FAILED
    return PASSED if complete and not missing(checks) else INCOMPLETE


def missing(checks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a proof needs and this one does not have."""
    return [name for name in NEEDED if name not in checks or status(checks[name]) != OK]


def status(check: Mapping[str, Any]) -> str:
    """A check's, of how `Check.told` tells it; older proofs call ok what was cut off."""
    told = str(check["result"]).partition(":")[0]
    return INCOMPLETE if told == OK and check.get("groups_cut_off") else told


@dataclass(frozen=True)
class Kept:
    """What an earlier run has told."""

    checks: Sequence[Check] = ()
    about: Mapping[str, Any] = field(default_factory=dict)  # when that was, and at what commit
    why: str = ""  # nothing is kept


def kept(file: Path, about: Mapping[str, Any]) -> Kept:
    """The checks in a file, if they are of the same image and, as far as it tells, of this host."""
    if not file.exists():
        return Kept()
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        for name in ("cell", "engine", "settings", "gpu", "machine"):
            if told[name] != about[name]:
                return Kept(why=f"its {name} is another")
        if not content(about) or content(told) != content(about):
            return Kept(why="its image is another, or has no label that says which it is")
        checks = [_read(name, check) for name, check in told["checks"].items()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return Kept(why=f"it is no proof: {type(error).__name__}: {error}")
    return Kept(checks, {"date": told["date"], "commit": told["commit"]})


def _read(name: str, told: Mapping[str, Any]) -> Check:
    """The check that is told so."""
    result, _, why = str(told["result"]).partition(": ")
    figures = {key: what for key, what in told.items() if key not in {"result", "seconds", "note"}}
    return Check(name, result, why or told.get("note", ""), float(told["seconds"]), figures)


def slug(gpu: str) -> str:
    """A GPU's name as matrix.yaml would have it: "NVIDIA H100 80GB HBM3" is "h100"."""
    words = [word for word in re.split(r"[\s_-]+", gpu.lower()) if word]
    words = [word for word in words if word not in {"nvidia", "tesla", "geforce", "quadro"}]
    name = ""
    for word in words:
        name += word
        if any(letter.isdigit() for letter in word):
            break
    return re.sub(r"[^a-z0-9]", "", name) or "unknown"


def absent(told: str) -> bool:
    """Whether an operator was not there, rather than broken."""
    if _HASH.fullmatch(told) or _MISSING.search(told):
        return False
    return bool(_ABSENT.search(told))


def broken(told: str) -> bool:
    """Whether an operator was there and gave nothing."""
    return not _HASH.fullmatch(told) and not absent(told)


def alone(
    thin: Mapping[str, str], beside: Mapping[str, Any] | None = None, *, missed: Sequence[str] = ()
) -> Check:
    """What can be said of thin's operators; `beside` is what their comparison found, if it ran.

    What whole lacks as well is no fault of thin. Without a comparison what is broken fails, and
    what says that it is not there is unproven: missing code may say so, too. `missed` groups had
    no time.
    """
    failed = {name: told for name, told in thin.items() if broken(told)}
    gone = {name: told for name, told in thin.items() if absent(told)}
    in_neither = (beside or {}).get("in_neither", {})
    own = {name: told for name, told in failed.items() if name not in in_neither}
    unproven = sorted(name for name in gone if name not in in_neither)
    figures = {
        "operators": len(thin),
        "gave_a_result": sum(bool(_HASH.fullmatch(told)) for told in thin.values()),
        "not_there": gone,
        "unproven": unproven,
        "broken": failed,
    }
    if own:
        return Check("operators", FAILED, _named("broken", own), figures=figures)
    if not figures["gave_a_result"]:
        return Check("operators", FAILED, "none gave a result", figures=figures)
    words = [f"no time for {', '.join(missed)}"] if missed else []
    words += [_named("unproven", dict.fromkeys(unproven))] if unproven else []
    if words:
        return Check("operators", INCOMPLETE, "; ".join(words), figures=figures)
    why = _named("broken in whole, too", failed) if failed else ""
    return Check("operators", OK, why, figures=figures)


def compared(
    thin: Mapping[str, str],
    whole: Mapping[str, str],
    vary: Sequence[str],
    *,
    rounds: int = 2,
    cut: bool = False,
) -> Check:
    """Thin against whole: every bit, wherever whole against whole is the same.

    A result that whole has and thin lacks is a difference; not where thin had no time for all
    (`cut`). Then, or where whole has not what thin has, the comparison is incomplete.
    """
    varying = set(vary)
    both = [name for name in whole if name in thin]
    hashed = [name for name in both if _HASH.fullmatch(whole[name])]
    differ = {
        name: [whole[name], thin[name]]
        for name in hashed
        if thin[name] != whole[name] and (name not in varying or not _HASH.fullmatch(thin[name]))
    }
    lacks = sorted(n for n, told in whole.items() if n not in thin and _HASH.fullmatch(told))
    same = [name for name in hashed if thin[name] == whole[name]]
    only_in_thin = sorted(n for n in both if n not in hashed and _HASH.fullmatch(thin[n]))
    lost = sorted(set(whole) ^ set(thin))
    figures = {
        "operators": len(both),
        "identical": len(same),
        "differ": differ,
        "lacking_in_thin": lacks,
        "vary_in_whole": sorted(name for name in varying if name in thin),
        "in_neither": {
            name: thin[name]
            for name in both
            if name not in hashed and not _HASH.fullmatch(thin[name])
        },
        "only_in_thin": only_in_thin,
        "not_compared": {"count": len(lost), "such_as": lost[:10]},
        "runs_of_whole": rounds,
    }
    words = [_named("differ", differ)] if differ else []
    words += [_named("lacking in thin", dict.fromkeys(lacks))] if lacks and not cut else []
    if words:
        return Check("compared", FAILED, "; ".join(words), figures=figures)
    if not same:
        return Check("compared", FAILED, "nothing was compared", figures=figures)
    if unmet := sorted({*lost, *only_in_thin}):
        words = [_named("not compared", dict.fromkeys(unmet))]
    elif 2 * len(same) <= len(both):  # what varies or is nowhere shows little
        words = [f"only {len(same)} of {len(both)} are identical"]
    return Check("compared", INCOMPLETE if words else OK, "; ".join(words), figures=figures)


def unlike(thin: Mapping[str, str], whole: Mapping[str, str]) -> str:
    """Why two runs cannot be compared; "" where they can."""
    for name in ("torch", "cuda", "gpu"):
        if whole.get(name) != thin.get(name):
            return f"{name} is {whole.get(name)} there and {thin.get(name)} here"
    return ""


def without_jit(thin: Mapping[str, str], bare: Mapping[str, str]) -> list[str]:
    """Operators that give a result only where the driver may compile PTX."""
    return sorted(
        name
        for name, told in thin.items()
        if _HASH.fullmatch(told) and name in bare and not _HASH.fullmatch(bare[name])
    )


def missing_code(log: str) -> list[str]:
    """Lines of a log that speak of code that is not there."""
    return [line.strip()[:300] for line in log.splitlines() if _MISSING.search(line)]


def _named(what: str, names: Mapping[str, Any]) -> str:
    some = list(names)
    more = f" and {len(some) - 5} more" if len(some) > 5 else ""
    return f"{len(some)} {what}: {', '.join(some[:5])}{more}"


def content(proof: Mapping[str, Any]) -> str | None:
    """io.imgbuild.content of the image that was proven, where it is known."""
    told: str | None = proof.get("image", {}).get("content")
    return told


def planned(proofs: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """What io.imgbuild.content may be now, by cell: on each base, from each kind of file."""
    # Here, since a host with a GPU has no packages.
    from builder import matrix  # noqa: PLC0415
    from builder.errors import UserError  # noqa: PLC0415
    from builder.prepare import Workbench  # noqa: PLC0415
    from builder.project import Project  # noqa: PLC0415
    from builder.render import DEFINITION, DOCKERFILE  # noqa: PLC0415

    project = Project.find(ROOT / "matrix.yaml")
    loaded = matrix.load(project.matrix_file)
    bench, found = Workbench(project, loaded), dict[str, set[str]]()
    for name in sorted({str(proof["cell"]) for proof in proofs}):
        try:
            namings = bench.namings(matrix.cell(loaded, name), DOCKERFILE, DEFINITION)
        except UserError:  # no cell any more
            namings = ()
        found[name] = {naming.content for naming in namings}
    return found


def _of_which(proof: Mapping[str, Any], now: Mapping[str, set[str]]) -> str:
    """The commit, and whether another image comes of that cell now."""
    if not (built := content(proof)):
        return f"of an unknown build: {proof['commit']}"
    former = built not in now.get(proof["cell"], ())
    return f"of a former build: {proof['commit']}" if former else proof["commit"]


def table(proofs: Sequence[Mapping[str, Any]], now: Mapping[str, set[str]]) -> str:
    """Markdown, a row a proof; `now` as `planned` tells it."""
    if not proofs:
        return "No proof is committed yet.\n"
    head = ("cell", "GPU", "driver", "result", "tokens", "cold, s", "warm, s", "operators", "date")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    proofs = sorted(proofs, key=lambda p: (str(p["cell"]), str(p["gpu"]["name"])))
    for proof in proofs:
        checks = proof["checks"]
        cold, warm = checks.get("server cold", {}), checks.get("server warm", {})
        cells = (
            f"`{proof['cell']}`",
            proof["gpu"]["name"],
            proof["gpu"]["driver"],
            _verdict(proof),
            cold.get("tokens", "-"),
            cold.get("first_token_s", "-"),
            warm.get("first_token_s", "-"),
            _operators(checks),
            f"{proof['date']}, {_of_which(proof, now)}",
        )
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    notes = [note for proof in proofs if (note := _without_jit(proof))]
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in notes)


def _without_jit(proof: Mapping[str, Any]) -> str:
    """How many operators were tried without the driver's compiler, and which need it."""
    checks = proof["checks"]
    bare = checks.get("without jit", {})
    if "need_jit" not in bare:
        return ""
    cut, needs = bare["groups_cut_off"], bare["need_jit"]
    said = (
        f"`without jit` of `{proof['cell']}` on {proof['gpu']['name']}: {bare['operators']:,} of "
    )
    said += f"{checks['operators']['operators']:,} operators were tried"
    said += f" (cut off: {', '.join(cut)})" if cut else ""
    families = Counter(_NUMBER.sub("", name) for name in needs)
    words = [f"`{name}`{f' ({count:,})' if count > 1 else ''}" for name, count in families.items()]
    named = f": {', '.join(words)}" if needs else ""
    said += f"; {f'{len(needs):,}' if needs else 'none'} of them need the driver's compiler"
    return f"{said}{named}."


def _verdict(proof: Mapping[str, Any]) -> str:
    """Judged anew: an older proof may have been judged more kindly."""
    checks = proof["checks"]
    state = state_of(checks, complete=proof["complete"])

    def named(wanted: str) -> list[str]:
        names = [name for name, check in checks.items() if status(check) == wanted]
        return [f"{wanted}: {', '.join(names)}"] if names else []

    words = named(FAILED) or [state]
    words += [] if proof["complete"] else ["cut off"]
    if state == INCOMPLETE:
        words += [f"missing: {', '.join(missing(checks))}"] if missing(checks) else []
    others = [*named(SKIPPED), *named(INCOMPLETE)]
    return "; ".join([*words, *others])


def _operators(checks: Mapping[str, Any]) -> str:
    compared_ = checks.get("compared", {})
    if "identical" in compared_:
        differ, vary = len(compared_["differ"]), len(compared_["vary_in_whole"])
        return f"{compared_['identical']} identical to whole, {differ} differ, {vary} vary in whole"
    ran = checks.get("operators", {})
    return f"{ran['gave_a_result']} ran, not compared" if "gave_a_result" in ran else "-"


def committed(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """All proofs below a folder."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]


def written(page: str, proofs: Sequence[Mapping[str, Any]], now: Mapping[str, set[str]]) -> str:
    """The page with its table made anew; raises ValueError where the marks are not there."""
    before, found, rest = page.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not (found and ends):
        raise ValueError(f"no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{table(proofs, now)}{END}{after}"


def main() -> int:
    """Write the table, or look whether it is that; returns the exit code."""
    page = PAGE.read_text(encoding="utf-8")
    proofs = committed()
    made = written(page, proofs, planned(proofs))
    if made == page:
        return 0
    if "--check" in sys.argv[1:]:
        sys.stderr.write("docs/proofs.md is of other proofs: run python3 -m bench.gpu.proofs\n")
        return 1
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

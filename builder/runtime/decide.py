"""From facts to settings: which variable gets which value here, and why. Pure: it touches nothing.

The rows come with the image (`tuning` of manifest.json, from matrix.yaml): what a row sets, the
rule that computes the value, the reason, the source and the measured effect. What the user has set
stays as it is; a number is rounded down; a rule without an answer leaves the framework its own way.
"""

from __future__ import annotations

from . import options, rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Sequence

    Facts = Dict[str, Any]
    Row = Dict[str, Any]

# Who sets one of these binds threads himself.
_BINDING = ("VLLM_CPU_OMP_THREADS_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
# What becomes of a row.
SET, YOURS, NEEDLESS, OFF = "set", "yours", "not needed", "off"
REFUSED = "refused"  # by the kernel, or for the sake of what somebody has set (`apply.place`)


def decide(
    facts: Facts,
    rows: Sequence[Row],
    environment: Mapping[str, str],
    arguments: Sequence[str],
    model: Facts | None = None,
    *,
    server: Row | None = None,
) -> List[Row]:
    """Each row with its `status`, and its `value` where that is "set"; in the order of `rows`.

    `arguments` are the server's, of which `server` says what its flags are called; `model` is what
    `weights.read` found of the weights that they name.
    """
    user = _User(environment, arguments, server or {})
    model = options.loaded(model or {}, user.server, arguments)
    made: Dict[int, Row] = {}
    # Flags first: they say how many GPUs are used, and the masks are for those.
    for index, row in sorted(enumerate(rows), key=lambda pair: pair[1]["kind"] != "flag"):
        status, value = _answer(row, facts, user, model)
        made[index] = {**row, "status": status, "value": value}
        if row["kind"] == "flag":
            facts = _used(facts, user, value)
    return [made[index] for index in range(len(rows))]


class _User:
    """What the user has said."""

    def __init__(
        self, environment: Mapping[str, str], arguments: Sequence[str], server: Row
    ) -> None:
        self.environment, self.arguments, self.server = environment, arguments, server

    def spreads(self) -> bool:
        """Whether he spreads the model in another way than over the first GPUs of this host."""
        return options.spread(self.server, self.arguments, self.environment)

    def ranks(self) -> str | None:
        """The tensor-parallel size that he asks for, in whatever way; None where he does not."""
        return options.size(self.server, self.arguments, self.environment)


def _answer(row: Row, facts: Facts, user: _User, model: Facts) -> tuple[str, str | None]:
    if not row.get("enabled", True):
        return OFF, None
    own = _users(row, user)
    if own is not None:
        return YOURS, own
    if _placed_otherwise(row, user):
        return NEEDLESS, None
    rule = rules.RULES.get(row["rule"])
    value = rule(facts, model) if rule else None
    return (NEEDLESS, None) if value is None else (SET, str(value))


def _users(row: Row, user: _User) -> str | None:
    """What the user has set of it, in whatever way."""
    kind, name = row["kind"], row["name"]
    if kind == "flag":
        return user.ranks()
    binding = user.server.get("binding_flags", ()) if kind in ("affinity", "memory") else ()
    for option in (*row.get("instead", ()), *binding):
        if (value := options.given([option], user.arguments)) is not None:
            return f"{option} {value}".rstrip()
    if kind == "env":
        return user.environment.get(name)
    names = _BINDING if kind == "affinity" else ()
    bound = next((n for n in names if user.environment.get(n)), None)
    return f"{bound}={user.environment[bound]}" if bound else None


def _placed_otherwise(row: Row, user: _User) -> bool:
    """Whether several ranks or hosts share the model in a way that the user has chosen."""
    if row["kind"] == "flag":
        return options.arranged(user.server, user.arguments, user.environment)
    if row["rule"] not in ("quota-cpus", "kv-cache-gib"):
        return False
    return user.spreads() or user.ranks() not in (None, "", "1")


def _used(facts: Facts, user: _User, size: str | None) -> Facts:
    """The facts with the GPUs alone that the server will use: of those it sees the first.

    One where nobody says how many, unless the server then takes all. All of them where that is not
    known: spread in another way, or of several kinds, which CUDA counts in another order than
    nvidia-smi.
    """
    devices = facts["gpus"]["devices"]
    alone = None if user.server.get("parallel_all") else 1
    ranks = alone if size is None else options.whole(size)
    other = user.spreads()
    alike = len({device.get("name") for device in devices}) == 1
    if not ranks or other or not alike or any(device["mig"] for device in devices):
        return facts
    return {**facts, "gpus": {**facts["gpus"], "devices": devices[:ranks]}}

"""Where weights and caches are, and pages for who maps them."""

from __future__ import annotations

from dataclasses import dataclass

from builder.deploy import checked, quantity
from builder.errors import UserError, quoted

MODELS = "/models"  # where a volume of models is mounted


@dataclass(frozen=True, kw_only=True)
class Model:
    """The weights: a name on a hub, or a folder of a claim."""

    name: str  # as the server is told
    claim: str | None = None  # None: it is fetched from a hub

    @classmethod
    def parse(cls, text: str) -> Model:
        """`org/name` or `pvc://CLAIM[/FOLDER]`."""
        scheme, _, rest = text.partition("://")
        if scheme != "pvc" or "://" not in text:
            return cls(name=checked.hub_model(text))
        claim, _, folder = rest.partition("/")
        folder = checked.folder(folder.rstrip("/"), "--model")
        path = f"{MODELS}/{folder}" if folder else MODELS
        return cls(name=path, claim=checked.object_name(claim, "--model"))


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Where compiled code and fetched weights stay: with the pod, or in a volume."""

    size: str
    claim: str | None = None  # one that is there, for all replicas
    per_replica: bool = False  # a claim of its own for each: a StatefulSet
    storage_class: str | None = None  # None: the cluster's default


@dataclass(frozen=True, kw_only=True)
class Hugepages:
    """Pages of one size that the container may map."""

    page: str  # 2Mi or 1Gi
    amount: str

    @classmethod
    def parse(cls, text: str, option: str = "--hugepages") -> Hugepages:
        """`2Mi=4Gi` or `1Gi=8Gi`, whole pages."""
        page, equals, amount = text.partition("=")
        if not equals or page not in ("2Mi", "1Gi"):
            raise UserError(
                f"{option}: {quoted(text)} is no amount of huge pages", hint="as 2Mi=4Gi or 1Gi=8Gi"
            )
        size = quantity.in_bytes(quantity.memory(amount, option))
        if size % quantity.in_bytes(page):
            raise UserError(f"{option}: {amount} is no multiple of {page}")
        return cls(page=page, amount=amount)

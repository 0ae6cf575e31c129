"""Image reference -> the digest that its tag has now, at a site's mirrors or where it is from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from builder.engines.registry import HUB, split
from builder.errors import BuildError
from builder.registry import credentials
from builder.registry.address import Address
from builder.registry.client import Registry
from builder.registry.connection import UnreachableError
from builder.site import Mirror


class Asking:
    """One round of questions: a registry that does not answer is not asked again."""

    def __init__(self, copies: Callable[[str], tuple[Mirror, ...]], *, ca: Path | None) -> None:
        self._copies = copies
        self._ca = ca
        self._silent: dict[str, str] = {}  # URL of a registry -> why it gives no answer

    def digest(self, reference: str) -> str:
        """The digest of a tag's manifest; of the index, where there are several platforms.

        The site's mirrors are asked first, as engines do. Raises BuildError in one line when
        nobody knows.
        """
        reasons: dict[str, None] = {}
        for address, repository, tag in self._places(reference):
            try:
                digest = self._ask(address, repository, tag)
            except BuildError as error:
                reasons[str(error)] = None
            else:
                if digest:
                    return digest
                reasons[f"{address.host}/{repository} has no {tag}"] = None
        raise BuildError("; ".join(reasons))

    def _ask(self, address: Address, repository: str, tag: str) -> str | None:
        if why := self._silent.get(address.url):
            raise BuildError(why)
        login = credentials.find(address.host, repository)
        try:
            return Registry(address, ca=self._ca, login=login).digest(repository, tag)
        except UnreachableError as error:
            self._silent[address.url] = str(error)
            raise

    def _places(self, reference: str) -> Iterator[tuple[Address, str, str]]:
        """Registry, repository and tag of each place, the site's own first."""
        for copy in self._copies(reference):
            # What may do without TLS need not, as in containers-registries.conf(5).
            for plain in (True, False) if copy.insecure else (False,):
                yield place(copy.reference, plain=plain)
        yield place(reference, plain=False)


def place(reference: str, *, plain: bool) -> tuple[Address, str, str]:
    """Registry, repository and tag of an image reference without a digest."""
    name, tag = re.fullmatch(r"(.+?)(?::([\w.-]+))?", reference, re.ASCII).groups()  # type: ignore[union-attr]
    host, repository = split(name)
    if host == HUB and "/" not in repository:  # Docker's own names
        repository = f"library/{repository}"
    return Address(host=host, path="", plain=plain), repository, tag or "latest"

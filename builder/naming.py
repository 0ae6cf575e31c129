"""The names that an image bears, whichever engine has it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Naming:
    """The names of one image: a repository, a tag that says the version, the cell, the content."""

    repository: str
    cell_id: str
    version_tag: str
    content: str  # 12 hex digits over all that decides the image
    extra: tuple[str, ...] = ()

    @property
    def content_reference(self) -> str:
        return f"{self.repository}:{self.cell_id}-{self.content}"

    def is_content(self, reference: str) -> bool:
        """Whether a reference, without a registry's name, is a content tag of this cell."""
        stem, _, content = reference.rpartition("-")
        own = stem == f"{self.repository}:{self.cell_id}"
        return own and re.fullmatch("[0-9a-f]{12}", content) is not None

    @property
    def references(self) -> tuple[str, ...]:
        """All tags, the most telling first. A tag of the user's may name a repository too."""
        extra = tuple(
            tag if ":" in tag.rpartition("/")[2] else f"{self.repository}:{tag}"
            for tag in self.extra
        )
        own = (f"{self.repository}:{self.version_tag}", f"{self.repository}:{self.cell_id}")
        return (*own, self.content_reference, *extra)

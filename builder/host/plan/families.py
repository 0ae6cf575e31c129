"""Families of distributions and what differs between them; facts in families.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from builder.facts import Fact, Text, version_key
from builder.host.check.subject import Subject

_FILE = Path(__file__).with_name("families.yaml")
_RELEASE = re.compile(r"\d{1,3}(\.\d{1,3})?", re.ASCII)


class Family(Fact):
    """One row of families.yaml."""

    ids: tuple[Text, ...]
    since: Text  # the oldest release that has these programs
    drivers_since: Text  # and the oldest that drivers and toolkits of today are packaged for
    manager: Text
    arguments: Text  # who passes them to the kernel: grub.d, grubby, pbl
    cuda: Text  # path of NVIDIA's repository
    driver: Text  # who installs it
    source: Text


class Families(Fact):
    """All of families.yaml."""

    families: dict[Text, Family]
    cuda: Text
    keyring: Text
    toolkit: Text


@cache
def table() -> Families:
    """The committed facts."""
    return Families.model_validate(yaml.safe_load(_FILE.read_text(encoding="utf-8")), strict=False)


@dataclass(frozen=True, kw_only=True)
class System:
    """The distribution that a plan is for."""

    name: str  # as os-release has it
    family: str
    facts: Family
    release: str  # "24.04", "9.6"
    arm: bool

    @property
    def major(self) -> str:
        return self.release.partition(".")[0]

    @property
    def has_drivers(self) -> bool:
        """Whether drivers are packaged for it; newer releases than are known here may have them."""
        return version_key(self.release) >= version_key(self.facts.drivers_since)

    @property
    def repository(self) -> str:
        """Address of NVIDIA's repository of drivers and toolkits."""
        path = self.facts.cuda.format(
            release=self.release.replace(".", ""),
            major=self.major,
            word=self.name.partition("-")[0],
        )
        return table().cuda.format(path=path, arch="sbsa" if self.arm else "x86_64")


def system_of(subject: Subject) -> System | None:
    """The host's, None where its family or release is none of these."""
    told = subject.release
    name, release = told.get("ID", ""), told.get("VERSION_ID", "")
    if not _RELEASE.fullmatch(release):
        return None
    for family, facts in table().families.items():
        if name in facts.ids and version_key(release) >= version_key(facts.since):
            return System(
                name=name, family=family, facts=facts, release=release, arm=subject.is_arm
            )
    return None

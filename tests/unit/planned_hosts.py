"""Plans of recorded hosts, for each family of distributions."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

from builder.facts import Matrix
from builder.host import check, plan
from builder.host.check import Host
from builder.host.plan import Plan, Wishes, wishes
from tests.unit.checked_hosts import HOSTS, Described, Gpus, unpack

TODAY = datetime.date(2026, 11, 27)
FAMILIES = {
    "ubuntu": ("ubuntu", "24.04"),
    "debian": ("debian", "12"),
    "rhel": ("rocky", "9.6"),
    "suse": ("sles", "15.7"),
}
_UNTUNED = HOSTS["untuned"]


def untuned(family: str) -> Described:
    """A host where nearly all is to be done, of a family."""
    return dataclasses.replace(
        _UNTUNED,
        os=FAMILIES[family],
        pages=(1024, 1024),
        cmdline="isolcpus=1-31 hugepagesz=2M hugepages=1024 quiet",
        toolkit="",
        programs=("dockerd",),
        cdi=None,
        gpus=dataclasses.replace(
            _UNTUNED.gpus or Gpus(),
            ecc="Disabled",
            power=("500.00 W", "700.00 W", "200.00 W", "700.00 W"),
        ),
        files={"/var/lib/kubelet/cpu_manager_state": '{"policyName":"none","checksum":1}'},
    )


def bare(family: str) -> Described:
    """A host without a driver, of a family."""
    return dataclasses.replace(HOSTS["no-driver"], os=FAMILIES[family], cdi=None)


WISHES = Wishes(
    pages=wishes.pages("2M=1024,1G=8"),
    power=400,
    toolkit="13.0",
    mig=wishes.mig("h100-80", "1x3g.40gb,4x1g.10gb", "0,1")[0],
    devices="0,1",
)


def made(host: Described, folder: Path, matrix: Matrix, wished: Wishes | None = None) -> Plan:
    """The plan of a host that is unpacked into a folder."""
    return of_folder(unpack(host.unpacked(), folder), matrix, wished)


def of_folder(folder: Path, matrix: Matrix, wished: Wishes | None = None) -> Plan:
    host = Host(folder)
    subject = check.subject_of(host, check.told(host), matrix, today=TODAY)
    return plan.make(subject, wished or Wishes())

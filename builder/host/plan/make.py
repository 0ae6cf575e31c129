"""From a host's rows and a user's wishes to a plan."""

from __future__ import annotations

from collections.abc import Callable

from builder.errors import UserError
from builder.host import check
from builder.host.check import memory
from builder.host.check.rows import Kind, Row, Setting, Status, shown
from builder.host.check.subject import Subject
from builder.host.plan import divided, families, settings, software, wishes
from builder.host.plan.families import System
from builder.host.plan.settings import OddError, Part, by_hand
from builder.host.plan.steps import Command, Left, Plan, Step
from builder.host.plan.wishes import Wishes

_PAGES = ("hugepages-2m", "hugepages-1g")
_NO_FAMILY = "no way is known here for this distribution"
_HANDS: dict[str, str] = {
    "kubelet": "a node is drained first; `imgbuild deploy k8s` writes the kubelet's configuration",
    "firmware": "a setting of the BIOS or the hypervisor, which no command of the host reaches",
}
# Those that ask for nothing but a new system, a new card or another slot.
_NO_SETTING = "no setting puts it right"


def make(subject: Subject, wished: Wishes) -> Plan:
    """The steps of a host; raises UserError for a wish that this host cannot grant."""
    maker = _Maker(subject, wished)
    for row in check.rows_of(subject):
        maker.add(row)
    system = maker.system
    return Plan(
        system=_named(subject),
        family=system.family if system else "",
        manager=system.facts.manager if system else "",
        steps=tuple({one.id: one for one in maker.steps}.values()),
        left=tuple(maker.left),
    )


def _named(subject: Subject) -> str:
    """As "ubuntu 24.04"."""
    text = " ".join(filter(None, map(subject.release.get, ("ID", "VERSION_ID"))))
    return shown(text, 40) or "unknown"


class _Maker:
    """Steps and what is left, row by row."""

    def __init__(self, subject: Subject, wished: Wishes) -> None:
        self.subject = subject
        self.wished = wished
        self.system = families.system_of(subject)
        self.steps: list[Step] = []
        self.left: list[Left] = []
        self.rows = {row.id: row for row in check.rows_of(subject)}

    def add(self, row: Row) -> None:
        chosen = self.wished.rows is None or row.id in self.wished.rows
        if self._wish(row) or not chosen:
            return
        if row.status not in (Status.ADVISED, Status.FAILED):
            return
        if not row.settings:
            self.left.append(by_hand(row, row.reason or _NO_SETTING))
        kinds: dict[Kind, list[Setting]] = {}
        for one in row.settings:
            kinds.setdefault(one.kind, []).append(one)
        for kind, found in kinds.items():
            name = row.id if len(kinds) == 1 else f"{row.id}-{kind}"
            try:
                self._kind(row, name, kind, tuple(found))
            except OddError as odd:
                why = f"{str(odd)[:60]!r} is nothing that such a setting has"
                self.left.append(by_hand(row, why, *found))

    def _kind(self, row: Row, name: str, kind: Kind, found: tuple[Setting, ...]) -> None:
        if kind in _HANDS:
            self.left.append(by_hand(row, _HANDS[kind], *found))
        elif kind == "package":
            self._package(row, found)
        elif kind in ("kernel-argument", "no-kernel-argument"):
            self._argument(row, name, kind, found)
        elif kind == "service":
            self.steps.append(settings.step(row, name, found, self._service(row, found)))
        else:
            self.steps.append(settings.step(row, name, found, self._part(name, kind, found)))

    def _part(self, name: str, kind: Kind, found: tuple[Setting, ...]) -> Part:
        if kind == "nvidia-smi":
            if found[0].name == "--power-limit":
                before = {gpu.index: gpu.power for gpu in self.subject.smi.gpus}
                return settings.power_limit(name, found, before)
            if found[0].name == "--ecc-config":
                return settings.ecc(name, found)
            raise OddError(found[0].name)
        if kind == "mount":
            return settings.mount(name, found, memory.shm_size(self.subject))
        parts: dict[str, Callable[[str, tuple[Setting, ...]], Part]] = {
            "sysctl": settings.sysctl,
            "sysfs": settings.sysfs,
            "ulimit": settings.ulimit,
        }
        return parts[kind](name, found)

    def _argument(self, row: Row, name: str, kind: Kind, found: tuple[Setting, ...]) -> None:
        if self.system is None:
            self.left.append(by_hand(row, _NO_FAMILY, *found))
            return
        words = settings.words_of(found)
        if row.id in _PAGES:
            # Arguments of both sizes stand in one row of words: which belongs to which is not told.
            other = self.rows[_PAGES[row.id == _PAGES[0]]]
            if other.status is Status.OK and other.now != "0":
                why = "the command line reserves pages of the other size, too, which are in use"
                self.left.append(by_hand(row, why, *found))
                return
            name = "hugepages-arguments"
        add, remove = ((), words) if kind == "no-kernel-argument" else (words, ())
        part = settings.arguments(name, self.system, add, tuple(dict.fromkeys(remove)))
        self.steps.append(settings.step(row, name, found, part))

    def _service(self, row: Row, found: tuple[Setting, ...]) -> Part:
        (one,) = found
        if one.name not in ("nvidia-persistenced", "nvidia-fabricmanager", "nvidia-cdi-refresh"):
            raise OddError(one.name)
        if one.name != "nvidia-cdi-refresh":
            return Part(units=(f"{one.name}.service",))
        driver = self.subject.driver
        own = "/etc/cdi/nvidia.yaml"
        if row.now.startswith(own):
            # A list that somebody has made there stays beside that of the service, and is wrong.
            again = Command(
                check=f"grep -qF 'libcuda.so.{driver}' {own}",
                do=f"nvidia-ctk cdi generate --output={own}",
                writes=own,
            )
            return Part(commands=(again,), units=("nvidia-cdi-refresh.path",))
        if not driver:  # the path unit makes one when there is a driver
            return Part(units=("nvidia-cdi-refresh.path",))
        made = Command(
            check=f"grep -qsF 'libcuda.so.{driver}' /var/run/cdi/nvidia.yaml {own}",
            # Before toolkit 1.18 there is no such service.
            do=f"systemctl start nvidia-cdi-refresh.service"
            f" || nvidia-ctk cdi generate --output={own}",
            writes=own,
        )
        return Part(commands=(made,), units=("nvidia-cdi-refresh.path",))

    def _package(self, row: Row, found: tuple[Setting, ...]) -> None:
        if self.subject.wsl:
            self.left.append(by_hand(row, "Windows has the driver", *found))
            return
        if self.system is None:
            self.left.append(by_hand(row, _NO_FAMILY, *found))
            return
        (one,) = found
        if one.name == "nvidia-container-toolkit":
            self.steps += software.container_toolkit(row, self.system, self.subject)
        elif one.name in ("nvidia-driver", "nvidia-open"):
            if any(step.id == "driver" for step in self.steps):
                return  # the driver that is installed has the right module
            if not self.system.has_drivers:
                since = f"{self.system.family} {self.system.facts.drivers_since}"
                why = f"NVIDIA's drivers of today are packaged for {since} or newer"
                self.left.append(by_hand(row, why, *found))
                return
            branch = software.branch_for(self.subject, one.value)
            if branch is None:
                why = f"no branch that still gets fixes is {one.value or 'known'} or newer"
                if software.closed(self.subject):
                    why += " and knows GPUs before Turing"
                self.left.append(by_hand(row, why, *found))
            elif software.closed(self.subject) and not software.holds_branch(self.system):
                why = (
                    f"the newest driver knows no GPUs before Turing, and R{branch} is not held here"
                )
                self.left.append(by_hand(row, why, *found))
            else:
                self.steps += software.driver(row, self.system, self.subject, branch)
        else:
            raise OddError(one.name)

    def _wish(self, row: Row) -> bool:
        """Whether a wish takes the place of a row's advice."""
        wished = self.wished
        if row.id in _PAGES and wished.pages:
            if row.id == _PAGES[0] or not any(step.id == "hugepages" for step in self.steps):
                self._pages()
            return True
        if row.id == "power-limit" and wished.power is not None:
            self._power(row, wished.power)
            return True
        if row.id == "mig" and wished.mig is not None:
            divided.refuse(wished.mig, wished.devices, self.subject.smi.gpus)
            self.steps.append(divided.step(wished.mig, wished.devices, row.now))
            return True
        if row.id == "cuda-toolkit" and wished.toolkit:
            if self.system is None or not self.system.has_drivers:
                raise UserError(f"--cuda-toolkit: {_NO_FAMILY}", hint="install it by hand")
            has = any(step.id == "cuda-repository" for step in self.steps)
            self.steps += software.cuda_toolkit(
                wished.toolkit, self.system, self.subject, repository=not has
            )
            return True
        return False

    def _pages(self) -> None:
        wanted, there = self.wished.pages, memory.total(self.subject)
        if self.system is None:
            raise UserError(f"--hugepages: {_NO_FAMILY}", hint="set them by hand")
        asked = wishes.size(wanted)
        if there is not None and asked > there * 9 // 10:
            raise UserError(
                f"--hugepages: {asked / 2**30:.1f} GiB of {there / 2**30:.1f} GiB of memory",
                hint="leave a tenth of it to the system",
            )
        self.steps += _pages(self.system, wanted, self.subject)

    def _power(self, row: Row, watts: int) -> None:
        gpus = [gpu for gpu in self.subject.smi.gpus if gpu.power is not None]
        if not gpus:
            raise UserError(
                "--power-limit: nvidia-smi tells of no GPU whose limit can be set",
                hint="leave it out",
            )
        for gpu in gpus:
            least, most = gpu.power_least or 0.0, gpu.power_most or float("inf")
            if not least <= watts <= most:
                raise UserError(
                    f"--power-limit: {watts} W; GPU {gpu.index} takes {least:g} to {most:g} W",
                    hint=f"write one from {least:g} to {most:g}",
                )
        found = tuple(
            Setting(kind="nvidia-smi", name="--power-limit", value=f"{gpu.index}={watts}")
            for gpu in gpus
        )
        before = {gpu.index: gpu.power for gpu in gpus}
        part = settings.power_limit(row.id, found, before)
        step = settings.step(row, row.id, found, part)
        self.steps.append(Step(**{**step.__dict__, "advised": f"{watts} W, as asked for"}))


def _pages(system: System, wanted: tuple[tuple[str, int], ...], subject: Subject) -> list[Step]:
    """Static huge pages from boot on, when memory is in one piece."""
    old = tuple(
        one
        for one in subject.arguments
        if one.partition("=")[0] in ("hugepages", "hugepagesz", "default_hugepagesz")
    )
    words = {size: (f"hugepagesz={size}", f"hugepages={count}") for size, count in wanted}
    add = tuple(word for size, _ in wanted for word in words[size])
    later: tuple[Setting, ...] = ()
    if system.facts.arguments == "pbl" and len(wanted) > 1:
        # pbl knows an option once: 1 GiB from the command line, 2 MiB by tmpfiles.d at boot.
        add = words["1G"]
        pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
        later = (Setting(kind="sysfs", name=pool, value=str(dict(wanted)["2M"])),)
    remove = tuple(dict.fromkeys(old)) if old != add else ()
    part = settings.arguments("hugepages", system, add, remove)
    now = " ".join(old) or "none"
    first = Step(
        id="hugepages",
        row="hugepages-2m" if wanted[0][0] == "2M" else "hugepages-1g",
        kind="kernel-argument",
        title="static huge pages",
        now=now,
        advised=" ".join(add),
        why="they were asked for; no server in these images asks for them",
        source="Linux kernel documentation, hugetlbpage",
        settings=tuple(
            Setting(
                kind="kernel-argument", name=word.partition("=")[0], value=word.partition("=")[2]
            )
            for word in add
        ),
        files=part.files,
        commands=part.commands,
        reboot=True,
    )
    if not later:
        return [first]
    more = settings.sysfs("hugepages-2m", later)
    second = Step(
        **{
            **first.__dict__,
            "id": "hugepages-2m",
            "kind": "sysfs",
            "advised": f"{later[0].value} of 2 MiB",
            "settings": later,
            "files": more.files,
            "live": more.live,
            "commands": (),
            "reboot": False,
        }
    )
    return [second, first]

"""Files of an installed Python that can never run there: which rules name them, and why.

The rules are data (drops.json). `paths` are patterns of what a RECORD in site-packages says, as
`../../../bin/z3`; "*" also spans folders. What no RECORD names stays. A rule holds where all of
`where` is there, for GPUs of `sm_majors` only, where these are named. `code` leaves the file and
takes one kind of GPU code out of it. `check` is Python that has to work without what it names.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import re
from typing import NamedTuple

from . import records, sites

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence, Set, Tuple

_RULES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "drops.json")
_BELOW = ("", "lib/python3*/site-packages", "lib64/python3*/site-packages")


class Rule(NamedTuple):
    """Why some files, or some GPU code in them, are not needed."""

    name: str
    paths: Tuple[str, ...]
    why: str
    source: str
    check: str
    where: Tuple[str, ...] = ()
    sm_majors: Tuple[int, ...] = ()  # (): any GPU's
    code: str = ""  # "lto"; "": the whole file

    def serves(self, sms: Sequence[int]) -> bool:
        """Whether none of these GPUs is one that needs the files."""
        return not self.sm_majors or all(sm // 10 in self.sm_majors for sm in sms)


def rules() -> Tuple[Rule, ...]:
    """All, in the file's order."""
    with open(_RULES, encoding="utf-8") as file:
        rows: List[Dict[str, Any]] = json.load(file)
    return tuple(map(_rule, rows))


def _rule(row: Dict[str, Any]) -> Rule:
    fields: Dict[str, Any] = {
        key: tuple(one) if isinstance(one, list) else one for key, one in row.items()
    }
    return Rule(**fields)


def leave(name: str, root: str) -> None:
    """Remove a file, and the folders that it leaves empty: Python takes one for a package."""
    os.unlink(name)
    folder, stop = os.path.dirname(os.path.abspath(name)), os.path.abspath(root)
    while folder != stop:
        try:
            os.rmdir(folder)
        except OSError:
            return
        folder = os.path.dirname(folder)


class Places:
    """The rules that hold for these GPUs, asked by a file's name; `root` is what is slimmed."""

    def __init__(self, root: str, sms: Sequence[int]) -> None:
        self._root = os.path.abspath(root)
        self.sites = sites.Sites(root)
        self._rules = [
            (rule, re.compile("|".join(map(fnmatch.translate, rule.paths))))
            for rule in rules()
            if rule.serves(sms)
        ]
        self._any = re.compile("|".join(one.pattern for _, one in self._rules) or r"(?!)")
        self._there: Dict[Tuple[str, str], bool] = {}
        self._named: Set[str] | None = None

    def drops(self, name: str) -> Rule | None:
        """The rule by which a file goes."""
        rule = next((rule for rule in self._of(name) if not rule.code), None)
        return rule if rule and self.named(name) else None

    def named(self, name: str) -> bool:
        """Whether a package brought it, says a RECORD, or the source that it is bytecode of."""
        if self._named is None:
            self._named = {one for site in self.sites.all for one in records.named(site)}
        folder, _, last = name.rpartition("/")
        above, _, below = folder.rpartition("/")
        source = f"{above}/{last.partition('.')[0]}.py" if below == "__pycache__" else name
        return name in self._named or source in self._named

    def unlinked(self, name: str) -> Rule | None:
        """The rule by which a library's LTO IR goes."""
        return next((rule for rule in self._of(name) if rule.code == "lto"), None)

    def installed(self) -> List[Rule]:
        """Those of which everything but the files that they name is there, for their checks."""
        return [rule for rule, _ in self._rules if self._holds(rule, self._root)]

    def _of(self, name: str) -> List[Rule]:
        site, place = self.sites.place(name)
        if not site or not self._any.match(place):
            return []
        return [rule for rule, one in self._rules if one.match(place) and self._holds(rule, site)]

    def _holds(self, rule: Rule, site: str) -> bool:
        return all(self._is_there(site, name) for name in rule.where)

    def _is_there(self, site: str, name: str) -> bool:
        key = (site, name)
        if key not in self._there:
            self._there[key] = any(
                glob.glob(os.path.join(glob.escape(site), below, glob.escape(name)))
                for below in _BELOW
            )
        return self._there[key]

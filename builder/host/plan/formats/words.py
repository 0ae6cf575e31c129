"""Words that several formats write of a step."""

from __future__ import annotations

import shlex
import textwrap
from typing import Any

import yaml

from builder.host.plan.steps import Live, Plan, Step


def headline(step: Step) -> str:
    """As "swappiness: 60, advised 10 or less"."""
    return f"{step.title}: {step.now}, advised {step.advised}"


def comment(text: str) -> list[str]:
    """Lines that begin with a "#"; what the host has said has no line of its own."""
    return textwrap.wrap(
        " ".join(text.split()),
        98,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def left_lines(plan: Plan) -> list[str]:
    """What no step does, as comments."""
    lines = []
    for one in plan.left:
        setting = f" ({one.setting})" if one.setting else ""
        lines += comment(f"not here: {one.row}: {one.title}: {one.now}{setting}: {one.why}.")
        lines += comment(f"  by hand: {one.change}")
    return [*lines, ""] if lines else []


def without(steps: list[tuple[Step, str]]) -> list[str]:
    """Steps that a format cannot express, and why, as comments."""
    return [
        line
        for step, why in steps
        for line in comment(f"not expressible here: {step.id}: {headline(step)}: {why}.")
    ]


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are, and each value whole where it stands."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(data: Any) -> str:
    """A document of YAML."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def live_loop(live: Live, *, say: str) -> str:
    """Lines of a shell that write a value where it is not; `say` is printed for each such file."""
    value = shlex.quote(live.value)
    # The path is a pattern for the shell, made of signs that need no quotes (settings._SYSFS).
    return (
        f"for file in {live.path}; do\n"
        '    [ -e "$file" ] || continue\n'
        '    now=$(cat "$file")\n'
        f'    case " $now " in " "{value}" " | *"["{value}"]"*) continue ;; esac\n'
        f'    printf \'%s\\n\' {value} > "$file" && echo "{say} $file: $now -> "{value}\n'
        "done\n"
    )

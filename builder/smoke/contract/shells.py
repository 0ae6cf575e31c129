"""Whether a command goes through a shell, which keeps signals from what it starts."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SHELL = re.compile(r"(?:.*/)?(?:ba|rba|da|a|z|k|mk|c|tc|fi|ya)?sh")
_ENV = re.compile(r"(?:.*/)?env")
_ENV_SPLIT = re.compile(r"(?:-[a-zA-Z]*?S|--split-string=?)(.*)", re.DOTALL)


def is_shell(command: Sequence[str]) -> bool:
    """Whether it is a shell with a line to read, or starts one, as `tini -- sh -c LINE` does."""
    for index, word in enumerate(command):
        following = command[index + 1 :]
        if _SHELL.fullmatch(word) and _reads_a_line(following):
            return True
        if _ENV.fullmatch(word) and is_shell(_split_by_env(following)):
            return True
    return False


def _reads_a_line(arguments: Sequence[str]) -> bool:
    """Whether -c is among a shell's options, which end where its script's name stands."""
    words = iter(arguments)
    for word in words:
        if word in ("-", "--") or word[:1] not in ("-", "+"):
            return False
        if word in ("--rcfile", "--init-file"):
            next(words, None)
        elif not word.startswith("--"):
            if word.startswith("-") and "c" in word:
                return True
            if word[-1] in "oO":  # -o pipefail, -euxo pipefail
                next(words, None)
    return False


def _split_by_env(arguments: Sequence[str]) -> list[str]:
    """Words of the text that `env -S TEXT` splits; none where it splits nothing."""
    for index, word in enumerate(arguments):
        if match := _ENV_SPLIT.fullmatch(word):
            return [*match[1].split(), *" ".join(arguments[index + 1 :]).split()]
        if not word.startswith("-") and "=" not in word:
            break
    return []

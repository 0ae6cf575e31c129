"""Secrets, which stand in no file: it names where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder.deploy import checked
from builder.errors import UserError, quoted


@dataclass(frozen=True, kw_only=True)
class Secret:
    """A key of a Secret, by reference."""

    name: str
    key: str

    @classmethod
    def parse(cls, text: str, option: str, default_key: str = "") -> Secret:
        """`SECRET/KEY`; without a key the default's."""
        named, key = checked.secret(text, option, default_key)
        return cls(name=named, key=key)


def variable(text: str, option: str = "--secret-env") -> tuple[str, Secret]:
    """`NAME=SECRET/KEY`."""
    key, equals, place = text.partition("=")
    if not equals:
        raise UserError(f"{option}: {quoted(text)} names no Secret", hint="as NAME=SECRET/KEY")
    return checked.variable_name(key, option), Secret.parse(place, option)


def none_in(
    arguments: Sequence[str], given: Sequence[tuple[str, Secret]], *, one_pod: bool
) -> None:
    """Raises UserError for a server's key among its arguments that is none of those given.

    Where the kubelet has the arguments, it fills in what a Secret has.
    """
    hint = "--secret-env NAME=SECRET/KEY takes it from a Secret"
    if one_pod:
        references = {f"$({key})" for key, _ in given}
        checked.no_secrets(arguments, references, f"{hint}, and '$(NAME)' stands for it here")
    else:  # behind a shell; vLLM is what several hosts serve with, and has a variable
        checked.no_secrets(arguments, (), hint.replace("NAME", "VLLM_API_KEY"))

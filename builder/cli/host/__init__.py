"""`imgbuild host`: one thin module a verb, loaded when it is called."""

from __future__ import annotations

import importlib

import click

from builder.errors import UserError, nearest

# Verb -> what `imgbuild host --help` says of it. The module of a verb has its name.
VERBS = {
    "check": "Say what the host is set to, and what it should be.",
    "record": "Take along what `check` reads, for its --root.",
    "plan": "Print what would put the host right.",
    "mig": "Check how a GPU is divided, and say what divides it so.",
}


class _Verbs(click.Group):
    """Loads a verb's module only when that verb runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"builder.cli.host.{name}").command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            raise UserError(f"no command 'host {args[0]}'", hint=nearest(args[0], VERBS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command("host", cls=_Verbs)
def command() -> None:
    """Look at the host below the containers, and say what it should be set to.

    Nothing here changes the host.
    """

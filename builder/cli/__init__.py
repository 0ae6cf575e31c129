"""The command line: one thin module a verb, loaded when it is called."""

from __future__ import annotations

import gc
import importlib
import os
import re
import signal
import sys

import click

from builder import __version__
from builder.errors import ImgbuildError, UserError, nearest

# Verb -> what `imgbuild --help` says of it. The module of a verb has its name.
VERBS = {
    "matrix": "List what can be built, and what cannot and why.",
    "explain": "Say why a cell is what it is, with sources.",
    "plan": "Show the layers, settings and labels of a cell.",
    "lock": "Resolve and hash-lock the wheels of each cell.",
    "render": "Write images/<cell>/ from matrix.yaml, or check it.",
    "build": "Build the images of cells.",
    "sif": "Make Apptainer images of built ones.",
    "smoke": "Prove built images by serving a tiny model.",
    "push": "Push built images to a registry, under all their tags.",
    "pull": "Fetch a cell's image from a registry, as a SIF or an OCI archive.",
    "clean": "Remove images that no longer are what would be built.",
    "inspect": "Show where every megabyte of an image is, and for which GPUs.",
    "slim": "Leave out of libraries what a GPU does not load.",
    "deploy": "Write what serves a model on a cluster, a host or TPUs.",
    "tune": "Say what an image would set on this host, and why.",
    "host": "Check the host below the containers, and how its GPUs are divided.",
    "doctor": "Show engines, GPU and site as imgbuild sees them.",
}


class _Verbs(click.Group):
    """Loads a verb's module only when that verb runs: `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"builder.cli.{name}").command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            raise UserError(f"no command {args[0]!r}", hint=nearest(args[0], VERBS))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            # click's parser does not say of which verb an option without its value is.
            if error.ctx is None and ctx.invoked_subcommand:
                verb = ctx.invoked_subcommand
                command = self.get_command(ctx, verb)
                error.ctx = click.Context(command, parent=ctx, info_name=verb) if command else None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Show each command that runs.")
def imgbuild(*, verbose: bool) -> None:
    """LLM-inference images from one matrix.yaml, for Docker and Apptainer.

    A cell is <stack>-<framework>[-<gpu>][-<os>], as cuda13.0-vllm-h100. SEL picks cells by id or
    glob, several with commas; without it every published cell is taken.
    """
    if verbose:
        import logging  # noqa: PLC0415

        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


def _end(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def main() -> None:
    """Run, and turn every error into one line and an exit code."""
    gc.set_threshold(50_000, 50, 50)  # of a short process little is garbage: a tenth of its time
    # What a scheduler, a CI runner and a closed terminal send ends a build as cleanly as Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish stands
            signal.signal(number, _end)
    try:
        try:
            code = imgbuild.main(prog_name="imgbuild", standalone_mode=False)
        except BaseException as error:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # one Ctrl-C is enough
            code = _tell(error)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away. What was asked may not be done, and nobody is left to be told more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
    sys.exit(code)


def _tell(error: BaseException) -> int:
    """Say in one line what went wrong; returns the exit code."""
    match error:
        case ImgbuildError():
            for line in getattr(error, "tail", ()):
                click.echo(f"  | {line}", err=True)
            click.echo(getattr(error, "diff", ""), nl=False)
            click.echo(f"imgbuild: {error}", err=True)
            return error.exit_code
        case click.ClickException():
            click.echo(f"imgbuild: {_mistyped(error)}", err=True)
            return error.exit_code
        case KeyboardInterrupt() | click.Abort():
            click.echo("imgbuild: interrupted", err=True)
            return 130
        case BrokenPipeError():
            raise error
        case SystemExit():  # click's own, where a reader of the help goes away
            return int(error.code or 0)
        case OSError():
            # A full disk or a folder that cannot be written is the host's business, no defect.
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"imgbuild: {where}{error.strerror or error}", err=True)
            return 1
    return _defect(error)


_NO_CHOICE = re.compile(r"'(.*?)' is not one of")


def _mistyped(error: click.ClickException) -> UserError:
    """What click found wrong with the command line, with the nearest right answer."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    what, word, known = error.format_message().rstrip("."), "", list[str]()
    hint = f"see `{context.command_path if context else 'imgbuild'} --help`"
    match error:
        case click.NoSuchOption():
            word = error.option_name
            what = f"no option {word!r}"
            parameters = context.command.params if context else []
            known = [name for parameter in parameters for name in parameter.opts]
        case click.MissingParameter(param=click.Option() as option):
            what = f"{max(option.opts, key=len)} is required"
        case click.BadParameter(param=click.Option() as option):
            what = f"{max(option.opts, key=len)}: {error.message.rstrip('.')}"
            if isinstance(option.type, click.Choice) and (no := _NO_CHOICE.match(error.message)):
                word, known = no[1], list(option.type.choices)
                what = f"{max(option.opts, key=len)}: {word!r} is unknown"
                hint = f"known: {', '.join(known)}"
        case click.UsageError() if context and "extra argument" in what:
            options = {name for parameter in context.command.params for name in parameter.opts}
            hint = "cells are named with --matrix" if "--matrix" in options else hint
    near = nearest(word, known) if word else ""
    if near.startswith("did"):
        hint = near
    return UserError(what[:1].lower() + what[1:], hint=hint)


def _defect(error: BaseException) -> int:
    """An error that nobody foresaw: keep its traceback for a report, show one line."""
    import traceback  # noqa: PLC0415

    from builder.engines.host import state_dir  # noqa: PLC0415

    text = "".join(traceback.format_exception(error))
    file = "the lines above"
    try:
        folder = state_dir()  # there may be no home
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "defect.log").write_text(text, encoding="utf-8")
        file = str(folder / "defect.log")
    except (OSError, RuntimeError):
        click.echo(text, err=True)  # better on the terminal than lost
    click.echo(f"imgbuild: a defect of imgbuild: {error!r}; please report {file}", err=True)
    return 1

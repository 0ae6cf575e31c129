"""Jinja2 with StrictUndefined, what templates may call, and their mistakes as one line each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jinja2

from builder.errors import Place, UserError
from builder.model import Layer, Wheels


class Templates:
    """Found first in a project and then among the shipped ones; each is compiled once."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._jinja = jinja2.Environment(
            loader=jinja2.FileSystemLoader([str(folder) for folder in folders]),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            auto_reload=False,  # a run sees one state of each
            autoescape=False,  # noqa: S701 - the output is shell, quoted by the filters below
        )
        self._jinja.filters |= {
            "assigned": _assigned,
            "quoted_shell": shlex.quote,
            "worded": _worded,
        }
        self._jinja.globals |= {"run": _run, "post": _post, "wheels_of": _wheels_of}

    def render(self, name: str, context: Mapping[str, object]) -> str:
        """One template's text; raises UserError for a missing or broken one, with its line."""
        try:
            return self._jinja.get_template(name).render(context)
        except jinja2.TemplateNotFound as error:
            raise UserError(f"no template {error.name!r}", hint="see templates/") from None
        except jinja2.TemplateSyntaxError as error:
            place = Place(Path(error.filename or name), error.lineno)
            raise UserError(f"bad template: {error.message}", place=place) from None
        except jinja2.UndefinedError as error:
            place = _template_place(error, name)
            raise UserError(f"bad template: {error.message}", place=place) from None


def _template_place(error: jinja2.UndefinedError, name: str) -> Place:
    """The template line that failed: the innermost frame that is a template."""
    frame = error.__traceback__
    place = Place(Path(name))
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if file.endswith(".j2"):
            place = Place(Path(file), frame.tb_lineno)
        frame = frame.tb_next
    return place


def _commands(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            if line.strip():
                yield line.strip()


def _run(*texts: str) -> str:
    """Commands, one a line, as the body of one RUN; comments stay where they stand."""
    lines = list(_commands(texts))
    last = max(index for index, line in enumerate(lines) if not line.startswith("#"))
    joined = [
        line if line.startswith("#") or index == last else f"{line} && \\"
        for index, line in enumerate(lines)
    ]
    return "\n    ".join(joined)


def _post(*texts: str) -> str:
    """Commands, one a line, as lines of %post."""
    return "\n    ".join(_commands(texts))


_EXPANDED = re.compile(r'[\\"$`]')


def _quoted(value: str) -> str:
    """A value in quotes that Docker and a shell read alike, and neither expands.

    Within double quotes they disagree: Docker keeps the backslash of an escaped backtick.
    """
    return shlex.quote(value) if _EXPANDED.search(value) else f'"{value}"'


def _assigned(values: Mapping[str, str], without: str = "") -> list[str]:
    """Each but one as NAME="value"."""
    return [f"{name}={_quoted(value)}" for name, value in values.items() if name != without]


def _worded(values: Mapping[str, str]) -> list[str]:
    """Each as NAME value."""
    return [f"{name} {value}" for name, value in values.items()]


def _wheels_of(layer: Layer) -> Wheels:
    return next(step for step in layer.steps if isinstance(step, Wheels))

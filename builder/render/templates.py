"""Jinja2 with StrictUndefined, what templates may call, and their mistakes as one line each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import jinja2

from builder.errors import Place, UserError, not_utf8
from builder.model import Layer, Slim, Wheels


class Templates:
    """Found first in a project and then among the shipped ones; each is compiled once."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._loader = _Loader([str(folder) for folder in folders])
        self._jinja = jinja2.Environment(
            loader=self._loader,
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            auto_reload=False,  # a run sees one state of each
            autoescape=False,  # noqa: S701 - the output is shell, quoted by the filters below
        )
        self._jinja.filters |= {
            "assigned": _assigned,
            "quoted_shell": shlex.quote,
            "slim_of": _slim_of,
            "worded": _worded,
        }
        self._jinja.globals |= {"run": _run, "post": _post}
        self._jinja.globals |= {"wheels_of": _wheels_of, "slim_of": _slim_of}

    def render(self, name: str, context: Mapping[str, object]) -> str:
        """One template's text; raises UserError for a missing or broken one, with its line."""
        try:
            return self._jinja.get_template(name).render(context)
        except jinja2.TemplateNotFound as error:
            raise UserError(f"no template {error.name!r}", hint="see templates/") from None
        except jinja2.TemplateSyntaxError as error:
            place = Place(Path(error.filename or name), error.lineno)
            raise UserError(f"bad template: {error.message}", place=place) from None
        except (UserError, OSError):
            raise
        except Exception as error:  # a template may do whatever Python can
            place = _template_place(error, self._loader.file(name))
            what = (str(error) or type(error).__name__).partition("\n")[0]
            raise UserError(f"bad template: {what}", place=place) from None


class _Loader(jinja2.FileSystemLoader):
    """Tells of a file that is no text which it is."""

    def file(self, name: str) -> Path:
        """Where a template stands; only its name where it does not."""
        found = (file for folder in self.searchpath if (file := Path(folder, name)).is_file())
        return next(found, Path(name))

    def get_source(
        self, environment: jinja2.Environment, template: str
    ) -> tuple[str, str, Callable[[], bool]]:
        try:
            return super().get_source(environment, template)
        except UnicodeDecodeError as error:
            raise not_utf8(self.file(template), error) from None


def _template_place(error: Exception, file: Path) -> Place:
    """The template line that failed: the innermost frame that is a template."""
    frame = error.__traceback__
    place = Place(file)
    while frame is not None:
        name = frame.tb_frame.f_code.co_filename
        if name.endswith(".j2"):
            place = Place(Path(name), frame.tb_lineno)
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
    last = max((at for at, line in enumerate(lines) if not line.startswith("#")), default=-1)
    if last < 0:
        raise jinja2.TemplateRuntimeError("run() has no command")
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


def _slim_of(layer: Layer) -> Slim | None:
    return next((step for step in layer.steps if isinstance(step, Slim)), None)

"""An engine that a test scripts: it keeps what it was asked, and builds nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from builder.engines.base import (
    Archive,
    Base,
    BuildRequest,
    Config,
    Container,
    Image,
    OnLine,
    Run,
)
from builder.errors import BuildError
from builder.model import BaseKind
from builder.naming import Naming
from builder.proc import Result
from builder.site import Mirror


class FakeEngine:
    """`no_base` is what pulling raises, `on_build` what building does."""

    name = "fake"
    file = "Dockerfile"
    site_folder = "/run/site"
    wants_archives = False

    def __init__(
        self,
        *,
        no_base: BuildError | None = None,
        on_build: Callable[[BuildRequest, OnLine], None] = lambda _request, _on_line: None,
        calls: Mapping[str, Result] | None = None,
        container: Container | None = None,
        on_run: Callable[[Run], Result] | None = None,
        on_start: Callable[[Run], Container] | None = None,
        config: Config | None = None,
    ) -> None:
        self._no_base = no_base
        self._on_build = on_build
        self._calls = calls or {}
        self._container = container
        self._on_run = on_run
        self._on_start = on_start
        self._config = config
        self.images: dict[str, Image] = {}
        self.builds = 0

    def problem(self) -> str | None:
        return None

    def find(self, naming: Naming) -> Image | None:
        return self.images.get(naming.content_reference)

    def latest(self, naming: Naming) -> Image | None:
        return self.images.get(f"{naming.repository}:{naming.cell_id}")

    def held(self, naming: Naming) -> tuple[Image, ...]:
        held = {name: image for name, image in self.images.items() if naming.is_content(name)}
        return tuple(Image(reference=name, size=image.size) for name, image in held.items())

    def remove(self, image: Image, naming: Naming) -> None:
        target = self.images[image.reference]
        for name in {image.reference, *naming.references}:
            if self.images.get(name) is target:
                del self.images[name]

    def pull(self, reference: str, *, refresh: bool, copies: tuple[Mirror, ...] = ()) -> Base:
        if self._no_base:
            raise self._no_base
        return Base(kind=BaseKind.REGISTRY, name=reference, digest="sha256:00", source=reference)

    def load(self, archive: Archive) -> Base:
        return archive.base(archive.name)

    def build(self, request: BuildRequest, on_line: OnLine) -> Image:
        self.builds += 1
        self._on_build(request, on_line)
        image = Image(reference=request.naming.content_reference, size=1)
        self.images |= dict.fromkeys(request.naming.references, image)
        return image

    def tag(self, image: Image, naming: Naming) -> tuple[str, ...]:
        return naming.references

    def call(
        self, image: str, args: tuple[str, ...], env: Mapping[str, str], *, gpus: bool
    ) -> Result:
        return self._calls.get(args[0], Result(code=127, stdout="", stderr=f"no {args[0]}"))

    def run(self, run: Run) -> Result:
        if self._on_run is None:
            raise BuildError("nothing to run")
        return self._on_run(run)

    def config(self, image: str) -> Config:
        if self._config is None:
            raise BuildError(f"no {image}")
        return self._config

    def start(self, run: Run) -> Container:
        if self._on_start is not None:
            return self._on_start(run)
        if self._container is None:
            raise BuildError("nothing to start")
        return self._container


class FakeContainer:
    """A container whose server is somewhere else: at `url`."""

    def __init__(self, url: str, *, code: int = 0, ended: int | None = None) -> None:
        self.url = url
        self.removed = False
        self._code = code
        self._ended = ended

    def exit_code(self) -> int | None:
        return self._ended

    def log(self) -> str:
        return "the server's last words"

    def stop(self, timeout: float) -> int:
        return self._code

    def remove(self) -> None:
        self.removed = True


def folder_of(request: BuildRequest) -> Path:
    """The temporary folder that a context lies in."""
    return request.context.parent

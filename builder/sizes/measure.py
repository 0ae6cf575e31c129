"""Image -> its sizes, as a registry would hold it and package by package."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from builder.engines.base import Compression, Engine, Image, LayoutWriter, Progress
from builder.engines.oci import layout_manifest
from builder.errors import BuildError, Place, UserError, text_of
from builder.model import Cell
from builder.sizes import inside

_INSIDE = Path(inside.__file__).read_text(encoding="utf-8")


class Sizes(BaseModel):
    """Of one image, in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    compressed: int  # all layers, as zstd at the engine's level
    packages: dict[str, int]  # Python distribution -> its files, not compressed; others in brackets

    @classmethod
    def read(cls, file: Path) -> Sizes | None:
        """What was recorded, if anything was; raises UserError for what is no record."""
        hint = "`imgbuild build --record-sizes` writes it anew"
        try:
            return cls.model_validate_json(text_of(file, hint))
        except FileNotFoundError:
            return None
        except ValidationError:
            raise UserError("is no record of sizes", place=Place(file), hint=hint) from None

    def write(self, file: Path) -> None:
        """Record them."""
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.model_dump(), indent=2, sort_keys=True)
        file.write_text(f"{text}\n", encoding="utf-8")


def measure(cell: Cell, engine: Engine, image: Image, progress: Progress) -> Sizes:
    """Compress an image's layers as a push does, and ask it for its packages."""
    if not isinstance(engine, LayoutWriter):
        raise UserError(
            f"{engine.name}'s images have no layers to measure",
            hint="measure with --engine docker or buildah",
        )
    progress.step("measuring")
    with tempfile.TemporaryDirectory(prefix="imgbuild-sizes-") as scratch:
        folder = Path(scratch) / "layout"
        engine.layout(image, folder, Compression.ZSTD, progress.line)
        compressed = sum(layer["size"] for layer in layout_manifest(folder)["layers"])
    python = cell.build.wrap.python if cell.build.wrap else "python3"
    result = engine.call(image.reference, (python, "-c", _INSIDE), {}, gpus=False)
    if result.code:
        tail = result.stderr.splitlines()
        raise BuildError(f"{cell.id}: its packages cannot be measured", tail=tail)
    return Sizes(compressed=compressed, packages=json.loads(result.stdout.splitlines()[-1]))

"""What a host that has one image still loads for the next: bytes of layers that are not the same.

    python3 -m bench.repull OLD NEW [--engine docker]

OLD and NEW are images of one engine, as two releases of a framework on the same torch. Layers are
compressed as a push compresses them. Writes bench/results/repull.json: each layer of NEW, its
compressed bytes, and whether OLD has it; the peer is a pull of all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.stamp import ROOT, stamp
from builder import engines
from builder.engines.base import Compression, Image, LayoutWriter
from builder.engines.oci import layout_config, layout_manifest


def main() -> None:
    """Compress, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--engine", default="docker", choices=("docker", "buildah"))
    given = parser.parse_args()
    engine = engines.choose(given.engine)
    if not isinstance(engine, LayoutWriter):
        sys.exit(f"{given.engine}: its images have no layers to measure")
    there = {layer["digest"] for layer in layers(engine, given.old)}
    rows = layers(engine, given.new)
    for row in rows:
        row["there"] = row.pop("digest") in there
    size = sum(row["bytes"] for row in rows)
    loaded = sum(row["bytes"] for row in rows if not row["there"])
    result = {
        **stamp(),
        "old": given.old,
        "new": given.new,
        "engine": given.engine,
        "compression": Compression.ZSTD,
        "bytes": size,
        "bytes_loaded": loaded,
        "ratio": round(loaded / size, 3),
        "layers": rows,
    }
    target = ROOT / "bench" / "results" / "repull.json"
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.stderr.write(f"{loaded / 1e6:.0f} of {size / 1e6:.0f} MB: {result['ratio']}\n")


def layers(engine: LayoutWriter, reference: str) -> list[dict[str, Any]]:
    """An image's layers from the lowest, each with what made it."""
    with tempfile.TemporaryDirectory(prefix="imgbuild-repull-") as scratch:
        folder = Path(scratch) / "layout"
        engine.layout(
            Image(reference=reference, size=0), folder, Compression.ZSTD, lambda _line: None
        )
        manifest = layout_manifest(folder)
        history = json.loads(layout_config(folder))["history"]
    made = [step.get("created_by", "") for step in history if not step.get("empty_layer")]
    return [
        {"made_by": text[:72], "bytes": layer["size"], "digest": layer["digest"]}
        for text, layer in zip(made, manifest["layers"], strict=True)
    ]


if __name__ == "__main__":
    main()

"""What a host that has one image still loads for the next: bytes of layers that are not the same.

    python3 -m bench.repull OLD NEW [--engine docker] [--locks FOLDER ...]

OLD and NEW are images of one engine, as two releases of a framework on the same torch. Layers are
compressed as a push compresses them. Writes bench/results/repull.json: of both images what they are
(ids, torch, the digests of their locks, all layers), each layer of NEW with its compressed bytes
and whether OLD has it; the peer is a pull of all. --locks is where the locks of an image are that
this project does not have.

The OLD of the committed result is made so, in a copy of the project (0.31.0 is not in it):
  - In matrix.yaml, a release 0.31.0 of vLLM with a build `cu130` that is 0.32.0's with the versions
    replaced (`version`, `requirements: ["vllm==0.31.0"]`).
  - One more of that build's `constraints`: certifi==2026.10.18, which is what 0.32.0's lock has.
  - A row of `gpu_code_exceptions`: tokenspeed_mla/objs/*.so, below 10.0.
  - `imgbuild lock --matrix cuda13.0-vllm-h100@0.31.0`, then `imgbuild build` of that and of
    cuda13.0-vllm-h100 with one engine on the same base.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.stamp import ROOT, stamp
from builder import engines
from builder.engines.base import Compression, Engine, Image, LayoutWriter, Run
from builder.engines.oci import digest_of, layout_config, layout_manifest

LOCK = "io.imgbuild.lock"
_TORCH = "import importlib.metadata as m; print(m.version('torch'))"


def main() -> None:
    """Compress, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--engine", default="docker", choices=("docker", "buildah"))
    parser.add_argument("--locks", action="append", default=[], type=Path, metavar="FOLDER")
    given = parser.parse_args()
    engine = engines.choose(given.engine)
    if not isinstance(engine, LayoutWriter):
        sys.exit(f"{given.engine}: its images have no layers to measure")
    locks = [ROOT / "images" / "locks", *given.locks]
    images = {}
    for which in ("old", "new"):
        reference = getattr(given, which)
        with tempfile.TemporaryDirectory(prefix="imgbuild-repull-") as scratch:
            folder = Path(scratch) / "layout"
            image = Image(reference=reference, size=0)
            engine.layout(image, folder, Compression.ZSTD, lambda _line: None)
            images[which] = {**described(folder, locks), "torch": torch(engine, reference)}
    there = {layer["digest"] for layer in images["old"]["layers"]}
    rows = [{**row, "there": row["digest"] in there} for row in images["new"].pop("layers")]
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
        "images": images,
    }
    target = ROOT / "bench" / "results" / "repull.json"
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.stderr.write(f"{loaded / 1e6:.0f} of {size / 1e6:.0f} MB: {result['ratio']}\n")


def described(folder: Path, locks: Iterable[Path]) -> dict[str, Any]:
    """What an image is, of its layout: ids, its lock, its layers from the lowest."""
    text = layout_config(folder)
    config, manifest = json.loads(text), layout_manifest(folder)
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    closure = (config.get("config", {}).get("Labels") or {}).get(LOCK)
    made = [step.get("created_by", "") for step in config["history"] if not step.get("empty_layer")]
    return {
        "id": digest_of(text),
        "manifest": index["manifests"][0]["digest"],
        "lock": closure,
        "lock_sha256": lock_digests(closure, locks) if closure else {},
        "layers": [
            {"made_by": text[:72], "bytes": layer["size"], "digest": layer["digest"]}
            for text, layer in zip(made, manifest["layers"], strict=True)
        ],
    }


def lock_digests(closure: str, locks: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file of a lock, from the first folder that has it; none where none does."""
    for folder in locks:
        if files := sorted((folder / closure).glob("*.txt")):
            return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {}


def torch(engine: Engine, reference: str) -> str | None:
    """The version of torch that an image has; None where it has none."""
    run = Run(
        image=reference, args=("-c", _TORCH), entrypoint="/opt/venv/bin/python3", network=False
    )
    told = engine.run(run)
    return told.stdout.strip() if told.code == 0 else None


if __name__ == "__main__":
    main()

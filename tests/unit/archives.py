"""Makes layers and archives of images in memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from builder import zstd

Tree = dict[str, bytes | str | None]  # file, link's target (hard: "=target"), or a folder


def layer(tree: Tree) -> bytes:
    """A tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, what in tree.items():
            member = tarfile.TarInfo(path)
            if what is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(what, str):
                hard = what.startswith("=")
                member.type = tarfile.LNKTYPE if hard else tarfile.SYMTYPE
                member.linkname = what.removeprefix("=")
            else:
                member.size = len(what)
            archive.addfile(member, io.BytesIO(what) if isinstance(what, bytes) else None)
    return out.getvalue()


def files(tree: dict[str, bytes]) -> bytes:
    """A tar of files alone."""
    return layer(dict(tree))


def gzipped(tar: bytes) -> bytes:
    return gzip.compress(tar, mtime=0)


def zstd_of(tar: bytes) -> bytes:
    frame = zstd.compressor(3, 1)
    return frame.compress(tar) + frame.flush()


def oci(
    trees: Iterable[Tree],
    *,
    pack: Callable[[bytes], bytes] = gzipped,
    created: Iterable[str] = (),
    last: bool = True,
) -> bytes:
    """An archive as registries have images; `last`: what names the layers comes at the end."""
    blobs: dict[str, bytes] = {}
    tars = [layer(tree) for tree in trees]
    rows = [_blob(blobs, pack(tar)) for tar in tars]
    history: list[dict[str, object]] = [{"created_by": text} for text in created]
    history.insert(1, {"created_by": "ENV A=1", "empty_layer": True})
    config = {"rootfs": {"diff_ids": [_digest(tar) for tar in tars]}, "history": history}
    manifest = {"config": _blob(blobs, _json(config)), "layers": rows}
    index = {"manifests": [_blob(blobs, _json(manifest))]}
    named = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": _json(index)}
    return files({**blobs, **named} if last else {**named, **blobs})


def layout(folder: Path, trees: Iterable[Tree], pack: Callable[[bytes], bytes] = gzipped) -> None:
    """The same as a folder."""
    with tarfile.open(fileobj=io.BytesIO(oci(trees, pack=pack))) as archive:
        archive.extractall(folder, filter="data")


def docker(trees: Iterable[Tree], images: int = 1) -> bytes:
    """An archive as Docker of old and Podman write it: plain tars by names of their own."""
    tars = {f"{index:064x}.tar": layer(tree) for index, tree in enumerate(trees)}
    config = {"rootfs": {"diff_ids": [_digest(tar) for tar in tars.values()]}, "history": []}
    configs = [f"{index:064x}.json" for index in range(images)]
    rows = [{"Config": name, "RepoTags": [], "Layers": list(tars)} for name in configs]
    texts = {name: _json(config) for name in configs}
    return files({**texts, **tars, "manifest.json": _json(rows)})


def _blob(blobs: dict[str, bytes], content: bytes) -> dict[str, object]:
    digest = _digest(content)
    blobs[f"blobs/{digest.replace(':', '/')}"] = content
    return {"digest": digest, "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()

"""Local OCI images made by hand, the hostile ones included."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"

Entry = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"", **attributes: Any) -> Entry:
    return _entry(name, tarfile.REGTYPE, content, attributes)


def directory(name: str, **attributes: Any) -> Entry:
    return _entry(name, tarfile.DIRTYPE, b"", {"mode": 0o755} | attributes)


def symlink(name: str, target: str) -> Entry:
    return _entry(name, tarfile.SYMTYPE, b"", {"linkname": target})


def hard_link(name: str, target: str) -> Entry:
    return _entry(name, tarfile.LNKTYPE, b"", {"linkname": target})


def device(name: str) -> Entry:
    return _entry(name, tarfile.CHRTYPE, b"", {"devmajor": 1, "devminor": 1})


def fifo(name: str) -> Entry:
    return _entry(name, tarfile.FIFOTYPE, b"", {})


def _entry(name: str, kind: bytes, content: bytes, attributes: dict[str, Any]) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.mtime = kind, len(content), 0o644, 1_600_000_000
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def layer(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    """The entries as an uncompressed tar archive; names stay exactly as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Layout:
    """An OCI layout directory that is filled piece by piece."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Store ``data``; returns its descriptor."""
        (self.path / "blobs" / digest(data).replace(":", "/")).write_bytes(data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}

    def json(self, document: dict[str, Any], media_type: str, **more: Any) -> dict[str, Any]:
        return self.blob(json.dumps(document).encode(), media_type, **more)

    def image(self, layers: Iterable[bytes], pack: Any = gzip.compress, **more: Any) -> dict[str, Any]:
        """Store an image of these uncompressed layers; returns the descriptor of its manifest."""
        layers = list(layers)
        config = self.json(image_config(layers, **more.pop("config", {})), CONFIG)
        descriptors = [self.blob(pack(data), LAYER) for data in layers]
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors}
        return self.json(manifest, MANIFEST, **more)

    def index(self, *manifests: dict[str, Any]) -> Path:
        """Write the index that names ``manifests``; returns the layout."""
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
        return self.path


def image_config(layers: list[bytes], **runtime: Any) -> dict[str, Any]:
    return {
        "architecture": runtime.pop("architecture", ARCHITECTURE),
        "os": "linux",
        "config": runtime,
        "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
    }


def make_layout(path: Path, *layers: bytes, **config: Any) -> Path:
    """A layout with one image."""
    layout = Layout(path)
    return layout.index(layout.image(layers, config=config))


def make_saved(path: Path, *layers: bytes, tag: str = "demo:1", **config: Any) -> Path:
    """What ``docker save`` wrote before it wrote layouts: one archive, layers uncompressed, a repeated one linked."""
    document = json.dumps(image_config(list(layers), **config)).encode()
    name = f"{hashlib.sha256(document).hexdigest()}.json"
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": names}]).encode()
    members: list[Entry] = []
    for number, data in enumerate(layers):
        first = layers.index(data)
        members.append(file(names[number], data) if first == number else symlink(names[number], f"../{names[first]}"))
    path.write_bytes(layer(*members, file(name, document), file("manifest.json", manifest)))
    return path


def archive_of(layout: Path, path: Path) -> Path:
    """A layout directory as one tar archive."""
    with tarfile.open(path, "w") as archive:
        archive.add(layout, arcname=".")
    return path

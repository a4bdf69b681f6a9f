"""The layers of an image, verified and unpacked into a tree."""

from __future__ import annotations

import gzip
import hashlib
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

import zstandard

from cube.master.templates.blobs import Blobs
from cube.master.templates.layers import LayerWriter, Limits
from cube.master.templates.oci import Image, Layer
from cube.master.templates.tar import Readable, TarReader
from cube.master.templates.tree import Tree
from cube.model.errors import InvalidInput

_CHUNK = 1 << 18
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
#: Memory that a zstd frame may ask for; the format allows far more than any tool uses.
_ZSTD_WINDOW = 1 << 27
#: Tar headers and padding come on top of what a layer's files hold.
_OVERHEAD = 4096


def unpack(
    image: Image, blobs: Blobs, tree: Path, limits: Limits, stop: threading.Event, done: Callable[[int], None]
) -> dict[str, int]:
    """Apply all layers to the new directory ``tree``; ``done`` gets the number of finished ones.

    Returns how many things were left out, by reason. Raises ``InvalidInput`` for a damaged or forbidden image.
    """
    tree.mkdir(mode=0o755)
    with Tree(tree) as files:
        writer = LayerWriter(files, limits)
        for number, layer in enumerate(image.layers):
            done(number)
            _apply(layer, blobs, writer, stop)
    return dict(writer.skipped)


def _apply(layer: Layer, blobs: Blobs, writer: LayerWriter, stop: threading.Event) -> None:
    packed = _Hashed(blobs.open(layer.name))
    try:
        content = _Hashed(_decompressed(packed), writer.limits.content_bytes + writer.limits.members * _OVERHEAD)
        writer.apply(TarReader(content), stop)
        if stop.is_set():
            return
        content.drain()
        packed.drain()
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise InvalidInput(f"the layer {layer.name} of the image is damaged: {error}") from error
    content.check(layer.diff_id)
    if layer.digest is not None:
        packed.check(layer.digest)


def _decompressed(stream: _Hashed) -> Readable:
    """By what it begins with: media types are missing in old archives."""
    start = stream.peek(4)
    if start.startswith(_GZIP):
        return cast(Readable, gzip.GzipFile(fileobj=cast(IO[bytes], stream), mode="rb"))
    if start == _ZSTD:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        return cast(Readable, decompressor.stream_reader(cast(IO[bytes], stream), read_across_frames=True))
    return stream


class _Hashed:
    """A stream that hashes what passes, in full reads, and stops at ``limit`` bytes."""

    def __init__(self, stream: Readable, limit: int | None = None) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._limit = limit
        self._ahead = b""

    def read(self, size: int = -1, /) -> bytes:
        if size < 0 or size > _CHUNK:
            size = _CHUNK if size < 0 else size
        data = self._ahead[:size]
        self._ahead = self._ahead[size:]
        while len(data) < size and (more := self._take(size - len(data))):
            data += more
        return data

    def peek(self, size: int) -> bytes:
        """What comes next, without taking it."""
        self._ahead = self._ahead or self._take(size)
        return self._ahead

    def drain(self) -> None:
        """Read to the end: padding after the archive counts for the digest."""
        while self.read(_CHUNK):
            pass

    def check(self, digest: str) -> None:
        """Raise ``InvalidInput`` unless everything that passed has this digest."""
        found = f"sha256:{self._hash.hexdigest()}"
        if found != digest:
            raise InvalidInput(f"the image is damaged: a layer has the digest {found} instead of {digest}")

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        if self._limit is not None:
            self._limit -= len(data)
            if self._limit < 0:
                raise InvalidInput("the image is too large when unpacked")
        return data

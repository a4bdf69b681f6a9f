"""Whole images: layers are verified while they are unpacked."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from cube.master.templates.blobs import open_blobs
from cube.master.templates.layers import Limits
from cube.master.templates.oci import resolve
from cube.master.templates.unpack import unpack
from cube.model.errors import InvalidInput
from support.oci_images import Layout, file, image_config, layer, make_saved

pytestmark = pytest.mark.root

FILES = layer(file("a", b"x" * 100_000))


def unpacked(image: Path, tree: Path, limits: Limits | None = None) -> list[int]:
    seen: list[int] = []
    with open_blobs(image) as blobs:
        unpack(resolve(blobs), blobs, tree, limits or Limits(), threading.Event(), seen.append)
    return seen


def packed(path: Path, pack: Callable[[bytes], bytes], *layers: bytes) -> Path:
    layout = Layout(path)
    return layout.index(layout.image(layers or [FILES], pack))


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, zstandard.compress, lambda data: gzip.compress(data[:600]) + gzip.compress(data[600:])],
    ids=["plain", "gzip", "zstd", "gzip-in-two-members"],
)
def test_every_compression(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    unpacked(packed(tmp_path / "image", pack), tmp_path / "tree")
    assert (tmp_path / "tree/a").read_bytes() == b"x" * 100_000


def test_layers_come_in_order_and_are_counted(tmp_path: Path) -> None:
    image = packed(
        tmp_path / "image", gzip.compress, FILES, layer(file("a", b"second"), file("b")), layer(file(".wh.b"))
    )
    assert unpacked(image, tmp_path / "tree") == [0, 1, 2]
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["a"]
    assert (tmp_path / "tree/a").read_bytes() == b"second"


def test_a_saved_image_with_a_repeated_layer(tmp_path: Path) -> None:
    unpacked(make_saved(tmp_path / "saved.tar", FILES, layer(file("a", b"2")), FILES), tmp_path / "tree")
    assert (tmp_path / "tree/a").read_bytes() == b"x" * 100_000


def test_a_layer_that_was_exchanged(tmp_path: Path) -> None:
    image = packed(tmp_path / "image", gzip.compress)
    with open_blobs(image) as blobs:
        name = resolve(blobs).layers[0].name
    (image / name).write_bytes(gzip.compress(layer(file("a", b"evil"))))
    with pytest.raises(InvalidInput, match="damaged"):
        unpacked(image, tmp_path / "tree")


def test_a_packed_layer_with_another_digest_but_the_same_content(tmp_path: Path) -> None:
    image = packed(tmp_path / "image", gzip.compress)
    with open_blobs(image) as blobs:
        name = resolve(blobs).layers[0].name
    (image / name).write_bytes(gzip.compress(FILES, 1))
    with pytest.raises(InvalidInput, match="digest"):
        unpacked(image, tmp_path / "tree")


def test_a_content_with_another_digest_than_the_configuration_says(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    config = layout.json(image_config([layer(file("other"))]), "config")
    manifest = {"config": config, "layers": [layout.blob(gzip.compress(FILES), "layer")]}
    with pytest.raises(InvalidInput, match="digest"):
        unpacked(layout.index(layout.json(manifest, "manifest")), tmp_path / "tree")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: gzip.compress(data)[:-20],
        lambda data: zstandard.compress(data)[:-20],
        lambda data: gzip.compress(data)[:40] + b"\0" * 40,
        lambda data: data[:-50_000],
    ],
    ids=["gzip-cut", "zstd-cut", "gzip-garbage", "tar-cut"],
)
def test_damaged_layers(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(InvalidInput):
        unpacked(packed(tmp_path / "image", spoil), tmp_path / "tree")


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
@pytest.mark.parametrize("tail", [b"", b"\0" * (64 << 20)], ids=["in-a-file", "behind-the-archive"])
def test_a_bomb_stops_at_the_limit(tmp_path: Path, pack: Callable[[bytes], bytes], tail: bytes) -> None:
    big = layer(file("big", b"\0" * (64 << 20))) if not tail else FILES + tail
    image = packed(tmp_path / "image", pack, big)
    with pytest.raises(InvalidInput, match="too large"):
        unpacked(image, tmp_path / "tree", Limits(members=10, content_bytes=1 << 20))
    assert sum(path.stat().st_size for path in (tmp_path / "tree").iterdir()) <= 1 << 20


def test_zstd_frames_that_ask_for_much_memory(tmp_path: Path) -> None:
    settings = zstandard.ZstdCompressionParameters.from_level(3, window_log=30)
    wide = zstandard.ZstdCompressor(compression_params=settings)

    def pack(data: bytes) -> bytes:
        stream = wide.compressobj()  # without a known size the frame declares its whole window
        return stream.compress(data) + stream.flush()

    with pytest.raises(InvalidInput, match="damaged"):
        unpacked(packed(tmp_path / "image", pack), tmp_path / "tree")

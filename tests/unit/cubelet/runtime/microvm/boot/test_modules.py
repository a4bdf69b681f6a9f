"""Modules in an order in which they can be loaded."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
import zstandard

from cube.cubelet.runtime.microvm.boot import modules as module
from cube.cubelet.runtime.microvm.boot.modules import modules
from cube.model.errors import HostError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "WANTED", ("virtio_mmio", "virtio_blk", "erofs", "ext4"))
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    (tmp_path / "modules.dep").write_text(
        "kernel/virtio.ko: kernel/virtio_ring.ko\n"
        "kernel/virtio_ring.ko:\n"
        "kernel/virtio-mmio.ko: kernel/virtio.ko kernel/virtio_ring.ko\n"
        "kernel/virtio_blk.ko: kernel/virtio.ko kernel/virtio_ring.ko\n"
        "kernel/erofs.ko.xz: kernel/libcrc32c.ko.zst\n"
        "kernel/libcrc32c.ko.zst:\n"
    )
    (tmp_path / "kernel").mkdir()
    for name in ("virtio", "virtio_ring", "virtio-mmio", "virtio_blk"):
        (tmp_path / f"kernel/{name}.ko").write_text(name)
    (tmp_path / "kernel/erofs.ko.xz").write_bytes(lzma.compress(b"erofs"))
    (tmp_path / "kernel/libcrc32c.ko.zst").write_bytes(zstandard.compress(b"libcrc32c"))
    return tmp_path


def test_what_a_module_needs_comes_before_it_and_nothing_twice(tree: Path) -> None:
    names = [one.name for one in modules(tree)]
    assert names == ["virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "libcrc32c", "erofs"]


def test_packed_ones_are_unpacked(tree: Path) -> None:
    content = {one.name: one.content for one in modules(tree)}
    assert (content["erofs"], content["libcrc32c"], content["virtio_mmio"]) == (b"erofs", b"libcrc32c", b"virtio-mmio")


def test_a_kernel_that_lacks_one_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WANTED", ("virtio_mmio", "overlay"))
    with pytest.raises(HostError, match="no module overlay"):
        modules(tree)


def test_a_kernel_may_lack_a_balloon(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WANTED", ("virtio_balloon", "erofs"))
    assert [one.name for one in modules(tree)] == ["libcrc32c", "erofs"]


def test_a_directory_without_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be read"):
        modules(tmp_path)

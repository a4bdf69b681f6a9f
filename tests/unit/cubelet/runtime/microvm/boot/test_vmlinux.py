"""A kernel out of its package, however it is packed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable

import lz4.block  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cube.cubelet.runtime.microvm.boot.vmlinux import vmlinux
from cube.model.errors import HostError

KERNEL = b"\x7fELF" + bytes(range(256)) * 40_000
_BLOCK = 8 << 20


def packed_lz4(data: bytes) -> bytes:
    blocks = [lz4.block.compress(data[at : at + _BLOCK], store_size=False) for at in range(0, len(data), _BLOCK)]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(block)) + block for block in blocks)


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": packed_lz4,
    "zstd": zstandard.compress,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
}


def bz_image(payload: bytes, sectors: int = 27, before: int = 777) -> bytes:
    """The layout of Documentation/arch/x86/boot.rst, with the size that kernels put behind what is packed."""
    image = bytearray((sectors + 1) * 512 + before)
    image[0x1F1] = sectors
    image[0x202:0x206] = b"HdrS"
    payload += struct.pack("<I", len(KERNEL))
    struct.pack_into("<II", image, 0x248, before, len(payload))
    return bytes(image) + payload + b"what comes behind"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name: str) -> None:
    assert vmlinux(bz_image(FORMATS[name](KERNEL))) == KERNEL


def test_a_kernel_that_is_not_packed_is_taken_as_it_is() -> None:
    assert vmlinux(KERNEL) == KERNEL


def test_old_images_do_not_say_how_many_sectors_they_have() -> None:
    image = bytearray(bz_image(packed_lz4(KERNEL), sectors=4))
    image[0x1F1] = 0
    assert vmlinux(bytes(image)) == KERNEL


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (b"", "neither"),
        (b"MZ" + bytes(2000), "neither"),
        (bz_image(b"????" + bytes(100)), "3f3f3f3f"),
        (bz_image(packed_lz4(b"no kernel")), "not an ELF"),
        (bz_image(packed_lz4(KERNEL)[:5000]), "cannot be unpacked|not an ELF"),
        (bz_image(gzip.compress(KERNEL)[:5000]), "cannot be unpacked"),
    ],
)
def test_what_is_no_kernel_is_refused(image: bytes, text: str) -> None:
    with pytest.raises(HostError, match=text):
        vmlinux(image)


@given(
    st.sampled_from([b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"\x5d\x00\x00"]), st.binary(max_size=300)
)
def test_garbage_is_refused(magic: bytes, rest: bytes) -> None:
    with pytest.raises(HostError):
        vmlinux(bz_image(magic + rest))

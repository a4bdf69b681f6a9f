"""The kernel itself, out of the file that a distribution ships.

A ``bzImage`` unpacks itself at every boot. Booted from what is packed in it, a kernel enters at its own entry point for
virtual machines (PVH) and no boot loader's code runs.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable

import lz4.block  # type: ignore[import-untyped]
import zstandard

from cube.model.errors import HostError

ELF = b"\x7fELF"
#: Documentation/arch/x86/boot.rst: offsets in the setup header.
_SETUP_SECTORS = 0x1F1
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_PAYLOAD = struct.Struct("<II")
_PAYLOAD_AT = 0x248
_SECTOR = 512
_U32 = struct.Struct("<I")
#: The legacy format of LZ4 packs so much at a time.
_LZ4_BLOCK = 8 * 1024 * 1024
#: No kernel is longer.
_MOST = 512 * 1024 * 1024


def vmlinux(image: bytes) -> bytes:
    """The ELF file in a ``bzImage``, or the given file when it is one already. Raises ``HostError``."""
    if image.startswith(ELF):
        return image
    if image[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC:
        raise HostError("the kernel is neither an ELF file nor a bzImage")
    sectors = image[_SETUP_SECTORS] or 4
    offset, length = _PAYLOAD.unpack_from(image, _PAYLOAD_AT)
    start = (sectors + 1) * _SECTOR + offset
    payload = image[start : start + length]
    try:
        unpacked = _unpack(payload)
    except (ValueError, OSError, EOFError, RuntimeError, struct.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise HostError(f"the kernel cannot be unpacked: {error}") from error
    if not unpacked.startswith(ELF):
        raise HostError("what is packed in the kernel is not an ELF file")
    return unpacked


def _unpack(payload: bytes) -> bytes:
    for magic, unpack in _FORMATS.items():
        if payload.startswith(magic):
            # The size of what it unpacks to follows, whatever the format.
            return unpack(payload[: -_U32.size])
    raise ValueError(f"it is packed in a format that begins with {payload[:4].hex()}")


def _lz4(data: bytes) -> bytes:
    """Blocks, each after its length; a kernel's own decoder stops at the end of the data."""
    at, parts, size = 4, [], 0
    while at + _U32.size <= len(data):
        (length,) = _U32.unpack_from(data, at)
        at += _U32.size
        if length == 0 or length > len(data) - at:
            break
        part = lz4.block.decompress(data[at : at + length], uncompressed_size=_LZ4_BLOCK)
        at += length
        size += len(part)
        if size > _MOST:
            raise ValueError("it is too long")
        parts.append(part)
    return b"".join(parts)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


_FORMATS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x02\x21\x4c\x18": _lz4,
    b"\x28\xb5\x2f\xfd": _zstd,
    b"\x1f\x8b": gzip.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
    b"\x5d\x00\x00": lambda data: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(data),
    b"BZh": bz2.decompress,
}

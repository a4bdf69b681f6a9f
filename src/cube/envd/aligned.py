"""Memory that begins with a page, as direct writes want it."""

from __future__ import annotations

import ctypes
import mmap

from cube.envd.guest import Buffer

PAGE = mmap.PAGESIZE


def aligned_buffer(size: int) -> bytearray:
    """So many zeros that begin with a page.

    An array that is shortened keeps its memory: at the front it begins later from then on, at the end it stops earlier
    (CPython, as long as more than half is left).
    """
    buffer = bytearray(size + PAGE)
    del buffer[: -_address(buffer) % PAGE]
    del buffer[size:]
    return buffer


def is_aligned(data: Buffer) -> bool:
    """Whether it begins with a page and ends with one. Said of writable memory alone."""
    with memoryview(data) as view:
        return not view.readonly and len(view) % PAGE == 0 and _address(view) % PAGE == 0


def _address(data: bytearray | memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(data))

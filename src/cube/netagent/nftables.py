"""Run nftables rules through libnftables, the library behind the `nft` program: one transaction, no process started."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

from cube.model.errors import HostError

_LIBRARY: Final = "libnftables.so.1"


def run(commands: str) -> str:
    """Carry out commands in nft's own language, all of them or none, and return what they print.

    Blocks for some milliseconds. ``HostError`` carries nft's own words.
    """
    library = _library()
    context = library.nft_ctx_new(0)
    if not context:
        raise HostError("libnftables could not be set up: there is no memory or no netlink socket left")
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        failed = library.nft_run_cmd_from_buffer(context, commands.encode())
        output, errors = library.nft_ctx_get_output_buffer(context), library.nft_ctx_get_error_buffer(context)
    finally:
        library.nft_ctx_free(context)
    if failed:
        raise HostError(f"the kernel or nft refused the rules: {errors.decode(errors='replace').strip()}")
    return bytes(output).decode()


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise HostError(f"{_LIBRARY} is missing: install the package libnftables1 or nftables") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library

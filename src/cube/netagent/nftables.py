"""Run nftables rules through libnftables, the library behind the `nft` program: one transaction, no process started.

The library waits for its socket with ``select``, which ends the whole process when the descriptor is beyond 1,024, as
in a service with many sandboxes. So where low descriptors have run out, the program does it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from functools import cache
from typing import Final

from cube.model.errors import HostError

_LIBRARY: Final = "libnftables.so.1"
#: With a descriptor below this free there is room for the library's own, whatever other threads open meanwhile.
_LOW: Final = 768
_PROGRAM_SECONDS: Final = 30


def run(commands: str) -> str:
    """Carry out commands in nft's own language, all of them or none, and return what they print.

    Blocks for some milliseconds. ``HostError`` carries nft's own words.
    """
    return _by_library(commands) if _lowest_free_descriptor() < _LOW else _by_program(commands)


def _by_library(commands: str) -> str:
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
        raise _refused(errors)
    return bytes(output).decode()


def _by_program(commands: str) -> str:
    try:
        done = subprocess.run(
            ["nft", "--file", "-"],
            input=commands.encode(),
            capture_output=True,
            check=False,
            timeout=_PROGRAM_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"nft cannot be run: {error}; install the package nftables") from error
    if done.returncode != 0:
        raise _refused(done.stderr)
    return done.stdout.decode()


def _lowest_free_descriptor() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.close(descriptor)
    return descriptor


def _refused(errors: bytes) -> HostError:
    return HostError(f"the kernel or nft refused the rules: {errors.decode(errors='replace').strip()}")


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

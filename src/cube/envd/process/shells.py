"""E2B's clients run every command with ``/bin/bash``, which many images do not have (Alpine's, distroless ones)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cube.envd.guest import Guest, GuestProcess, SpawnRequest
from cube.model.errors import NotFound

_BASH: Final = "/bin/bash"
_SH: Final = "/bin/sh"


async def shell_of(guest: Guest) -> str:
    """The shell that lines are run by: bash where the image has it."""
    return _BASH if await _has(guest, _BASH) else _SH


async def spawn(guest: Guest, request: SpawnRequest) -> GuestProcess:
    """Start a process; where the image has no bash, ``/bin/sh`` takes the same arguments in its place.

    Raises what :meth:`Guest.spawn` raises, and ``NotFound`` in an image without any shell.
    """
    try:
        return await guest.spawn(request)
    except NotFound:
        if request.argv[0] != _BASH or await _has(guest, _BASH):
            raise
    if not await _has(guest, _SH):
        raise NotFound("the image has no shell: run a program by its path, or use files and ports alone")
    return await guest.spawn(replace(request, argv=(_SH, *request.argv[1:])))


async def _has(guest: Guest, program: str) -> bool:
    try:
        await guest.stat(program, "root")
    except NotFound:
        return False
    return True

"""What envd takes up in a sandbox that it did not see start: one that outlived the service, or a copy of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cube.envd.guest import LastingGuest
from cube.envd.interpreter import handover
from cube.envd.process import survivors
from cube.envd.sandboxes import EnvdSandbox


async def take_up(sandbox: EnvdSandbox, contexts: Mapping[str, Any] | None = None) -> None:
    """Take up processes and, when they are described, the contexts of the interpreter; let go of everything else.

    ``contexts`` is what :func:`cube.envd.interpreter.handover.describe` gave for this memory. Raises what the guest
    raises.
    """
    if not isinstance(sandbox.guest, LastingGuest):
        return
    if contexts is not None:
        await handover.take_up(sandbox, contexts)
    await survivors.take_up(sandbox)
    await sandbox.guest.drop_rest()

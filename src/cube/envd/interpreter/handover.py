"""Contexts whose kernels live on: in a copy of their sandbox's memory, or while the service is away.

Only a guest whose streams outlive the connection (:class:`~cube.envd.guest.LastingGuest`) can do that. What is
described names streams by their numbers, which hold in every copy of the guest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cube.envd.guest import LastingGuest
from cube.envd.interpreter.contexts import InterpreterState, interpreter_of
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import HostError, Unsupported

_STATE = TypeAdapter(InterpreterState)


def describe(sandbox: EnvdSandbox) -> dict[str, Any]:
    """The contexts of a sandbox as JSON can carry them. Nothing is asked of the guest, so it may be frozen.

    Raises ``Unsupported`` for a sandbox whose kernels do not outlive the connection.
    """
    return asdict(interpreter_of(sandbox).describe(_lasting(sandbox).stream_of))


async def take_up(sandbox: EnvdSandbox, description: Mapping[str, Any]) -> None:
    """Make the described contexts those of this sandbox, which has none in use yet. A cell that was running is
    interrupted; a kernel that has gone is started again when it is needed. Environment variables are this sandbox's.

    Raises ``HostError`` for what :func:`describe` has not made, and what the guest raises.
    """
    try:
        state = _STATE.validate_python(dict(description))
    except ValidationError as error:
        raise HostError(f"the description of the interpreter is of another version: {error}") from error
    await interpreter_of(sandbox).take_up(_lasting(sandbox), state)


def _lasting(sandbox: EnvdSandbox) -> LastingGuest:
    if not isinstance(sandbox.guest, LastingGuest):
        raise Unsupported("kernels of this kind of sandbox end with the connection to it")
    return sandbox.guest

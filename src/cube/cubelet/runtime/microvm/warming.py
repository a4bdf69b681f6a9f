"""Makes a machine that was booted warm, before its memory becomes that of a template.

What a first command and a first cell read is in the memory of every clone then: under emulation it takes longer to
unpack it from the image than to run it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, Final

import structlog

from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.cubelet.runtime.microvm.identity import Identity
from cube.envd.guest import SpawnRequest
from cube.envd.interpreter import handover, prewarm
from cube.envd.interpreter.contexts import interpreter_of
from cube.envd.interpreter.pipes import close_quietly
from cube.envd.process.shells import shell_of
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import CubeError
from cube.model.template import Template

log = structlog.get_logger(__name__)

#: What it is while it is nobody's. Every clone gets a name, a machine id and a generation of its own.
_NOBODY: Final = Identity(1, "template", "0" * 32, None, "", reset_connections=False)
#: Seconds that each step gets; loading an interpreter takes 10 to 20 under emulation.
_PATIENCE: Final = 120.0
#: What clients' ``commands.run`` starts.
_COMMAND: Final = ("-l", "-c", "echo")


async def warm(guest: MicroVMGuest, template: Template) -> Mapping[str, Any] | None:
    """Run what a client runs first, freeze the guest and let go of it.

    Returns the contexts of its interpreter (see :mod:`cube.envd.interpreter.handover`), where the template has one. A
    step that fails is left out: clones only start colder. Raises ``GuestNotConfirmed``, ``SandboxNotRunning``.
    """
    await guest.identify(_NOBODY)
    sandbox = _seen(guest, template)
    contexts = None
    try:
        await _tried("command", template, _first_command(sandbox))
        if template.code_interpreter and await _tried("interpreter", template, prewarm(sandbox)):
            contexts = handover.describe(sandbox)
        await guest.freeze(write_out=True)
    finally:
        await guest.close()
        # Only now, when the guest cannot be told any more to end what is to live on.
        await interpreter_of(sandbox).close()
    return contexts


async def rehearse(guest: MicroVMGuest, template: Template) -> None:
    """Run a first command in a machine that is nobody's yet. Emulated code is translated when it first runs, in every
    machine anew, and for a login shell that takes longer than all the rest of a start."""
    await _tried("rehearsal", template, _first_command(_seen(guest, template)))


def _seen(guest: MicroVMGuest, template: Template) -> EnvdSandbox:
    """The machine as envd would see it."""
    return EnvdSandbox(
        sandbox_id=template.template_id,
        guest=guest,
        access_token=None,
        default_user=template.config.user,
        default_workdir=template.config.workdir,
        env_vars=dict(template.config.env),
        image=template.config,
        resources=template.resources,
        code_interpreter=template.code_interpreter,
    )


async def _tried(what: str, template: Template, step: Awaitable[None]) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE):
            await step
    except (CubeError, TimeoutError) as error:
        log.warning("template.stays_cold", template=template.template_id, step=what, reason=str(error))
        return False
    return True


async def _first_command(sandbox: EnvdSandbox) -> None:
    shell = await shell_of(sandbox.guest)
    request = SpawnRequest((shell, *_COMMAND), sandbox.default_user, sandbox.default_workdir, dict(sandbox.env_vars))
    process = await sandbox.guest.spawn(request)
    try:
        await process.wait()
    finally:
        close_quietly(process.stdout)
        close_quietly(process.stderr)

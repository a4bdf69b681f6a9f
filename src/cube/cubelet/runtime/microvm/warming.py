"""Makes a machine that was booted warm, before its memory becomes that of a template.

What a first command and a first cell read is in the memory of every clone then: under emulation it takes longer to
unpack it from the image than to run it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, Final

import structlog

from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.cubelet.runtime.microvm.identity import Address, Identity
from cube.envd.guest import SpawnRequest
from cube.envd.interpreter import handover, prewarm
from cube.envd.interpreter.contexts import interpreter_of
from cube.envd.interpreter.kernel import Cell
from cube.envd.interpreter.languages import Language
from cube.envd.interpreter.pipes import close_quietly
from cube.envd.process.shells import shell_of
from cube.envd.sandboxes import EnvdSandbox
from cube.envd.survival import take_up
from cube.model.errors import CubeError
from cube.model.template import Template

log = structlog.get_logger(__name__)

#: What it is while it is nobody's. Every clone gets a name, a machine id and a generation of its own.
_NOBODY: Final = Identity(1, "template", "0" * 32, None, "", reset_connections=False)
#: What a zygote is told besides, to have done what its forks will: nothing is at the other end of its interface.
_NOWHERE: Final = Address(IPv4Address("192.0.2.2"), 31, IPv4Address("192.0.2.3"))
_NO_NAMES: Final = "nameserver 192.0.2.3\n"
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
    """Run a first command in a machine that is nobody's yet and no fork of a zygote. Emulated code is translated when
    it first runs, and for a login shell that takes longer than all the rest of a start."""
    await _tried("rehearsal", template, _first_command(_seen(guest, template)))


async def prepare(
    guest: MicroVMGuest, template: Template, contexts: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """Have a zygote do what its forks will, then freeze it and let go of it.

    ``contexts`` are those of the capture that it began with; returns those that its forks begin with. Raises
    ``GuestNotConfirmed``, ``SandboxNotRunning``, and what a guest raises whose interpreter cannot be taken up.
    """
    await guest.identify(replace(_NOBODY, network=_NOWHERE, resolv_conf=_NO_NAMES, reset_connections=True))
    sandbox = _seen(guest, template)
    try:
        await _tried("command", template, _first_command(sandbox))
        if contexts is not None:
            await take_up(sandbox, contexts)
            await _tried("cell", template, _first_cell(sandbox))
            contexts = handover.describe(sandbox)
        await guest.freeze()
    finally:
        await guest.close()
        await interpreter_of(sandbox).close()
    return contexts


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


async def _first_cell(sandbox: EnvdSandbox) -> None:
    """In a context of its own, so that the first cell of a client's is number one."""
    interpreter = interpreter_of(sandbox)
    context = await interpreter.create(Language.PYTHON, "")
    try:
        await context.run(Cell("1+1"), _unheard)
    finally:
        await interpreter.remove(context.id)


async def _unheard(_: object) -> None:
    pass

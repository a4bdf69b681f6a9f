"""The start command of a template in a new sandbox, and the wait until it is ready."""

from __future__ import annotations

import asyncio

from cube.envd.errors import ProcessNotFound
from cube.envd.guest import ExitStatus, SpawnRequest
from cube.envd.process import quiet, survivors
from cube.envd.process.managed import ManagedProcess, ProcessSpec
from cube.envd.process.processes import table_of
from cube.envd.process.shells import shell_of
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import Unavailable
from cube.model.template import StartCommand

#: Clients see the start command among the processes, under this tag.
TAG = "start"
#: Seconds that a create waits at most, less than the minute after which E2B's clients give up.
LONGEST_S = 50.0
#: Seconds between two tries of the ready command: from the first to the second, and from a late one to the next.
_SOON_S, _LATER_S = 0.05, 1.0


async def run_start_command(sandbox: EnvdSandbox, start: StartCommand, seconds: float = LONGEST_S) -> None:
    """Start it, unless it runs already, and return once the sandbox is ready.

    Raises ``Unavailable`` when it fails, or is not ready within so many seconds; and what the guest raises.
    """
    shell = await shell_of(sandbox.guest)
    process = await _started(sandbox, start.command, shell) if start.command else None
    if not start.ready:
        return
    try:
        async with asyncio.timeout(seconds):
            await _ready(sandbox, start.ready, shell, process)
    except TimeoutError:
        raise Unavailable(
            f"the ready command of the template did not succeed within {seconds:.0f} seconds: {_shown(start.ready)}",
            retry_after=None,
        ) from None


def request_of(sandbox: EnvdSandbox, shell: str, line: str) -> SpawnRequest:
    """How a line is run: as the default user, in the default directory, with the sandbox's variables."""
    return SpawnRequest((shell, "-l", "-c", line), sandbox.default_user, sandbox.default_workdir, sandbox.env_vars)


async def _started(sandbox: EnvdSandbox, command: str, shell: str) -> ManagedProcess:
    table = table_of(sandbox)
    try:
        return table.by_tag(TAG)  # memory was captured with it
    except ProcessNotFound:
        request = request_of(sandbox, shell, command)
        guest = await sandbox.guest.spawn(request)
        cwd = request.cwd or None
        spec = ProcessSpec(shell, request.argv[1:], cwd=cwd, tag=TAG, stdin=False)
        survivors.keep(sandbox, spec, guest)
        return table.add(spec, guest, None)


async def _ready(sandbox: EnvdSandbox, line: str, shell: str, process: ManagedProcess | None) -> None:
    pause = _SOON_S
    while True:
        if await quiet.run(sandbox.guest, request_of(sandbox, shell, line)) == ExitStatus(0):
            return
        if process is not None and process.exit not in (None, ExitStatus(0)):
            raise Unavailable(f"the start command of the template ended: {process.exit}", retry_after=None)
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LATER_S)


def _shown(line: str) -> str:
    return line if len(line) <= 200 else line[:200] + "…"

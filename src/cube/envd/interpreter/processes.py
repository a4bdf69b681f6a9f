"""Starting kernel programs inside a sandbox, through its guest."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from cube.envd.guest import GuestProcess, LastingGuest, SpawnRequest
from cube.envd.interpreter.kernel import Transport
from cube.envd.interpreter.payload import command, payload
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import HostError, InvalidInput, NotFound, SandboxNotRunning, Unavailable

_SIGKILL = 9
#: Variables by their beginnings that are read when a program starts: what is forked from it later has missed them.
_READ_AT_START = ("PYTHON", "IPYTHON", "LD_", "LC_", "LANG", "HOME", "GLIBC_", "MALLOC_", "OPENSSL_", "MPL")


def matter_at_start(sandbox: EnvdSandbox) -> bool:
    """Whether its own variables, beside those of the image, have to be there when an interpreter is started."""
    own = sandbox.env_vars.items() - sandbox.image.env.items()
    return any(name.startswith(_READ_AT_START) for name, _ in own)


async def spawn(sandbox: EnvdSandbox, argv: tuple[str, ...], cwd: str = "") -> GuestProcess:
    """Start a program as the default user, with pipes. Raises ``InvalidInput`` when the image does not have it."""
    env = {**sandbox.image.env, **sandbox.env_vars}
    request = SpawnRequest(argv=argv, user=sandbox.default_user, cwd=cwd, env=env, stdin=True)
    try:
        process = await sandbox.guest.spawn(request)
    except SandboxNotRunning:
        raise
    except NotFound as error:
        raise InvalidInput(f"The image of this sandbox cannot run this kernel: {error.message}") from error
    return process


async def spawn_program(sandbox: EnvdSandbox, main: str, cwd: str = "") -> tuple[Transport, bytes]:
    """Start one of our kernel programs; the bytes have to be written to it first."""
    program = payload(main)
    process = await spawn(sandbox, command(program), cwd)

    async def kill(_: int | None) -> None:
        await end(process)

    requests, events = pipes(process)
    return Transport(requests, events, kill, process.stderr, process.pid), program


def pipes(process: GuestProcess) -> tuple[int, int]:
    """Its stdin and stdout, which now belong to the caller."""
    if process.stdin is None or process.stdout is None:
        raise HostError("The guest started a kernel without pipes.")
    return process.stdin, process.stdout


async def end(process: GuestProcess) -> None:
    """Kill a process if it still runs."""
    with contextlib.suppress(NotFound, Unavailable):
        await process.signal(_SIGKILL)


def killer(guest: LastingGuest, process: int | None) -> Callable[[int | None], Awaitable[None]]:
    """How a process is ended that another connection has started."""

    async def kill(_: int | None) -> None:
        if process is not None:
            with contextlib.suppress(NotFound, Unavailable):
                await guest.signal(process, _SIGKILL)

    return kill

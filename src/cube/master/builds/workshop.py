"""The sandbox that a build works in: runs commands as a build step wants them, and brings uploads in."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cube.envd.guest import ExitStatus, SpawnRequest
from cube.envd.process import quiet
from cube.envd.process.shells import shell_of
from cube.envd.sandboxes import EnvdSandbox
from cube.master.builds.surroundings import Surroundings
from cube.model.errors import InvalidInput

_CHUNK = 1 << 20
#: Longest line of output that is put together; what is longer is cut into several.
_LONGEST_LINE = 4096
#: Where uploads are, until they have been unpacked.
_DIRECTORY = "/.cube-build"

#: Gets a line of output and its level.
Note = Callable[[str, str], None]


class StepFailed(InvalidInput):
    """A command of a build did not do what it should."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """A running sandbox that belongs to one build."""

    sandbox: EnvdSandbox
    note: Note

    async def run(self, line: str, surroundings: Surroundings, user: str = "") -> None:
        """Run a line with the shell, as the step before has left it. Raises ``StepFailed``."""
        shell = await shell_of(self.sandbox.guest)
        request = SpawnRequest(
            (shell, "-l", "-c", line), user or surroundings.user, surroundings.workdir, surroundings.env
        )
        await self._checked(request, line)

    async def script(self, script: str, *arguments: str) -> None:
        """Run a script of ours as root, in the root directory. Raises ``StepFailed``."""
        await self._checked(SpawnRequest(("/bin/sh", "-c", script, "cube", *arguments), "root", "/"), "this step")

    async def answer(self, script: str, surroundings: Surroundings, *arguments: str) -> str:
        """What a script writes that is run as the user, in the directory, of the next step. Raises ``StepFailed``."""
        answer = bytearray()
        argv = ("/bin/sh", "-c", script, "cube", *arguments)
        request = SpawnRequest(argv, surroundings.user, surroundings.workdir, surroundings.env)
        errors = _Lines(lambda line: self.note(line, "warn"))
        status = await quiet.run(self.sandbox.guest, request, lambda data: answer.extend(data[:_CHUNK]), errors.feed)
        errors.finish()
        _check(status, "this step")
        return answer.decode(errors="replace").rstrip("\n")

    async def bring(self, archive: Path) -> str:
        """Copy a file in, where only root can read it; returns its path there."""
        path = f"{_DIRECTORY}/{secrets.token_hex(8)}"
        opened = await self.sandbox.guest.open_write(path, "root", mode=0o600)
        try:
            with await asyncio.to_thread(archive.open, "rb") as source:
                while chunk := await asyncio.to_thread(source.read, _CHUNK):
                    await asyncio.shield(opened.file.write(chunk))
        finally:
            opened.file.close()
        return path

    async def _checked(self, request: SpawnRequest, what: str) -> None:
        output = _Lines(lambda line: self.note(line, "info"))
        errors = _Lines(lambda line: self.note(line, "warn"))
        status = await quiet.run(self.sandbox.guest, request, output.feed, errors.feed)
        output.finish()
        errors.finish()
        _check(status, what)


def _check(status: ExitStatus, what: str) -> None:
    if status == ExitStatus(0):
        return
    how = f"was ended by signal {status.signal}" if status.code is None else f"ended with exit code {status.code}"
    raise StepFailed(f"{what if len(what) <= 500 else what[:500] + '…'} {how}")


class _Lines:
    """Cuts a stream into lines."""

    def __init__(self, sink: Callable[[str], None]) -> None:
        self._sink = sink
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._give(line)
        while len(self._rest) > _LONGEST_LINE:
            self._give(self._rest[:_LONGEST_LINE])
            self._rest = self._rest[_LONGEST_LINE:]

    def finish(self) -> None:
        """Give what has no end of line."""
        if self._rest:
            self._give(self._rest)
            self._rest = b""

    def _give(self, line: bytes) -> None:
        # Bars of progress redraw a line; what they leave is what counts.
        self._sink(line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace"))

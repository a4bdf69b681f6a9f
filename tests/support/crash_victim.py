"""A master that creates and deletes sandboxes as fast as it can, until it is killed.

``python -m support.crash_victim DIRECTORY SEED``: the node's sandboxes are files in ``DIRECTORY/node``, so that they
outlive the process as real ones do. Prints ``+id`` when a client has been told of a sandbox, ``-id`` before it asks for
its end.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from cube.model.sandbox import Condition, SandboxSpec
from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import Master


class FileNode(FakeNode):
    """A node whose sandboxes outlive this process."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.alive = {path.name: Condition(path.read_text()) for path in directory.iterdir()}

    async def create(self, spec: SandboxSpec) -> None:
        self._put(spec.sandbox_id, Condition.RUNNING)
        await super().create(spec)

    async def destroy(self, sandbox_id: str) -> None:
        await super().destroy(sandbox_id)
        (self.directory / sandbox_id).unlink(missing_ok=True)

    async def pause(self, sandbox_id: str, *, memory: bool = True) -> None:
        await super().pause(sandbox_id, memory=memory)
        self._put(sandbox_id, self.alive[sandbox_id])

    async def resume(self, sandbox_id: str, *, memory: bool = True) -> None:
        await super().resume(sandbox_id, memory=memory)
        self._put(sandbox_id, self.alive[sandbox_id])

    def _put(self, sandbox_id: str, condition: Condition) -> None:
        # In one piece: a crash must not leave it empty.
        unfinished = self.directory.parent / f"{sandbox_id}.new"
        unfinished.write_text(condition)
        unfinished.replace(self.directory / sandbox_id)


async def client(master: Master, chance: random.Random) -> None:
    """Create, pause, resume and delete without end."""
    while True:
        sandbox_id = (await master.create()).sandbox_id
        print(f"+{sandbox_id}", flush=True)
        if chance.random() < 0.5:
            await master.service.pause(sandbox_id)
        if chance.random() < 0.5:
            await master.service.connect(sandbox_id, 60)
        if chance.random() < 0.9:
            print(f"-{sandbox_id}", flush=True)
            await master.service.delete(sandbox_id)


async def main(directory: Path, seed: int) -> None:
    """Ten clients."""
    master = Master(directory, FileNode(directory / "node"), FakeClock())
    master.settings = master.settings.model_copy(update={"max_sandboxes": 1000})
    await master.start()
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(client(master, random.Random(100 * seed + number)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))

"""A master that creates and deletes sandboxes as fast as it can, until it is killed.

``python -m support.crash_victim DIRECTORY SEED``: the node's sandboxes are files in ``DIRECTORY/node``, so that they
outlive the process as real ones do. Prints ``+id`` when a client has been told of a sandbox, ``-id`` before it asks for
its end; ``*id:name`` when one has been told of a snapshot, ``/id`` before it asks for its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from cube.cubelet.agent import Recovered
from cube.model.errors import SnapshotNotFound
from cube.model.sandbox import Condition, PauseMode, Sandbox, SandboxSpec
from support.fake_clock import FakeClock
from support.fake_node import FakeNode
from support.master import Master


class FileNode(FakeNode):
    """A node whose sandboxes outlive this process."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.shelf = directory.parent / "snapshots"
        self.shelf.mkdir(exist_ok=True)
        self.snapshots = {path.name: path.read_text() for path in self.shelf.iterdir()}
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

    async def snapshot(self, sandbox_id: str, snapshot_id: str, *, memory: bool) -> None:
        await super().snapshot(sandbox_id, snapshot_id, memory=memory)
        (self.shelf / snapshot_id).write_text(sandbox_id)

    async def delete_snapshot(self, snapshot_id: str) -> None:
        await super().delete_snapshot(snapshot_id)
        (self.shelf / snapshot_id).unlink(missing_ok=True)

    async def recover(
        self, sandboxes: Sequence[tuple[SandboxSpec, Condition]], snapshots: Collection[str]
    ) -> Recovered:
        for path in self.shelf.iterdir():
            if path.name not in snapshots:
                path.unlink()
        return await super().recover(sandboxes, snapshots)

    def _put(self, sandbox_id: str, condition: Condition) -> None:
        # In one piece: a crash must not leave it empty.
        unfinished = self.directory.parent / f"{sandbox_id}.new"
        unfinished.write_text(condition)
        unfinished.replace(self.directory / sandbox_id)


async def client(master: Master, chance: random.Random) -> None:
    """Create, capture, fork, roll back, pause, resume and delete without end."""
    snapshots = master.service.snapshots
    while True:
        sandbox_id = (await master.create()).sandbox_id
        print(f"+{sandbox_id}", flush=True)
        if chance.random() < 0.5:
            snapshot = await snapshots.take(sandbox_id, chance.choice([None, "a", "b"]))
            print(f"*{snapshot.snapshot_id}:{snapshot.name}", flush=True)
            with contextlib.suppress(SnapshotNotFound):  # another client has taken its name
                await snapshots.rollback(sandbox_id, snapshot.snapshot_id)
                if chance.random() < 0.5:
                    print(f"/{snapshot.snapshot_id}", flush=True)
                    await snapshots.delete(snapshot.snapshot_id)
        if chance.random() < 0.3:
            for fork in await master.service.fork(sandbox_id, 2, 60):
                if isinstance(fork, Sandbox):
                    print(f"+{fork.sandbox_id}", flush=True)
                    print(f"-{fork.sandbox_id}", flush=True)
                    await master.service.delete(fork.sandbox_id)
        if chance.random() < 0.5:
            await master.service.pause(sandbox_id, chance.choice(list(PauseMode)))
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

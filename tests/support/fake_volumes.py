"""Volumes without a file system of their own, for tests of what is decided about them, or done in a directory."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from cube.cubelet.volumes.content import VolumeContent
from cube.cubelet.volumes.tree import FILES, INCOMING, REMOVED
from cube.model.errors import VolumeNotFound

#: Host id that is root in sandboxes.
ID_BASE = 0x1FFF_0000


def furnish(directory: Path) -> None:
    """Make a directory look like a volume."""
    for name in (FILES, INCOMING, REMOVED):
        (directory / name).mkdir(parents=True)


class FakeVolumes:
    """See ``NodeVolumes``. Each is a directory, made when somebody looks into it."""

    def __init__(self) -> None:
        self.present: dict[str, int] = {}
        #: Failures to raise, per method, first one first.
        self.failures: dict[str, list[Exception]] = {}
        #: A method waits at its gate, when it has one, before it takes effect.
        self.gates: dict[str, asyncio.Event] = {}
        self.calls: list[tuple[str, str]] = []
        self._contents: dict[str, VolumeContent] = {}
        #: Removed together with this object.
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    async def create(self, volume_id: str, quota_mb: int) -> None:
        await self._enter("create", volume_id)
        self.present[volume_id] = quota_mb

    async def remove(self, volume_id: str) -> None:
        await self._enter("remove", volume_id)
        self.present.pop(volume_id, None)
        if content := self._contents.pop(volume_id, None):
            await content.close()

    async def names(self) -> set[str]:
        return set(self.present)

    async def usage(self, volume_id: str) -> int:
        self._require(volume_id)
        return 4096

    def content(self, volume_id: str) -> VolumeContent:
        self._require(volume_id)
        if volume_id not in self._contents:
            self._directory = self._directory or tempfile.TemporaryDirectory(prefix="fake-volumes-")
            place = Path(self._directory.name, volume_id)
            furnish(place)
            self._contents[volume_id] = VolumeContent(volume_id, place, ID_BASE)
        return self._contents[volume_id]

    def _require(self, volume_id: str) -> None:
        if volume_id not in self.present:
            raise VolumeNotFound(volume_id)

    async def _enter(self, method: str, volume_id: str) -> None:
        self.calls.append((method, volume_id))
        if method in self.gates:
            await self.gates[method].wait()
        if self.failures.get(method):
            raise self.failures[method].pop(0)

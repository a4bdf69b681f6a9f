"""The storage of clients' volumes: one subvolume with a quota each, beside the writable layers of sandboxes."""

from __future__ import annotations

import os
from pathlib import Path

from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.storage import btrfs
from cube.cubelet.storage.subvolumes import QuotaGroups, Subvolumes, storage_error
from cube.cubelet.volumes.content import VolumeContent
from cube.cubelet.volumes.layout import VolumeLayout
from cube.cubelet.volumes.tree import DIRECTORY_MODE, FILES, INCOMING, REMOVED, USER
from cube.model.errors import Conflict
from cube.settings import Settings

_MIB = 1 << 20


class VolumeStore:
    """See :class:`cube.cubelet.agent.NodeVolumes`. For a node whose volume of writable layers is mounted."""

    def __init__(self, settings: Settings) -> None:
        self._layout = VolumeLayout(settings)
        self._groups = QuotaGroups(settings.volume_dir)
        self._subvolumes = Subvolumes(self._layout.directory, self._groups)
        self._id_base = settings.shared_id_base
        self._contents: dict[str, VolumeContent] = {}

    def open(self) -> None:
        """Find the volumes that are there. Blocks."""
        self._groups.open()
        self._subvolumes.open()

    async def create(self, volume_id: str, quota_mb: int) -> None:
        """Make an empty volume. Raises ``Conflict`` when it exists, ``StorageFull``, ``HostError``."""
        await in_thread(self._create, self._layout.path(volume_id), quota_mb * _MIB)

    def _create(self, path: Path, limit: int) -> None:
        try:
            with self._subvolumes.created(path.name) as fd:
                btrfs.qgroup_limit(fd, limit)
                self._furnish(fd)
        except FileExistsError:
            raise Conflict(f"volume {path.name!r} exists already") from None
        except OSError as error:
            self._subvolumes.destroy(path.name)
            raise storage_error(error, "the volume could not be made") from error

    def _furnish(self, fd: int) -> None:
        for name in (FILES, INCOMING, REMOVED):
            os.mkdir(name, 0o700, dir_fd=fd)
        owner = self._id_base + USER
        os.chown(FILES, owner, owner, dir_fd=fd, follow_symlinks=False)
        os.chmod(FILES, DIRECTORY_MODE, dir_fd=fd)

    async def remove(self, volume_id: str) -> None:
        """Remove a volume with everything in it; succeeds when there is none. Raises ``HostError``."""
        path = self._layout.path(volume_id)
        content = self._contents.pop(volume_id, None)
        if content is not None:
            await content.close()
        await in_thread(self._remove, path.name)

    def _remove(self, name: str) -> None:
        self._subvolumes.destroy(name)
        self._groups.sweep()

    async def names(self) -> set[str]:
        """Ids of the volumes that are there."""
        return await in_thread(self._subvolumes.names)

    async def usage(self, volume_id: str) -> int:
        """Bytes that a volume occupies. Raises ``VolumeNotFound``."""
        return await in_thread(self._subvolumes.usage, self._layout.existing(volume_id).name)

    def content(self, volume_id: str) -> VolumeContent:
        """The files of a volume. Raises ``VolumeNotFound``."""
        if volume_id not in self._contents:
            self._contents[volume_id] = VolumeContent(volume_id, self._layout.existing(volume_id), self._id_base)
        return self._contents[volume_id]

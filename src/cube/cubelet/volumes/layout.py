"""Where the volumes of clients lie on this node."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cube.cubelet.storage.volume import volumes_directory
from cube.cubelet.volumes.tree import FILES
from cube.model.errors import InvalidInput, VolumeNotFound
from cube.settings import Settings

_VOLUME_ID = re.compile(r"vol-[0-9a-f]{24}")


class VolumeLayout:
    """The places, by id."""

    def __init__(self, settings: Settings) -> None:
        #: Has one directory, which is a subvolume, for each of them.
        self.directory = volumes_directory(settings)

    def path(self, volume_id: str) -> Path:
        """Where a volume is or would be. Raises ``InvalidInput`` for what is no id."""
        if _VOLUME_ID.fullmatch(volume_id) is None:
            raise InvalidInput(f"{volume_id[:64]!r} is no volume id", field="volumeID")
        return self.directory / volume_id

    def existing(self, volume_id: str) -> Path:
        """Where a volume is. Raises ``VolumeNotFound``."""
        path = self.path(volume_id)
        if not path.is_dir():
            raise VolumeNotFound(volume_id)
        return path

    def open_root(self, volume_id: str) -> int:
        """An ``O_PATH`` descriptor of what sandboxes see of a volume. Blocks. Raises ``VolumeNotFound``."""
        return os.open(self.existing(volume_id) / FILES, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

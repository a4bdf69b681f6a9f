"""Mounts of a sandbox beyond its root: directories of the host, and volumes, shown under the sandbox's own ids.

Each becomes a detached, id-mapped copy of its mount, which the launch moves to its place. Only that one file system is
shown: what is mounted below it on the host is not. Device nodes and set-uid programs mean nothing in it.

Ids. In a volume, the ids of a sandbox stand for a range of the host that belongs to nobody else and is the same for all
sandboxes: what one of them calls root or ``user``, the others call so too. In a directory of the host, uid and gid 1000
of the sandbox (the user that commands run as) stand for the one that the settings name, and the others for that same
range. Ids of the host outside of both show as ``nobody``, and root of the sandbox has no power over such files. So
nothing in a sandbox can make a file that belongs to root, or to a person, on the host.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from cube.cubelet.runtime.container import syscalls
from cube.cubelet.runtime.container.launcher import Launcher
from cube.cubelet.runtime.container.syscalls import MountAttr
from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.storage.host_paths import HostPaths
from cube.cubelet.volumes.layout import VolumeLayout
from cube.model.errors import HostError, InvalidInput
from cube.model.mounts import HostMount, VolumeMount
from cube.settings import ID_RANGE, Settings

#: Uid and gid of the user that commands run as in the default templates.
_USER = 1000
_ATTRIBUTES = MountAttr.IDMAP | MountAttr.NOSUID | MountAttr.NODEV
HOST_MOUNT = 'metadata."host-mount"'


@dataclass(frozen=True, slots=True)
class Attachment:
    """A detached mount, borrowed, and where it goes."""

    mount: int
    target: str


@dataclass(frozen=True, slots=True)
class _Wish:
    """A directory to be shown: how it is opened, what its mount is called in a refusal."""

    open: Callable[[], int]
    field: str
    target: str
    read_only: bool = False


class Attachments:
    """Makes the mounts of sandboxes, as the settings allow."""

    def __init__(self, settings: Settings, launcher: Launcher) -> None:
        self._paths = HostPaths(settings.host_mount_directories)
        self._volumes = VolumeLayout(settings)
        self._owner = settings.host_mount_uid
        self._others = settings.shared_id_base
        self._launcher = launcher

    async def of_host(self, mounts: Sequence[HostMount], id_base: int, borrowed: ExitStack) -> tuple[Attachment, ...]:
        """Detached mounts for a sandbox whose root is ``id_base``; they live as long as ``borrowed``.

        Raises ``InvalidInput`` for a path that is not allowed or not there, or whose file system cannot be shared.
        """
        wishes = []
        for number, mount in enumerate(mounts):
            field = f"{HOST_MOUNT}[{number}]"
            opening = partial(self._paths.open, mount.host_path, field=field)
            wishes.append(_Wish(opening, field, mount.mount_path, mount.read_only))
        return await self._made(wishes, id_base, self._extents(id_base), borrowed)

    async def of_volumes(
        self, mounts: Sequence[VolumeMount], id_base: int, borrowed: ExitStack
    ) -> tuple[Attachment, ...]:
        """The same for volumes. Raises ``VolumeNotFound``."""
        wishes = []
        for number, mount in enumerate(mounts):
            opening = partial(self._volumes.open_root, mount.volume_id)
            wishes.append(_Wish(opening, f"volumeMounts[{number}]", mount.mount_path, mount.read_only))
        return await self._made(wishes, id_base, [(self._others, id_base, ID_RANGE)], borrowed)

    async def _made(
        self, wishes: Sequence[_Wish], id_base: int, extents: list[tuple[int, int, int]], borrowed: ExitStack
    ) -> tuple[Attachment, ...]:
        if not wishes:
            return ()
        id_map = await self._launcher.id_map(id_base, extents)
        borrowed.callback(os.close, id_map)
        with ExitStack() as opened:
            attachments = await in_thread(_open, wishes, id_map, opened)
            borrowed.push(opened.pop_all())
        return attachments

    def _extents(self, id_base: int) -> list[tuple[int, int, int]]:
        """(on the disk, as the kernel sees the sandbox, how many)."""
        return [
            (self._others, id_base, _USER),
            (self._owner, id_base + _USER, 1),
            (self._others + _USER + 1, id_base + _USER + 1, ID_RANGE - _USER - 1),
        ]


def _open(wishes: Sequence[_Wish], id_map: int, opened: ExitStack) -> tuple[Attachment, ...]:
    attachments = []
    for wish in wishes:
        directory = wish.open()
        opened.callback(os.close, directory)
        tree = detached(directory, id_map, field=wish.field, read_only=wish.read_only)
        opened.callback(os.close, tree)
        attachments.append(Attachment(tree, wish.target))
    return tuple(attachments)


def detached(directory: int, id_map: int, *, field: str, read_only: bool = False) -> int:
    """A private, detached mount of a directory under other ids; the caller closes it. Blocks."""
    attributes = _ATTRIBUTES | (MountAttr.RDONLY if read_only else MountAttr.NONE)
    try:
        tree = syscalls.open_tree("", dir_fd=directory)
    except OSError as error:
        raise HostError(f"{field} could not be mounted: {error.strerror}") from error
    try:
        syscalls.mount_setattr(tree, attributes, userns=id_map, private=True)
    except OSError as error:
        os.close(tree)
        if error.errno == errno.EINVAL:
            reason = "its file system cannot show files under other ids"
            raise InvalidInput(f"{field} cannot be mounted: {reason}", field=field) from error
        raise HostError(f"{field} could not be mounted: {error.strerror}") from error
    return tree

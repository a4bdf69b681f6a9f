"""Starts the first process of a sandbox in a seat, over the image of its template and a writable layer.

The layer is the seat's own, empty one, or one that the sandbox brings along: the clone of a snapshot, or what it left
when it was stopped. The files of such a layer have the ids of another seat, so it is shown through an id-mapped mount:
no file is touched, however many there are. (An overlay over an id-mapped upper layer works since Linux 5.19, like the
id-mapped image below it. It needs the host's root in the map too, as whom overlayfs works in its scratch space.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cube.cubelet.runtime.container import identity, rootfs, syscalls, users
from cube.cubelet.runtime.container.attachments import Attachments
from cube.cubelet.runtime.container.launcher import Launched, Launcher
from cube.cubelet.runtime.container.plan import Plan
from cube.cubelet.runtime.container.record import Records
from cube.cubelet.runtime.container.seats import Seat
from cube.cubelet.runtime.container.syscalls import MountAttr
from cube.cubelet.runtime.container.uninterrupted import in_thread
from cube.cubelet.storage.images import ImageStore
from cube.cubelet.storage.subvolumes import storage_error
from cube.cubelet.storage.volume import Volume
from cube.model.errors import HostError
from cube.model.resources import Resources
from cube.model.sandbox import SandboxSpec
from cube.settings import ID_RANGE, Settings

#: How an image is shown: under the sandbox's own ids, no devices, no set-uid.
_SHOWN = MountAttr.IDMAP | MountAttr.RDONLY | MountAttr.NOSUID | MountAttr.NODEV
_BROUGHT = MountAttr.IDMAP | MountAttr.NOSUID | MountAttr.NODEV


class Starter:
    """Puts seat, image, layer and launcher together."""

    def __init__(
        self, settings: Settings, images: ImageStore, volume: Volume, launcher: Launcher, records: Records
    ) -> None:
        self._images = images
        self._volume = volume
        self._launcher = launcher
        self._records = records
        self._attachments = Attachments(settings, launcher)
        self._stage = settings.run_dir / "stage"
        #: Shown as /usr/bin/sudo.
        self._program = settings.run_dir / "cube-init"
        self._sudo_users: dict[tuple[str, tuple[str, ...]], tuple[int, ...]] = {}

    async def start(self, spec: SandboxSpec, seat: Seat, layer: str, *, fresh: bool) -> Launched:
        """Start; returns when the inside answers. ``fresh`` says that there was no such sandbox before.

        Raises ``HostError``, ``TemplateNotFound``, ``InvalidInput`` (a mount that is not allowed).
        """
        with ExitStack() as borrowed:
            attachments = await self._attachments.of_host(spec.host_mounts, seat.id_base, borrowed)
            attachments += await self._attachments.of_volumes(spec.volume_mounts, seat.id_base, borrowed)
            mount = None
            if layer != seat.layer_name:
                mount = await self._brought(spec, seat, layer, borrowed, fresh=fresh)
            plan = Plan(borrowed.enter_context(self._records.listen(spec.sandbox_id)).fileno())
            # Half a millisecond of system calls that do not wait for a disk, so it stays on the loop: a thread took
            # twice as long. The first sandbox of a template also mounts the image.
            image = self._images.mount(spec.template)
            plan.sudo_uids = self._sudo_uids(spec, image)
            self._limit(spec, seat, layer)
            place = rootfs.Place(
                stage=self._stage,
                image=borrowed.enter_context(_mount_of(image, _SHOWN, _user_namespace(seat))),
                layer=self._volume.existing(layer) if mount is None else rootfs.brought_layer(self._stage),
                id_base=seat.id_base,
                hostname=spec.sandbox_id,
                address=str(seat.link.address),
                attachments=attachments,
                sudo=self._program if plan.sudo_uids else None,
                layer_mount=mount,
            )
            plan.add(*rootfs.file_system(place), *rootfs.rights(_user_namespace(seat), spec.resources))
            return await self._launcher.resume(_taken(seat), plan)

    def _limit(self, spec: SandboxSpec, seat: Seat, layer: str) -> None:
        seat.cgroup.limit(spec.resources)
        if layer == seat.layer_name and spec.resources.disk_mb != Resources().disk_mb:
            self._volume.limit(layer, spec.resources.disk_mb)

    async def _brought(self, spec: SandboxSpec, seat: Seat, layer: str, borrowed: ExitStack, *, fresh: bool) -> int:
        """A detached mount of a layer under the ids of the seat; it lives as long as ``borrowed``."""
        owner = self._volume.owner(layer)
        extents = [(owner, seat.id_base, ID_RANGE), (0, 0, 1)]
        id_map = await self._launcher.id_map(seat.id_base, extents)
        borrowed.callback(os.close, id_map)
        await in_thread(self._put_in_order, spec, seat, layer, fresh=fresh)
        directory = self._volume.existing(layer).upper.parent
        return borrowed.enter_context(_mount_of(directory, _BROUGHT, id_map))

    def _put_in_order(self, spec: SandboxSpec, seat: Seat, layer: str, *, fresh: bool) -> None:
        content = identity.files(
            address=str(seat.link.address), gateway=str(seat.link.gateway), hostname=spec.sandbox_id, fresh=fresh
        )
        try:
            self._volume.clear_work(layer)
            identity.write(self._volume.existing(layer).upper, self._volume.owner(layer), content)
        except OSError as error:
            raise storage_error(error, "the writable layer could not be prepared") from error

    def _sudo_uids(self, spec: SandboxSpec, image: Path) -> tuple[int, ...]:
        key = spec.template.template_id, spec.template.config.sudo_users
        if key not in self._sudo_users:
            self._sudo_users[key] = users.user_ids(image, key[1])
        return self._sudo_users[key]


def _taken(seat: Seat) -> Launched:
    """The seat's parked process, which is the sandbox's first from now on."""
    parked, seat.parked = seat.parked, None
    if parked is None:
        raise HostError(f"seat {seat.index} has no process that waits for a sandbox")
    return parked


def _user_namespace(seat: Seat) -> int:
    if seat.user_namespace is None:
        raise HostError(f"seat {seat.index} was taken over from an earlier run and cannot be used for a new sandbox")
    return seat.user_namespace


@contextmanager
def _mount_of(directory: Path, attributes: MountAttr, user_namespace: int) -> Iterator[int]:
    """A detached mount of a directory with these attributes and ids."""
    tree = syscalls.open_tree(str(directory))
    try:
        syscalls.mount_setattr(tree, attributes, userns=user_namespace)
        yield tree
    finally:
        os.close(tree)

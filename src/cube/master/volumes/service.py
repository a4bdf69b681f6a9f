"""What can be done with volumes.

A volume is written down before it is made and after it is removed, with what is being done to it: whatever was cut off
is finished by the next start. What lies on the node and is not written down is left alone: it may be the only copy of
somebody's data.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from cube.cubelet.agent import NodeVolumes
from cube.cubelet.volumes.content import VolumeContent
from cube.master.sandboxes.background import Background
from cube.master.sandboxes.clock import Clock
from cube.master.store.volumes import VolumeTable
from cube.model.errors import Conflict, CubeError, InvalidInput, LimitExceeded, Unauthenticated, VolumeNotFound
from cube.model.ids import new_volume_id
from cube.model.mounts import VolumeMount
from cube.model.volumes import VOLUME_NAME, Volume, VolumeState
from cube.settings import Settings

log = structlog.get_logger(__name__)

#: Sandboxes that a refusal names.
_NAMED = 3
#: Unknown ids are repeated to the client, but not at any length.
_LONGEST_ECHO = 64


@dataclass(frozen=True, slots=True)
class WantedMount:
    """A volume that a new sandbox is to have, by its name or id, and the clean path where."""

    volume: str
    mount_path: str
    read_only: bool = False


class VolumeService:
    """The volumes of one node. Besides what each method names, all raise ``VolumeNotFound`` for one that does not
    exist, and ``StorageFull`` or ``HostError`` when the store or the node fails."""

    def __init__(
        self,
        node: NodeVolumes,
        table: VolumeTable,
        settings: Settings,
        *,
        clock: Clock,
        background: Background,
        mounted_in: Callable[[str], Sequence[str]],
    ) -> None:
        """``mounted_in`` tells the ids of the sandboxes that have a volume."""
        self._node = node
        self._table = table
        self._quota_mb = settings.volume_quota_mb
        self._most = settings.max_volumes
        self._clock = clock
        self._background = background
        self._mounted_in = mounted_in
        self._volumes: dict[str, Volume] = {}

    async def start(self) -> None:
        """Read what is recorded; finish what an earlier run has not."""
        recorded = await self._table.all()
        present = await self._node.names() if recorded else set()
        for volume in recorded:
            self._volumes[volume.volume_id] = volume
            if volume.state is not VolumeState.READY:
                self._begin_removal(volume)
            elif volume.volume_id not in present:
                log.error("volume.missing", volume=volume.volume_id)
        self._background.start(
            self._clear(sorted(present & {volume.volume_id for volume in self.all()})), "clear-volumes"
        )

    async def create(self, name: str) -> Volume:
        """Make an empty volume. Raises ``InvalidInput`` (``name``), ``Conflict`` when the name is taken,
        ``LimitExceeded``."""
        self._check_name(name)
        if len(self._volumes) >= self._most:
            raise LimitExceeded(f"this server has {self._most} volumes already: delete some")
        volume = Volume(new_volume_id(), name, self._quota_mb, self._clock.now(), VolumeState.CREATING)
        self._volumes[volume.volume_id] = volume
        try:
            await self._table.insert(volume)
            await self._node.create(volume.volume_id, volume.quota_mb)
            await self._table.set_state(volume.volume_id, VolumeState.READY)
        except BaseException:
            self._begin_removal(volume)
            raise
        self._volumes[volume.volume_id] = replace(volume, state=VolumeState.READY)
        log.info("volume.created", volume=volume.volume_id)
        return self._volumes[volume.volume_id]

    def _check_name(self, name: str) -> None:
        if VOLUME_NAME.fullmatch(name) is None:
            raise InvalidInput("name must be 1 to 128 letters, digits, dashes and underscores", field="name")
        if any(volume.name == name for volume in self._volumes.values()):
            raise Conflict(f"a volume with the name {name!r} exists already")

    def all(self) -> list[Volume]:
        """All of them, oldest first."""
        return [volume for volume in self._volumes.values() if volume.state is VolumeState.READY]

    def get(self, volume_id: str) -> Volume:
        """A volume, by its id."""
        volume = self._volumes.get(volume_id)
        if volume is None or volume.state is not VolumeState.READY:
            raise VolumeNotFound(volume_id[:_LONGEST_ECHO])
        return volume

    async def delete(self, volume_id: str) -> None:
        """Remove a volume with everything in it. Raises ``Conflict`` while a sandbox has it, paused ones too."""
        volume = self.get(volume_id)
        if users := self._mounted_in(volume_id):
            named = ", ".join(users[:_NAMED]) + (" and others" if len(users) > _NAMED else "")
            raise Conflict(f"volume {volume.name!r} is mounted in sandbox {named}: end it first")
        self._volumes[volume_id] = replace(volume, state=VolumeState.DELETING)
        try:
            await self._table.set_state(volume_id, VolumeState.DELETING)
        except BaseException:
            self._volumes[volume_id] = volume
            raise
        await self._finish(self._volumes[volume_id])

    def resolve(self, wanted: Sequence[WantedMount]) -> tuple[VolumeMount, ...]:
        """The volumes of a new sandbox. Raises ``InvalidInput``, which names the entry, for one that does not exist."""
        return tuple(self._resolve(mount, f"volumeMounts[{number}].name") for number, mount in enumerate(wanted))

    def _resolve(self, wanted: WantedMount, field: str) -> VolumeMount:
        for volume in self.all():
            if wanted.volume in (volume.name, volume.volume_id):
                return VolumeMount(volume.volume_id, volume.name, wanted.mount_path, wanted.read_only)
        raise InvalidInput(f"{field}: volume {wanted.volume[:_LONGEST_ECHO]!r} was not found", field=field)

    async def usage(self, volume: Volume) -> int | None:
        """Bytes that a volume occupies; ``None`` when it is not there any more, or the node has lost it."""
        try:
            return await self._node.usage(volume.volume_id)
        except VolumeNotFound:
            return None

    def token(self, volume: Volume) -> str:
        """What opens the content of a volume."""
        return self._table.token(volume.volume_id)

    def content(self, volume_id: str, token: str) -> VolumeContent:
        """The files of a volume. Raises ``Unauthenticated`` when the token is not its."""
        if not hmac.compare_digest(self._table.token(volume_id).encode(), token.encode(errors="replace")):
            raise Unauthenticated("send the token of this volume as `Authorization: Bearer`")
        self.get(volume_id)
        return self._node.content(volume_id)

    def _begin_removal(self, volume: Volume) -> None:
        """Its name is free again when it is gone."""
        self._volumes[volume.volume_id] = replace(volume, state=VolumeState.DELETING)
        self._background.start(self._finish(volume), f"remove-{volume.volume_id}")

    async def _finish(self, volume: Volume) -> None:
        """Remove a volume that is not to be, and what is recorded of it."""
        await self._node.remove(volume.volume_id)
        await self._table.delete(volume.volume_id)
        self._volumes.pop(volume.volume_id, None)
        log.info("volume.removed", volume=volume.volume_id)

    async def _clear(self, volume_ids: Sequence[str]) -> None:
        """Remove what a crash has left half uploaded or half removed."""
        for volume_id in volume_ids:
            try:
                await self._node.content(volume_id).clear()
            except CubeError as error:
                log.warning("volume.not_cleared", volume=volume_id, reason=error.message)

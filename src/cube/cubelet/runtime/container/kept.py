"""What outlives the processes of a sandbox: the layer of a stopped one, under the sandbox's own name in the volume.

There is no other record of a stopped sandbox on the node: a layer of that name is one, and is started again by bringing
it to another seat. So it survives the loss of the run directory, as when the machine is started anew. A rollback puts
the clone of the snapshot beside it first, and then in its place.
"""

from __future__ import annotations

import re

from cube.cubelet.storage.claims import Claims
from cube.cubelet.storage.volume import Volume

#: Layers of seats, and clones of snapshots that were brought to one.
_OF_SEATS = re.compile(r"seat[0-9]+(brought)?")
_NEXT = "next"


def brought_name(seat_layer: str) -> str:
    """Name of the layer that a new sandbox brings to the seat whose own layer is called so."""
    return f"{seat_layer}brought"


class KeptLayers:
    """The layers of stopped sandboxes, and of those that were started again. Calls block, see :class:`Volume`."""

    def __init__(self, volume: Volume, claims: Claims) -> None:
        self._volume = volume
        self._claims = claims

    def has(self, sandbox_id: str) -> bool:
        """Whether there is one."""
        return sandbox_id in self.sandboxes()

    def sandboxes(self) -> set[str]:
        """Ids of all sandboxes that have one, or the beginning of one."""
        names = (name for name in self._volume.names() if _OF_SEATS.fullmatch(name) is None)
        return {name.removesuffix(_NEXT) for name in names}

    def of_seats(self) -> set[str]:
        """Names of all other layers."""
        return {name for name in self._volume.names() if _OF_SEATS.fullmatch(name) is not None}

    def claim(self, sandbox_id: str, template_id: str) -> None:
        """Have a template kept for a sandbox that will be stopped; raises ``TemplateNotFound`` when it is gone."""
        self._claims.make(template_id, sandbox_id)

    def prepare(self, sandbox_id: str, snapshot_id: str, disk_mb: int) -> None:
        """Make what is to take the place of a sandbox's layer at :meth:`keep`. Raises like :meth:`Volume.clone`."""
        self._volume.remove(sandbox_id + _NEXT)
        self._volume.clone(snapshot_id, sandbox_id + _NEXT, disk_mb=disk_mb)

    def keep(self, sandbox_id: str, layer: str) -> None:
        """Keep what :meth:`prepare` has made, else the layer that the sandbox wrote to; nothing runs in it any more.

        Can be repeated after a crash in the middle.
        """
        names = self._volume.names()
        if sandbox_id + _NEXT in names:
            if layer != sandbox_id:  # first, so that a repetition does not take it for what is to be kept
                self._volume.remove(layer)
            self._volume.rename(sandbox_id + _NEXT, sandbox_id)
        elif layer in names and layer != sandbox_id:
            self._volume.rename(layer, sandbox_id)

    def abandon(self, sandbox_id: str) -> None:
        """Remove what :meth:`prepare` has made; succeeds when there is nothing."""
        self._volume.remove(sandbox_id + _NEXT)

    def discard(self, sandbox_id: str) -> None:
        """Remove everything of a sandbox; succeeds when there is nothing."""
        self.abandon(sandbox_id)
        self._volume.remove(sandbox_id)
        self._claims.release(sandbox_id)

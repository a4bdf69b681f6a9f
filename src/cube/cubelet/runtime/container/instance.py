"""One container: what is known of it while its processes are there."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from cube.cubelet.runtime.base import LocalGuest
from cube.cubelet.runtime.container.guest import ContainerGuest
from cube.cubelet.runtime.container.seats import Seat
from cube.model.sandbox import SandboxSpec


@dataclass(slots=True)
class ContainerInstance:
    """One running or paused container."""

    spec: SandboxSpec
    address: str
    envd: LocalGuest
    seat: Seat
    guest: ContainerGuest
    #: Name of the layer that it writes to.
    layer: str
    #: Whether its processes stand still.
    frozen: bool = False
    #: Whether something of it may be kept beside its seat.
    keeps: bool = False

    @property
    def sandbox_id(self) -> str:
        """Its id."""
        return self.spec.sandbox_id

    async def died(self) -> None:
        """Return when its first process is gone."""
        await self.guest.closed.wait()

    @classmethod
    def of(cls, spec: SandboxSpec, seat: Seat, layer: str, control: socket.socket) -> ContainerInstance:
        """What runs in a seat, reached through the socket of its first process."""
        guest = ContainerGuest(control, spec.sandbox_id)
        return cls(spec, str(seat.link.address), LocalGuest(guest), seat, guest, layer)

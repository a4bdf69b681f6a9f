"""The inside of a container sandbox, reached over the control socket of its process 1."""

from __future__ import annotations

import socket

from cube.cubelet.runtime.container.link import DatagramLink
from cube.cubelet.runtime.guest.control_guest import ControlGuest


class ContainerGuest(ControlGuest):
    """Owns the control socket; made and used on one event loop."""

    def __init__(self, control: socket.socket, sandbox_id: str) -> None:
        super().__init__(DatagramLink(control), sandbox_id)

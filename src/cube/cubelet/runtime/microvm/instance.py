"""One sandbox of the microVM runtime, and what its guest is told to be."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cube.cubelet.runtime.base import LocalGuest
from cube.cubelet.runtime.container.record import start_time
from cube.cubelet.runtime.microvm.guest import MicroVMGuest
from cube.cubelet.runtime.microvm.identity import Address, Identity
from cube.cubelet.runtime.microvm.record import Record
from cube.cubelet.runtime.microvm.seats import Seat
from cube.cubelet.runtime.microvm.starter import Started
from cube.cubelet.runtime.microvm.vmm import Vmm
from cube.model.errors import HostError, SandboxNotRunning
from cube.model.sandbox import SandboxSpec

#: Length of the network that a link is.
_PREFIX: Final = 31
_GENERATIONS: Final = 1 << 63


@dataclass(slots=True)
class MicroVMInstance:
    """One running or paused machine; paused ones have no process."""

    spec: SandboxSpec
    seat: Seat
    guest: MicroVMGuest
    #: Identity of the guest across a pause.
    machine_id: str
    #: Fingerprint of the kernel and initramfs that its memory began with.
    boot: str
    started: Started | None
    #: See :class:`~cube.cubelet.runtime.base.Inheriting`.
    inherited: Mapping[str, Any] | None = None

    @property
    def sandbox_id(self) -> str:
        """Its id."""
        return self.spec.sandbox_id

    @property
    def address(self) -> str:
        """Address of the guest on its link."""
        return str(self.seat.link.address)

    @property
    def envd(self) -> LocalGuest:
        """The node's envd serves it through the guest's channel."""
        return LocalGuest(self.guest)

    @property
    def running(self) -> Started:
        """What runs; raises ``SandboxNotRunning`` while it is paused."""
        if self.started is None:
            raise SandboxNotRunning(self.sandbox_id, "paused")
        return self.started

    async def died(self) -> None:
        """Return when its machine has ended, or its guest is dead to us; never while it is paused."""
        if self.started is None:
            await asyncio.Event().wait()
        ends = (self.running.vmm.ended.wait(), self.guest.closed.wait())
        waiting = [asyncio.ensure_future(end) for end in ends]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    def record(self) -> Record:
        """What is written down about it; raises ``HostError`` when the process has just ended."""
        started = self.running
        return Record(
            self.seat.index,
            started.vmm.pid,
            _began(started.vmm),
            self.spec.template.template_id,
            self.machine_id,
            self.boot,
            started.memory,
        )

    def identity(self, *, fresh: bool) -> Identity:
        """What the guest is told: a ``fresh`` one was never spoken to by anybody, so its connections are others'."""
        link = self.seat.link
        return Identity(
            generation=1 + secrets.randbelow(_GENERATIONS),
            hostname=self.sandbox_id,
            machine_id=self.machine_id,
            network=Address(link.address, _PREFIX, link.gateway),
            resolv_conf=f"nameserver {link.gateway}\n",
            reset_connections=fresh,
        )


def new_machine_id() -> str:
    """A machine id that nobody has."""
    return secrets.token_hex(16)


def _began(vmm: Vmm) -> int:
    began = start_time(vmm.pid)
    if began is None:
        raise HostError(f"QEMU ended at once: {vmm.last_words()}")
    return began

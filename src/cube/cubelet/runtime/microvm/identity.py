"""What makes the memory of a microVM, booted or restored, a sandbox of its own."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from ipaddress import IPv4Address

from cube.cubelet.runtime.guest.wire import Writer

#: Random bytes that a guest is given each time.
SEED_BYTES = 64
_NETWORK = 1
_RESET_CONNECTIONS = 2


@dataclass(frozen=True, slots=True)
class Address:
    """How the guest is reached on its link."""

    address: IPv4Address
    prefix: int
    gateway: IPv4Address
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class Identity:
    """Given to a guest before anything else runs in it; see ``docs/microvm.md``."""

    #: A number from 1 on that no restore of the same memory has had before.
    generation: int
    hostname: str
    #: 32 hexadecimal digits: new for a clone or fork, the old ones for a resume.
    machine_id: str
    network: Address | None
    resolv_conf: str
    #: End established connections: their other ends belong to somebody else.
    reset_connections: bool

    def encode(self) -> bytes:
        """The body of the request, with the clock as it is now and fresh randomness."""
        flags = (_NETWORK if self.network else 0) | (_RESET_CONNECTIONS if self.reset_connections else 0)
        writer = Writer().u64(self.generation).u32(flags)
        writer.u64(time.time_ns()).data(os.urandom(SEED_BYTES))
        network = self.network or Address(IPv4Address(0), 0, IPv4Address(0))
        writer.data(network.address.packed).u32(network.prefix).data(network.gateway.packed).u32(network.mtu)
        for text in (self.hostname, self.machine_id, self.resolv_conf):
            writer.data(text.encode())
        return writer.finish()


def clock_body() -> bytes:
    """The body of a request that only sets the clock."""
    return Writer().u64(time.time_ns()).finish()

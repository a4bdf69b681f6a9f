"""The descriptor of a sandbox's TAP interface, by the cheapest way that there is.

1. It is there already: nothing is asked of the kernel.
2. The interface is known and nobody has it open: the device is opened and attached to it, two system calls.
3. Otherwise the interface is made anew, with its name and address, and everything that belongs to it.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from cube.model.errors import Conflict, HostError, InvalidInput
from cube.netagent.networks.state import Network
from cube.netagent.tap import TapLink, open_tap


class Tier(StrEnum):
    """Which way it went."""

    CACHED = "cached"
    POOL = "pool"
    RESTORED = "restored"


class Held(Conflict):
    """Somebody else has the interface open."""


@dataclass(frozen=True, slots=True)
class TapFile:
    """A descriptor, which belongs to the network, and the number of its interface."""

    descriptor: int
    interface_index: int


class TapFiles:
    """Opens, and counts the ways."""

    def __init__(self) -> None:
        self.tiers: Counter[Tier] = Counter(dict.fromkeys(Tier, 0))

    def cached(self, network: Network) -> TapFile | None:
        """The first way; ``None`` when it does not lead there."""
        link = network.link
        if not isinstance(link, TapLink) or link.descriptor is None:
            return None
        self.tiers[Tier.CACHED] += 1
        return TapFile(link.descriptor, network.interface_index)

    def opened(self, network: Network) -> int:
        """The second way: a new descriptor, which the caller keeps. Blocks for a moment. ``Held``, ``HostError``."""
        link = network.link
        if not isinstance(link, TapLink):
            raise HostError(f"sandbox {network.wanted.sandbox_id} has no TAP interface at the moment")
        try:
            descriptor = open_tap(link.interface, new=False)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise Held(f"{link.interface} is held by another process") from error
            raise HostError(f"{link.interface} cannot be opened: {error.strerror}") from error
        self.tiers[Tier.POOL] += 1
        return descriptor

    def restored(self) -> None:
        """Count the third way."""
        self.tiers[Tier.RESTORED] += 1


def require_name(network: Network, name: str) -> None:
    """Raise ``InvalidInput`` when a name is not that of the network's interface."""
    if name != network.interface:
        raise InvalidInput(f"the interface of {network.wanted.sandbox_id} is not called {name!r}", field="name")

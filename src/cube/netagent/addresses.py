"""Which addresses and which interface name the link of an index has: all of it follows from the index alone."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

#: Above this an interface name (15 characters: instance, dash, index) or the host user ids of the seats would run out.
MOST_LINKS: Final = 32_768


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """Cuts a network into pairs: the even address is the gateway on the host, the odd one the sandbox (RFC 3021)."""

    instance: str
    network: IPv4Network

    @property
    def capacity(self) -> int:
        """How many links there can be."""
        return min(self.network.num_addresses // 2, MOST_LINKS)

    @property
    def prefix(self) -> str:
        """How the names of this instance's interfaces begin; the dash keeps `cube` apart from an instance `cube2`."""
        return f"{self.instance}-"

    def interface(self, index: int) -> str:
        """Name of the host's end."""
        return f"{self.prefix}{index}"

    def index(self, interface: str) -> int | None:
        """The index of an interface name; ``None`` when it is not one of ours."""
        number = interface.removeprefix(self.prefix)
        if number == interface or not number.isdecimal() or str(int(number)) != number:
            return None
        return int(number) if int(number) < self.capacity else None

    def gateway(self, index: int) -> IPv4Interface:
        """Address of the host's end, with the length of the pair's network."""
        return self._pair(index, 0)

    def sandbox(self, index: int) -> IPv4Interface:
        """Address of the sandbox's end, with the length of the pair's network."""
        return self._pair(index, 1)

    def _pair(self, index: int, end: int) -> IPv4Interface:
        if not 0 <= index < self.capacity:
            raise ValueError(f"link {index} is outside of {self.network}")
        return IPv4Interface((IPv4Address(int(self.network.network_address) + 2 * index + end), 31))

"""Where the traffic of a sandbox goes, and who knows it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Protocol

from cube.model.errors import InvalidInput
from cube.model.ids import is_sandbox_id


@dataclass(frozen=True, slots=True)
class Route:
    """Where a running sandbox is reached: its IPv4 address, on any port but envd's and the interpreter's."""

    sandbox_id: str
    address: str

    def __post_init__(self) -> None:
        if not is_sandbox_id(self.sandbox_id):
            raise InvalidInput(f"{self.sandbox_id!r} is not a sandbox id", field="sandbox_id")
        try:
            ipaddress.IPv4Address(self.address)
        except ValueError:
            raise InvalidInput(f"{self.address!r} is not an IPv4 address", field="address") from None


@dataclass(frozen=True, slots=True)
class Gone:
    """A sandbox that existed but takes no traffic: killed, ended, or paused without auto-resume."""

    sandbox_id: str


class Directory(Protocol):
    """Knows every sandbox. Asked only when the proxy has no route of its own, so not on the common path."""

    async def lookup(self, sandbox_id: str) -> Route | Gone | None:
        """The route of a running sandbox, ``Gone`` for one that was known, ``None`` for an id that never was.

        The request of the client waits for the answer: this is where a paused sandbox may be woken up first.
        """
        ...


def encode(route: Route) -> bytes:
    """The record that ``routing.lua`` reads: one ``name=value`` per line, unknown names are ignored."""
    return f"address={route.address}\n".encode()

"""Where the traffic of a sandbox goes, and who knows it."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Protocol

from cube.model.errors import InvalidInput
from cube.model.ids import is_sandbox_id

#: A host name with an optional port; ``${PORT}`` may stand for any part of either.
HOST_MASK = re.compile(r"([A-Za-z0-9._-]|\$\{PORT\}){1,255}(:([0-9]{1,5}|\$\{PORT\}))?")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a running sandbox is reached: its IPv4 address, on any port but envd's and the interpreter's."""

    sandbox_id: str
    address: str
    #: What a request must carry in ``e2b-traffic-access-token``; ``None`` lets everybody in.
    token: str | None = field(default=None, repr=False)
    #: Host header that the sandbox sees, ``${PORT}`` standing for the port; ``None`` leaves the client's.
    host: str | None = None

    def __post_init__(self) -> None:
        if not is_sandbox_id(self.sandbox_id):
            raise InvalidInput(f"{self.sandbox_id!r} is not a sandbox id", field="sandbox_id")
        try:
            ipaddress.IPv4Address(self.address)
        except ValueError:
            raise InvalidInput(f"{self.address!r} is not an IPv4 address", field="address") from None
        if self.host is not None and HOST_MASK.fullmatch(self.host) is None:
            raise InvalidInput(f"{self.host!r} is not a host name", field="maskRequestHost")


@dataclass(frozen=True, slots=True)
class Gone:
    """A sandbox that existed but takes no traffic: killed, ended, or paused without auto-resume."""

    sandbox_id: str


class Directory(Protocol):
    """Knows every sandbox. Asked only when the proxy has no route of its own, so not on the common path."""

    async def lookup(self, sandbox_id: str, token: str = "") -> Route | Gone | None:
        """The route of a running sandbox, ``Gone`` for one that was known, ``None`` for an id that never was.

        The request of the client waits for the answer: this is where a paused sandbox may be woken up first, if the
        traffic access token of the request allows that; else raises ``PermissionDenied``.
        """
        ...


def encode(route: Route) -> bytes:
    """The record that ``routing.lua`` reads: one ``name=value`` per line, unknown names are ignored.

    Of the token there is only the digest: who reads the table does not get in.
    """
    record = f"address={route.address}\n"
    if route.token is not None:
        record += f"token={hashlib.sha256(route.token.encode()).hexdigest()}\n"
    if route.host is not None:
        record += f"host={route.host}\n"
    return record.encode()

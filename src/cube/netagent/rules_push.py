"""Rules of sandboxes on their way to the gateway for HTTP and HTTPS.

What the gateway does not take is closed: connections are diverted to it, and it refuses whom it does not know.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from ipaddress import IPv4Address

from cube.model.egress import EgressGateway, EgressRule
from cube.model.errors import CubeError, InvalidInput

_log = logging.getLogger(__name__)

_Rules = tuple[str, Sequence[EgressRule]]


class RulesPush:
    """Tells the gateway, and again what it could not be told."""

    def __init__(self, gateway: EgressGateway | None) -> None:
        self._gateway = gateway
        #: What the gateway has been told, or should be.
        self._wanted: dict[IPv4Address, _Rules] = {}
        self._pending: set[IPv4Address] = set()

    @property
    def pending(self) -> set[IPv4Address]:
        """Addresses of which the gateway still has to be told something."""
        return set(self._pending)

    async def put(self, address: IPv4Address, policy_id: str, rules: Sequence[EgressRule]) -> None:
        """The rules of a sandbox; without any it has no business with the gateway."""
        if not rules:
            await self.remove(address)
        elif self._wanted.get(address) != (policy_id, rules):
            self._wanted[address] = (policy_id, rules)
            await self._tell(address)

    async def remove(self, address: IPv4Address) -> None:
        """An address has no rules any more."""
        if self._wanted.pop(address, None) is not None:
            await self._tell(address)

    async def retry(self) -> None:
        """Tell again what the gateway did not take."""
        for address in self.pending:
            await self._tell(address)

    async def _tell(self, address: IPv4Address) -> None:
        if self._gateway is None:
            return
        self._pending.add(address)
        try:
            await self._say(self._gateway, address)
        except InvalidInput as error:
            _log.error("the gateway refuses the rules of %s for good: %s", address, error.message)
        except (CubeError, OSError) as error:
            _log.warning("the gateway could not be told of %s, again in some seconds: %s", address, error)
            return
        self._pending.discard(address)

    async def _say(self, gateway: EgressGateway, address: IPv4Address) -> None:
        wanted = self._wanted.get(address)
        if wanted is None:
            await gateway.remove(str(address))
        else:
            await gateway.put(str(address), *wanted)

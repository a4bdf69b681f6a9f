"""What stands between sandboxes, the host and the rest of the world, for one instance: table, routing, forwarding.

What is refused over TCP is refused at once, so that programs in a sandbox fail instead of hanging. No rule of another
table is touched; a verdict of ours to drop stands whatever they say. A table that an earlier run of the service left is
kept with the policies in it: sandboxes that survived the service go on under them.
"""

from __future__ import annotations

import asyncio
import logging

from cube.model.errors import HostError
from cube.netagent import nftables, ruleset
from cube.netagent.forwarding import Forwarding
from cube.netagent.nfelements import ElementSocket
from cube.netagent.routing import Routing, Status
from cube.settings import Settings

_log = logging.getLogger(__name__)


class Firewall:
    """The closed doors of one instance, and the open ones."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._routing = Routing(settings)
        self._forwarding = Forwarding(f"{settings.instance}-")

    async def install(self, dns_port: int | None = None) -> None:
        """Put everything in force; ``dns_port`` is the resolver's. ``HostError`` when the machine refuses.

        Doing it again renews the rules without a moment in between, and follows the machine's routes.
        """
        await asyncio.to_thread(self._install, dns_port)

    async def maintain(self) -> None:
        """Put back what others have taken away, the table apart: see :meth:`present`."""
        await asyncio.to_thread(self._open_ways)

    async def present(self) -> bool:
        """Whether the table is there."""
        return await asyncio.to_thread(self._present)

    async def status(self) -> Status:
        """What of the routing is there."""
        return await asyncio.to_thread(self._routing.status)

    async def remove(self) -> None:
        """Take everything away; succeeds when there is nothing."""
        await asyncio.to_thread(self._remove)

    def _install(self, dns_port: int | None) -> None:
        # What closes comes before what opens.
        self._put_table(dns_port)
        self._open_ways()

    def _open_ways(self) -> None:
        try:
            self._routing.up()
            self._forwarding.up()
        except OSError as error:
            raise HostError(f"the kernel refused to route what comes from sandboxes: {error.strerror}") from error

    def _put_table(self, dns_port: int | None) -> None:
        if self._present():
            try:
                nftables.run(ruleset.update(self._settings, dns_port))
            except HostError as error:
                # Of another version of the service: its sets have another form.
                _log.info("the table of an earlier run is replaced: %s", error)
            else:
                return
        nftables.run(ruleset.replacement(self._settings, dns_port))

    def _present(self) -> bool:
        with ElementSocket() as netlink:
            return netlink.has_set(self._settings.instance, ruleset.WORDS)

    def _remove(self) -> None:
        # The other way round: what opens goes first.
        try:
            self._forwarding.down()
        finally:
            nftables.run(ruleset.removal(self._settings))
            self._routing.down()

"""Links with policies on a machine of a test's own, without sandboxes around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cube.model.network import NetworkConfig
from cube.model.network_wire import WireNetwork, parse_network
from cube.netagent.compiled import CompiledPolicy, NodeDefaults, compiled
from cube.netagent.firewall import Firewall
from cube.netagent.links import Link, LinkPool
from cube.netagent.policies import Policies
from cube.settings import Settings

ALL = "0.0.0.0/0"


def config(**parts: Any) -> NetworkConfig:
    """A policy, in the words of :class:`cube.model.network_wire.WireNetwork`."""
    return parse_network(WireNetwork(**parts)).checked()


def policy(**parts: Any) -> CompiledPolicy:
    """The same, ready for the kernel."""
    return compiled(config(**parts), NodeDefaults())


@dataclass
class Net:
    """A firewall, links, and policies."""

    settings: Settings
    firewall: Firewall
    pool: LinkPool
    policies: Policies

    async def link(self, **parts: Any) -> Link:
        """A link with a policy."""
        link = await self.pool.acquire()
        self.policies.set(link.address, policy(**parts))
        return link


@asynccontextmanager
async def net(settings: Settings) -> AsyncIterator[Net]:
    """All of it, in the namespace of the calling thread; nothing is left of it after the block."""
    made = Net(settings, Firewall(settings), LinkPool(settings), Policies(settings.instance))
    try:
        await made.firewall.install()
        await made.pool.start()
        made.policies.open()
        yield made
    finally:
        made.policies.close()
        await made.pool.close(remove=True)
        await made.firewall.remove()

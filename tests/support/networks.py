"""A network agent with everything around it, on an instance of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cube.netagent.agent import NetworkAgent
from cube.netagent.networks.service import Networks
from cube.netagent.networks.state import Kind, Wanted
from cube.netagent.rtnetlink import RouteSocket
from cube.settings import Settings
from support import slots
from support.sandbox_links import config

#: Of names and networks, see :mod:`support.slots`; nobody else has it.
PART = 12


def agent_settings(directory: Path, *, pool: int = 4) -> Settings:
    """Settings with room for 2,048 networks."""
    return Settings(
        instance=slots.instance(PART),
        network_cidr=slots.network(PART),
        run_dir=directory / "run",
        state_dir=directory / "state",
        seat_pool=pool,
    )


def wanted(sandbox_id: str, kind: Kind = Kind.TAP, *, key: str = "", **policy: object) -> Wanted:
    """A request; the policy in the words of :class:`cube.model.network_wire.WireNetwork`."""
    return Wanted(sandbox_id, kind, config(**policy), key)


@dataclass
class Ground:
    """An agent that runs."""

    settings: Settings
    agent: NetworkAgent
    networks: Networks

    @property
    def interfaces(self) -> set[str]:
        """The instance's interfaces."""
        with RouteSocket() as netlink:
            return {link.name for link in netlink.links(f"{self.settings.instance}-")}

    @property
    def files(self) -> list[str]:
        """Names of the state files."""
        return sorted(path.name for path in (self.settings.run_dir / "network" / "state").iterdir())


@asynccontextmanager
async def running(settings: Settings, *, remove: bool = True) -> AsyncIterator[Ground]:
    """An agent for the block; without ``remove`` its networks stay for the next one."""
    agent = NetworkAgent(settings)
    networks = Networks(settings, agent)
    try:
        await agent.start()
        await networks.start()
        yield Ground(settings, agent, networks)
    finally:
        await networks.close()
        await agent.close(remove=remove)

"""The network agent by itself, without the service."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import structlog

from cube.cli import logs
from cube.cli.http_server import stop_signal
from cube.cli.network_doors import network_doors, only_agent
from cube.netagent.agent import NetworkAgent
from cube.netagent.networks.service import Networks
from cube.settings import Settings

log = structlog.get_logger(__name__)


async def run(settings: Settings, health: str = "") -> None:
    """Serve until SIGTERM or SIGINT. Networks stay in force. Raises ``CubeError`` when it cannot start."""
    logs.configure(settings.log_level)
    ended = stop_signal()
    async with AsyncExitStack() as stack:
        stack.enter_context(only_agent(settings))
        agent = NetworkAgent(settings)
        stack.push_async_callback(agent.close)
        await agent.start()
        await asyncio.gather(agent.veths.start(), agent.taps.start())
        networks = Networks(settings, agent)
        stack.push_async_callback(networks.close)
        await networks.start()
        await _forget_others(agent)
        await stack.enter_async_context(network_doors(settings, networks, health))
        log.info("network_agent.started", socket=str(settings.network_socket))
        await ended
    log.info("network_agent.stopped")


async def _forget_others(agent: NetworkAgent) -> None:
    """What earlier runs have left and nobody has written down."""
    for index in await agent.veths.leftovers():
        await agent.veths.discard(index)
    for index in await agent.taps.leftovers():
        await agent.taps.discard(index)
    await agent.forget_others()

"""The link, the policy and the file of one network: made together, made again, and taken back.

Two calls for one network never overlap: their caller sees to it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, TypeVar

from cube.model.errors import CubeError, HostError
from cube.netagent.agent import NetworkAgent
from cube.netagent.links import Pool
from cube.netagent.networks.state import Kind, Network, StateFiles, Wanted
from cube.netagent.networks.tap_files import TapFile, TapFiles
from cube.netagent.tap import TapLink, keep
from cube.netagent.veth import Link
from cube.settings import Settings

_log = logging.getLogger(__name__)

#: How often in turn a network is made again before it is given up.
_ATTEMPTS: Final = 3
T = TypeVar("T")


class Wiring:
    """Works on the networks of one instance. Use from one event loop."""

    def __init__(self, settings: Settings, agent: NetworkAgent) -> None:
        self._agent = agent
        self._files = StateFiles(settings.run_dir / "network" / "state")
        self.tap_files = TapFiles()
        #: What is done here stays in order, so that nothing is written after it was removed.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{settings.instance}-networks")

    async def load(self) -> list[Network]:
        """The networks that an earlier run has written down; see :meth:`recover`."""
        await self._run(self._files.open)
        return await self._run(self._files.load)

    def close(self) -> None:
        """Finish what was begun."""
        self._thread.shutdown()

    async def create(self, wanted: Wanted) -> Network:
        """A new network, its policy in force. When it fails or is cancelled nothing is left."""
        pool = await self._pool(wanted.kind)
        link = await pool.acquire()
        network = Network(wanted, link.index, link.interface, link)
        try:
            await self._put_in_force(network)
        except BaseException:
            await _to_the_end(self.take_back(network))
            raise
        return network

    async def take_back(self, network: Network) -> None:
        """Close it, and give back what it has."""
        await self._agent.release(network.wanted.sandbox_id)
        await self._give_back(network, await self._pool(network.wanted.kind))
        await self._run(self._files.remove, network.wanted.sandbox_id)

    async def recover(self, network: Network) -> None:
        """Take over the link of an earlier run, or make it again."""
        pool = await self._pool(network.wanted.kind)
        try:
            network.link = await pool.adopt(network.index, None)
            await self._put_in_force(network)
        except HostError as error:
            _log.info("the link of %s is made again: %s", network.wanted.sandbox_id, error.message)
            await self.renew(network)

    async def renew(self, network: Network) -> None:
        """Make the link again, with the same name and addresses; give the network up when that fails too often."""
        pool = await self._pool(network.wanted.kind)
        try:
            await self._reserve(network, pool)
            network.link = await pool.renew(network.index)
            network.reserved = network.handed_out = False
            await self._put_in_force(network)
        except (CubeError, OSError) as error:
            await self._failed(network, str(error))
        else:
            network.failures = 0

    async def change(self, network: Network, wanted: Wanted) -> None:
        """Replace the policy."""
        await self._agent.update(wanted.sandbox_id, wanted.config)
        network.wanted = wanted
        await self._run(self._files.write, network)

    async def file(self, network: Network) -> TapFile:
        """The descriptor for the other end, see :mod:`cube.netagent.networks.tap_files`. ``Held``, ``HostError``."""
        found = self.tap_files.cached(network) or await self._opened(network)
        if not network.handed_out:
            network.handed_out = True
            await self._run(self._files.write, network)
        return found

    async def interfaces(self) -> dict[str, int]:
        """The machine's interfaces and their numbers."""
        return await self._run(lambda: {name: index for index, name in socket.if_nameindex()})

    # -- inside --------------------------------------------------------------------------------------------------

    async def _opened(self, network: Network) -> TapFile:
        if network.link is None:
            await self.renew(network)
            self.tap_files.restored()
        elif isinstance(network.link, TapLink):
            network.link = replace(network.link, descriptor=await self._run(self.tap_files.opened, network))
            self._agent.taps.changed(network.link)
        descriptor = _descriptor(network)
        if descriptor is None:
            raise HostError(f"the link of {network.wanted.sandbox_id} cannot be made again; it is tried again later")
        return TapFile(descriptor, network.interface_index)

    async def _reserve(self, network: Network, pool: Pool[Any]) -> None:
        if network.reserved:
            return
        network.link = None
        await pool.discard(network.index)
        pool.reserve(network.index)
        network.reserved = True

    async def _put_in_force(self, network: Network) -> None:
        if network.link is not None:
            await self._agent.attach(network.wanted.sandbox_id, network.link, network.wanted.config)
            await self._run(self._write_down, network)

    def _write_down(self, network: Network) -> None:
        link = network.link
        if isinstance(link, TapLink) and link.descriptor is not None:
            keep(link.descriptor)
        if link is not None:
            network.interface_index = socket.if_nametoindex(link.interface)
        self._files.write(network)

    async def _give_back(self, network: Network, pool: Pool[Any]) -> None:
        link, network.link = network.link, None
        if network.reserved:
            pool.free(network.index)
            network.reserved = False
        elif link is None:
            return
        elif network.handed_out or (isinstance(link, TapLink) and link.descriptor is None):
            await pool.discard(link.index)  # somebody may still be at the other end
        else:
            if isinstance(link, TapLink) and link.descriptor is not None:
                await self._run(lambda descriptor: keep(descriptor, kept=False), link.descriptor)
            pool.release(link)

    async def _failed(self, network: Network, why: str) -> None:
        network.failures += 1
        if network.failures < _ATTEMPTS:
            return
        _log.error("the network of %s is given up: %s", network.wanted.sandbox_id, why)
        network.reason = why
        await self._agent.release(network.wanted.sandbox_id)
        await self._run(self._files.write, network)

    async def _pool(self, kind: Kind) -> Pool[Any]:
        pool: Pool[Any] = self._agent.taps if kind is Kind.TAP else self._agent.veths
        await pool.start()
        return pool

    async def _run(self, job: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job, *arguments)


def _descriptor(network: Network) -> int | None:
    link = network.link
    if isinstance(link, Link):
        return link.namespace
    return link.descriptor if isinstance(link, TapLink) else None


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Carry something out although the caller is being cancelled; what goes wrong is logged."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            continue
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a network that could not be made was not taken back whole: %s", error)

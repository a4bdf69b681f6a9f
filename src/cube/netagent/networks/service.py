"""Networks for other processes: handed out, kept over restarts, watched, and taken back."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Final

from cube.model.errors import Conflict, KeyReused, SandboxNotFound
from cube.model.network import NetworkConfig
from cube.netagent.agent import Attachment, NetworkAgent
from cube.netagent.networks.creations import Creations
from cube.netagent.networks.state import Kind, Network, Wanted, require_sandbox_id
from cube.netagent.networks.tap_files import TapFile, Tier, require_name
from cube.netagent.networks.wiring import Wiring
from cube.netagent.turns import Turns
from cube.settings import Settings

_log = logging.getLogger(__name__)

#: Seconds between looking whether every network is still whole.
_MAINTENANCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was found not to be whole, by sandbox."""

    renewed: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()


class Networks:
    """The networks of one instance beside those of the runtime's own sandboxes. Use from one event loop."""

    def __init__(self, settings: Settings, agent: NetworkAgent) -> None:
        """The agent is started and closed by whoever made it: closed after this."""
        self._agent = agent
        self._wiring = Wiring(settings, agent)
        self._known: dict[str, Network] = {}
        self._creations: Creations[Network] = Creations()
        self._releases: dict[str, asyncio.Task[None]] = {}
        #: Whatever is done to a network that is there is done by one at a time.
        self._turns = Turns()
        self._keeper: asyncio.Task[None] | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over what an earlier run has left, and look after it from now on. ``HostError``."""
        for network in await self._wiring.load():
            self._known[network.wanted.sandbox_id] = network
            if not network.quarantined:
                await self._wiring.recover(network)
        self._keeper = asyncio.create_task(self._keep(), name="networks")

    async def close(self) -> None:
        """Stop. Networks stay in force, for a later run to take over."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._creations.close()
        await asyncio.gather(*self._releases.values(), return_exceptions=True)
        self._wiring.close()

    # -- requests ------------------------------------------------------------------------------------------------

    async def ensure(self, wanted: Wanted) -> Network:
        """The network of a sandbox, made when there is none; its policy is in force when this returns.

        ``InvalidInput``, ``KeyReused`` or ``Conflict`` when it has another one, ``LimitExceeded``, ``HostError``.
        """
        wanted.checked()
        sandbox_id = wanted.sandbox_id
        while (release := self._releases.get(sandbox_id)) is not None:
            await asyncio.wait({release})
        known = self._known.get(sandbox_id)
        if known is None:
            self._require_not_the_node_s(sandbox_id)
            known = await self._creations.join(sandbox_id, lambda: self._create(wanted))
        return _same(known, wanted)

    async def release(self, sandbox_id: str) -> None:
        """Close a network and take it back; succeeds when there is none. Waits for one that is being made.

        ``Conflict`` when it belongs to a sandbox of this node; ``HostError``, and then it is still there.
        """
        require_sandbox_id(sandbox_id)
        await self._creations.settled(sandbox_id)
        release = self._releases.get(sandbox_id)
        if release is None:
            network = self._known.get(sandbox_id)
            if network is None:
                self._require_not_the_node_s(sandbox_id)
                return
            release = asyncio.create_task(self._release(network), name=f"release {sandbox_id}")
            self._releases[sandbox_id] = release
        await asyncio.shield(release)

    async def update(self, sandbox_id: str, config: NetworkConfig) -> Network:
        """Replace the policy, at once and as a whole. ``SandboxNotFound``, ``Conflict``, ``InvalidInput``."""
        async with self._turns.of(sandbox_id):
            network = self._whole(sandbox_id)
            await self._wiring.change(network, replace(network.wanted, config=config).checked())
        return network

    def get(self, sandbox_id: str) -> Network:
        """One of them; ``SandboxNotFound``."""
        network = self._known.get(sandbox_id)
        if network is None or sandbox_id in self._releases:
            raise SandboxNotFound(sandbox_id)
        return network

    def all(self) -> list[Network]:
        """All of them."""
        return list(self._known.values())

    def attachments(self) -> list[Attachment]:
        """Every sandbox on a link, the runtime's own too."""
        return self._agent.attachments()

    def of_the_node(self) -> list[Attachment]:
        """The networks of the runtime's own sandboxes."""
        return [
            one
            for one in self._agent.attachments()
            if one.sandbox_id not in self._known and not self._creations.under_way(one.sandbox_id)
        ]

    def ready_links(self) -> dict[Kind, int]:
        """Links that wait to be handed out."""
        return {Kind.TAP: self._agent.taps.ready, Kind.VETH: self._agent.veths.ready}

    def tiers(self) -> dict[Tier, int]:
        """How many descriptors were handed out, by the way they were got."""
        return dict(self._wiring.tap_files.tiers)

    async def unready(self) -> str:
        """Why nothing can be handed out at the moment; empty when it can."""
        if self._keeper is None or self._keeper.done():
            return "the agent is starting or stopping"
        return await self._agent.unready()

    async def file(self, sandbox_id: str, name: str) -> TapFile:
        """What a process needs to be at the other end: the TAP's descriptor, or that of the namespace.

        It stays this object's. ``SandboxNotFound``, ``InvalidInput`` when the name is another, ``Conflict``.
        """
        async with self._turns.of(sandbox_id):
            network = self._whole(sandbox_id)
            require_name(network, name)
            return await self._wiring.file(network)

    async def reconcile(self) -> Reconciled:
        """Look whether every network is whole, and make again what is not; what cannot be is quarantined."""
        interfaces = await self._wiring.interfaces()
        missing = [one for one in self.all() if not self._is_whole(one, interfaces)]
        for network in missing:
            async with self._turns.of(network.wanted.sandbox_id):
                if self._known.get(network.wanted.sandbox_id) is network:
                    await self._wiring.renew(network)
        return Reconciled(
            tuple(one.wanted.sandbox_id for one in missing if one.link is not None),
            tuple(one.wanted.sandbox_id for one in missing if one.quarantined),
        )

    # -- inside --------------------------------------------------------------------------------------------------

    async def _create(self, wanted: Wanted) -> Network:
        network = await self._wiring.create(wanted)
        self._known[wanted.sandbox_id] = network
        return network

    async def _release(self, network: Network) -> None:
        sandbox_id = network.wanted.sandbox_id
        try:
            async with self._turns.of(sandbox_id):
                await self._wiring.take_back(network)
                del self._known[sandbox_id]
        finally:
            del self._releases[sandbox_id]

    def _whole(self, sandbox_id: str) -> Network:
        network = self.get(sandbox_id)
        if network.quarantined:
            raise Conflict(f"the network of {sandbox_id} is in quarantine, release it: {network.reason}")
        return network

    def _is_whole(self, network: Network, interfaces: dict[str, int]) -> bool:
        if network.quarantined or network.wanted.sandbox_id in self._releases:
            return True
        return network.link is not None and interfaces.get(network.link.interface) == network.interface_index

    def _require_not_the_node_s(self, sandbox_id: str) -> None:
        if any(one.sandbox_id == sandbox_id for one in self.of_the_node()):
            raise Conflict(f"{sandbox_id} is a sandbox of this node: its network comes and goes with it")

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_MAINTENANCE_S)
            try:
                await self.reconcile()
            except Exception:  # noqa: BLE001  the keeper must outlive whatever goes wrong once
                _log.exception("the networks could not be looked after")


def _same(known: Network, wanted: Wanted) -> Network:
    """The network that is there, where it is the one that is wanted."""
    if wanted.idempotency_key and known.wanted.idempotency_key != wanted.idempotency_key:
        raise KeyReused(f"sandbox {wanted.sandbox_id} has a network that was asked for with another idempotency_key")
    if (known.wanted.kind, known.wanted.config) != (wanted.kind, wanted.config):
        raise Conflict(f"sandbox {wanted.sandbox_id} has another network: release it, or update its policy")
    if known.quarantined:
        raise Conflict(f"the network of {wanted.sandbox_id} is in quarantine, release it: {known.reason}")
    return known

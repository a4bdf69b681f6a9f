"""The network agent: hands out links, puts policies in force on them, and keeps both so.

Runtimes of this process call it directly; ``cube.netagent.networks`` hands out networks to other processes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Final, TypeVar

from cube.helper.process import Caller
from cube.model.egress import EgressGateway
from cube.model.errors import SandboxNotFound
from cube.model.network import DnsMode, NetworkConfig
from cube.model.network_wire import summary
from cube.netagent.compiled import CompiledPolicy, NodeDefaults, compiled
from cube.netagent.cutting import Cutter
from cube.netagent.dns.resolver import Resolver
from cube.netagent.dns.upstream import Servers
from cube.netagent.factory import AnyLink
from cube.netagent.firewall import Firewall
from cube.netagent.links import LinkPool, TapPool
from cube.netagent.policies import Policies
from cube.netagent.rules_push import RulesPush
from cube.netagent.turns import Turns
from cube.settings import Settings

_log = logging.getLogger(__name__)

#: Seconds between looking whether everything is still as it was made.
_MAINTENANCE_S: Final = 5.0
#: Entries of a policy that are worked through on the loop; longer lists would hold others up.
_COMPILED_AT_ONCE: Final = 32
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A sandbox on a link, under a policy."""

    sandbox_id: str
    link: AnyLink
    network: NetworkConfig
    policy: CompiledPolicy

    @property
    def address(self) -> IPv4Address:
        """Address of the sandbox."""
        return self.link.address


class NetworkAgent:
    """The network of one instance. Use from one event loop; ``close`` must be called, also after a failed start."""

    def __init__(
        self, settings: Settings, gateway: EgressGateway | None = None, *, helper: Caller | None = None
    ) -> None:
        """``gateway`` judges HTTP and HTTPS; without one, what it would judge is closed. ``helper`` makes links."""
        self.veths = LinkPool(settings, helper)
        self.taps = TapPool(settings)
        self._firewall = Firewall(settings)
        self._cutter = Cutter(settings.instance)
        self._policies = Policies(settings.instance, self._cutter.ask)
        self._push = RulesPush(gateway)
        self._defaults = NodeDefaults(
            dns=DnsMode(settings.dns_mode),
            connections=settings.sandbox_connections,
            bytes_per_second=settings.sandbox_bytes_per_second,
        )
        #: Policies are changed one after the other, by a thread that does nothing else.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{settings.instance}-policies")
        self._resolver = Resolver(Servers(settings.dns_server_list), self._policy_at, self._learn)
        self._dns_port: int | None = None
        self._attached: dict[str, Attachment] = {}
        #: By address, for whoever has a packet and nothing else.
        self._by_address: dict[IPv4Address, Attachment] = {}
        #: One change at a time for each sandbox; the next one waits.
        self._turns = Turns()
        self._keeper: asyncio.Task[None] | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Put the firewall in force, and keep it so. ``HostError`` when the machine refuses. Pools start by themselves.

        Policies of an earlier run stay in force until :meth:`forget_others`.
        """
        self._dns_port = await self._resolver.start()
        await self._firewall.install(self._dns_port)
        await self._run(self._policies.open)
        self._keeper = asyncio.create_task(self._keep(), name="network")

    async def close(self, *, remove: bool = False) -> None:
        """Stop. What is in force stays in force, unless ``remove``: then nothing of this instance's network is left.

        Closing again does nothing more.
        """
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        await self._resolver.close()
        await self.veths.close(remove=remove)
        await self.taps.close(remove=remove)
        self._policies.close()
        self._thread.shutdown()
        self._cutter.close()
        if remove:
            await self._firewall.remove()

    # -- sandboxes -----------------------------------------------------------------------------------------------

    async def attach(self, sandbox_id: str, link: AnyLink, network: NetworkConfig) -> Attachment:
        """Put a policy in force on a link; it is when this returns. In place of what the sandbox had before, if any.

        ``HostError`` when the kernel refuses; the link is closed then.
        """
        fresh = Attachment(sandbox_id, link, network, await self._compiled(network))
        async with self._turns.of(sandbox_id):
            former = self._attached.get(sandbox_id)
            if former is not None and former.address != link.address:
                await self._detach(former)
            await self._put(fresh)
        _log.debug("sandbox %s at %s: %s", sandbox_id, link.address, summary(network))
        return fresh

    async def update(self, sandbox_id: str, network: NetworkConfig) -> Attachment:
        """Replace the policy of a sandbox, at once and as a whole; what it does not allow any more is cut.

        ``SandboxNotFound`` when it is not on a link; ``HostError`` when the kernel refuses, and the old policy stays.
        """
        async with self._turns.of(sandbox_id):
            former = self.attachment(sandbox_id)
            fresh = replace(former, network=network, policy=await self._compiled(network))
            await self._put(fresh)
        await self._cutter.settled()
        return fresh

    async def release(self, sandbox_id: str) -> None:
        """Close the link of a sandbox. Succeeds when it is on none; the link itself is its owner's to give back."""
        if sandbox_id not in self._attached and not self._turns.busy(sandbox_id):
            return
        async with self._turns.of(sandbox_id):
            former = self._attached.get(sandbox_id)
            if former is not None:
                await self._detach(former)

    def attachment(self, sandbox_id: str) -> Attachment:
        """Where a sandbox is; ``SandboxNotFound`` when it is on no link."""
        try:
            return self._attached[sandbox_id]
        except KeyError:
            raise SandboxNotFound(sandbox_id) from None

    def attachments(self) -> list[Attachment]:
        """All sandboxes that are on links."""
        return list(self._attached.values())

    def at(self, address: IPv4Address) -> Attachment | None:
        """The sandbox that has an address."""
        return self._by_address.get(address)

    async def unready(self) -> str:
        """What is missing, for a reader; empty when everything is in force."""
        if not await self._firewall.present():
            return "the table of the firewall is not there"
        routing = await self._firewall.status()
        return "" if routing.complete else "the routing of sandboxes is not whole"

    async def forget_others(self) -> None:
        """Close the links of sandboxes that an earlier run knew and this one does not."""
        known = set(self._by_address)
        for address in await self._run(self._policies.addresses) - known:
            await self._run(self._policies.clear, address)
            await self._push.remove(address)

    # -- inside --------------------------------------------------------------------------------------------------

    def _policy_at(self, address: IPv4Address) -> CompiledPolicy | None:
        attachment = self._by_address.get(address)
        return None if attachment is None else attachment.policy

    async def _learn(self, address: IPv4Address, name: str, found: Sequence[IPv4Address], seconds: int) -> None:
        """Let the addresses of a name be reached; on the same thread as changes of policy, so that none meet."""
        policy = self._policy_at(address)
        if policy is None or not any(policy.target_of_name(name, one) is not policy.target(one) for one in found):
            return
        await self._run(self._policies.learn, address, name, found, seconds)

    async def _compiled(self, network: NetworkConfig) -> CompiledPolicy:
        if len(network.allow_out) + len(network.deny_out) <= _COMPILED_AT_ONCE:
            return compiled(network, self._defaults)
        return await asyncio.to_thread(compiled, network, self._defaults)

    async def _put(self, attachment: Attachment) -> None:
        await _whole(self._put_whole(attachment))

    async def _put_whole(self, attachment: Attachment) -> None:
        await self._run(self._policies.set, attachment.address, attachment.policy)
        self._attached[attachment.sandbox_id] = attachment
        self._by_address[attachment.address] = attachment
        await self._push.put(attachment.address, attachment.sandbox_id, attachment.network.gateway_rules)

    async def _detach(self, attachment: Attachment) -> None:
        await _whole(self._detach_whole(attachment))

    async def _detach_whole(self, attachment: Attachment) -> None:
        await self._run(self._policies.clear, attachment.address)
        self._attached.pop(attachment.sandbox_id, None)
        self._by_address.pop(attachment.address, None)
        await self._push.remove(attachment.address)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_MAINTENANCE_S)
            try:
                await self.maintain()
            except Exception:  # noqa: BLE001  the keeper must outlive whatever goes wrong once
                _log.exception("the network could not be looked after")

    async def maintain(self) -> None:
        """Put back what others have taken away, and tell the gateway again what it did not take."""
        if not await self._firewall.present():
            _log.warning("the table of the firewall was removed by somebody else: it is made again")
            await self._firewall.install(self._dns_port)
            await self._run(self._policies.rebuild)
        await self._firewall.maintain()
        await self._push.retry()

    async def _run(self, job: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job, *arguments)


async def _whole(work: Coroutine[object, object, None]) -> None:
    """Carry something out to its end, also when nobody waits any more: what the kernel has been told is known, and the
    next change of the sandbox waits for it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise

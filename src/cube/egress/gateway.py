"""CubeEgress: the outbound proxy of one instance, and the policies of the sandboxes that have any."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import h11

from cube.egress import compile as compiled
from cube.egress import version_file
from cube.egress.admin_wire import policy_to_wire
from cube.egress.audit.log import AuditLog
from cube.egress.audit.writer import AuditWriter
from cube.egress.ca import Authority
from cube.egress.compile import Policy
from cube.egress.cutting import cut
from cube.egress.envoy.clusters import World
from cube.egress.envoy.listener import egress_listener
from cube.egress.envoy.options import envoy_options
from cube.egress.known import KnownSecrets
from cube.egress.leaves import Leaves
from cube.egress.names import Names
from cube.egress.references import referenced, resolved
from cube.egress.remains import remove_directory, spool_in
from cube.model.egress import EgressRule, EgressStatus
from cube.model.errors import InvalidInput
from cube.model.secrets import SecretResolver
from cube.proxy import admin, sockets
from cube.proxy.controlled import Receipt, background, controlled
from cube.proxy.delta import Catalogue, Resource
from cube.proxy.envoy import EnvoyProcess
from cube.settings import Settings

if TYPE_CHECKING:
    from cube.proxy.xds import XdsServer

_log = logging.getLogger(__name__)
#: How long :meth:`CubeEgress.put` waits for Envoy; it stays closed until then, with or without the wait.
_IN_FORCE_SECONDS = 2.0
_TIDY_SECONDS = 30.0


class CubeEgress:
    """The gateway of one instance, see :class:`cube.model.egress.EgressGateway`.

    Give it the policies that there are before :meth:`start`: an Envoy that an earlier run left behind serves on with
    those it has, and gets the difference.
    """

    def __init__(
        self,
        settings: Settings,
        authority: Authority,
        world: World,
        *,
        concurrency: int = 2,
        binary: Path | None = None,
    ) -> None:
        self._settings = settings
        self._authority = authority
        self._world = world
        self._home = settings.run_dir / "egress"
        self._policies: dict[str, Policy] = {}
        #: The same with the values of secrets in them, as Envoy has them.
        self._filled: dict[str, Policy] = {}
        self._resolver: SecretResolver | None = None
        self._names = Names()
        self._leaves = Leaves(authority)
        self._catalogue: Catalogue | None = None
        self._xds: XdsServer | None = None
        self._receipts: set[asyncio.Event] = set()
        self._secrets = KnownSecrets()
        self._log = AuditLog(settings.egress_log)
        self._spool = spool_in(self._home)
        self._writer = AuditWriter(self._spool, self._log, self._secrets.of, self._reopen_spool)
        self._envoy = EnvoyProcess(envoy_options(settings, world, concurrency), binary)
        self._undo = AsyncExitStack()

    @property
    def envoy_pid(self) -> int | None:
        """Process id of Envoy while it runs."""
        return self._envoy.pid

    def policies(self) -> list[Policy]:
        """All policies, by address."""
        return sorted(self._policies.values(), key=lambda policy: ipaddress.IPv4Address(policy.address))

    def policy(self, address: str) -> Policy | None:
        """The policy of an address in its usual form."""
        return self._policies.get(address)

    def use_secrets(self, secrets: SecretResolver) -> None:
        """Where the values of placeholders in rules come from. Until then, requests that need one are refused."""
        self._resolver = secrets
        secrets.on_change(self._secret_changed)
        for policy in self._policies.values():
            if referenced(policy.rules):
                self._fill(policy)

    async def put(self, address: str, policy_id: str, rules: Sequence[EgressRule]) -> None:
        """See :class:`cube.model.egress.EgressGateway`. Raises ``InvalidInput`` for what is no IPv4 address.

        Open connections are cut, unless all that was decided before is decided in the same way.
        """
        policy = Policy(_canonical(address), policy_id, tuple(rules))
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("egress rules of %s: %s", policy.address, policy_to_wire(policy))
        former = self._policies.get(policy.address)
        self._names.add(policy.rules)
        if former is not None:
            self._names.remove(former.rules)
        self._policies[policy.address] = policy
        await self._in_force(self._fill(policy))
        if former is not None and policy.rules[: len(former.rules)] != former.rules:
            await self._cut(policy.address)

    async def remove(self, address: str) -> None:
        """See :class:`cube.model.egress.EgressGateway`."""
        policy = self._policies.pop(_canonical(address), None)
        if policy is not None:
            self._names.remove(policy.rules)
            await self._withdraw(self._filled.pop(policy.address))
            await self._cut(policy.address)

    def status(self) -> EgressStatus:
        """See :class:`cube.model.egress.EgressGateway`."""
        pending = tuple(address for address in self._policies if not self.is_in_force(address))
        return EgressStatus(self._xds is not None and not pending, len(self._policies), pending)

    async def start(self) -> None:
        """Serve. Raises ``HostError`` with the reason: the port is taken, or the audit log cannot be written."""
        await asyncio.to_thread(self._log.prepare)
        await asyncio.to_thread(version_file.write, self._settings.egress_version_file)
        sockets.prepare_directory(self._home, self._settings.egress_uid)
        sockets.make_owned(self._spool.directory, self._settings.egress_uid)
        self._undo.callback(remove_directory, self._home)
        # The last lines are written when Envoy ends.
        self._undo.push_async_callback(self._writer.catch_up)
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop Envoy and remove what :meth:`start` made; may be called twice."""
        await self._undo.aclose()

    async def _start(self) -> None:
        catalogue = self._catalogue = await asyncio.to_thread(self._make_catalogue)
        for policy in self._filled.values():
            for resource in self._resources(policy):
                catalogue.put(resource)
        discovery = self._undo.enter_context(sockets.listening(self._home / "xds.sock", self._settings.egress_uid))
        task = f"listen on 127.0.0.1:{self._settings.egress_port}"
        self._xds = await self._undo.enter_async_context(
            controlled(self._envoy, discovery, catalogue, task, on_receipt=self._received)
        )
        await self._undo.enter_async_context(background(self._tidy, self._writer.run))

    async def _reopen_spool(self) -> None:
        try:
            await admin.ask(self._home / "admin" / "admin.sock", "/reopen_logs", "POST")
        except (TimeoutError, h11.ProtocolError) as error:
            raise OSError(f"Envoy does not open its log again: {error}") from error

    def _make_catalogue(self) -> Catalogue:
        """Imports protobuf and its messages, which takes 0.1 s: for a thread."""
        from cube.egress import messages
        from cube.proxy import resources

        listener = egress_listener(self._settings.egress_port, self._world, self._spool.path)
        catalogue = Catalogue([resources.listener(listener)])
        catalogue.make_on_demand(messages.SECRET, self._mint)
        return catalogue

    def _mint(self, name: str) -> Resource | None:
        from cube.egress import messages

        pattern = self._names.pattern(name)
        if pattern is None:
            return None
        leaf = self._leaves.get(name, pattern)
        return messages.leaf(leaf, self._authority.leaf_key_pem) if leaf else None

    async def _tidy(self) -> None:
        from cube.egress import messages

        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            for name in self._leaves.forget():
                self._drop(messages.SECRET, name)

    def _resources(self, policy: Policy) -> list[Resource]:
        from cube.egress import messages

        values = compiled.secrets(policy)
        return [*(messages.credential(*item) for item in values.items()), messages.scope(policy)]

    def _secret_changed(self, name: str) -> None:
        for policy in self._policies.values():
            if name in referenced(policy.rules):
                self._fill(policy)

    def _fill(self, policy: Policy) -> list[Resource]:
        """Put the values of secrets into a policy, and tell Envoy; returns what it was told."""
        filled = replace(policy, rules=resolved(policy.rules, self._resolver))
        former, self._filled[policy.address] = self._filled.get(policy.address), filled
        self._secrets.add(filled)
        return self._publish(filled, former) if self._catalogue is not None else []

    async def _cut(self, address: str) -> None:
        try:
            ended = await asyncio.to_thread(cut, address, self._settings.egress_uid)
        except OSError as error:
            _log.error("open connections of %s under former egress rules could not be cut: %s", address, error)
        else:
            _log.debug("%d connections of %s under former egress rules were cut", ended, address)

    def _publish(self, policy: Policy, former: Policy | None) -> list[Resource]:
        from cube.egress import messages

        resources = self._resources(policy)
        for resource in resources:
            self._offer(resource)
        stale = compiled.secrets(former).keys() - compiled.secrets(policy).keys() if former else ()
        for name in stale:
            self._drop(messages.SECRET, name)
        return resources

    async def _withdraw(self, policy: Policy) -> None:
        from cube.egress import messages

        self._drop(messages.SCOPE, policy.address)
        for name in compiled.secrets(policy):
            self._drop(messages.SECRET, name)
        xds = self._xds
        if xds is not None:
            await self._until(lambda: xds.forgotten(messages.SCOPE, policy.address), policy.address)

    def _offer(self, resource: Resource) -> None:
        if self._xds is not None:
            self._xds.put(resource)
        elif self._catalogue is not None:
            self._catalogue.put(resource)

    def _drop(self, type_url: str, name: str) -> None:
        if self._xds is not None:
            self._xds.drop(type_url, name)
        elif self._catalogue is not None:
            self._catalogue.drop(type_url, name)

    def _received(self, _: Receipt) -> None:
        for event in self._receipts:
            event.set()

    async def _in_force(self, resources: Sequence[Resource]) -> None:
        xds = self._xds
        if xds is not None and resources:
            await self._until(lambda: all(xds.in_force(resource) for resource in resources), resources[-1].name)

    async def _until(self, true: Callable[[], bool], address: str) -> None:
        """Wait for what Envoy has to say, but not for long."""
        received = asyncio.Event()
        self._receipts.add(received)
        try:
            async with asyncio.timeout(_IN_FORCE_SECONDS):
                while not true():
                    received.clear()
                    await received.wait()
        except TimeoutError:
            _log.warning("Envoy has not confirmed the change of the egress rules of %s yet", address)
        finally:
            self._receipts.discard(received)

    def is_in_force(self, address: str) -> bool:
        """Whether Envoy has confirmed the rules of an address in its usual form."""
        from cube.egress import messages

        if self._xds is None or self._catalogue is None:
            return False
        resource = self._catalogue.of(messages.SCOPE).get(address)
        return resource is not None and self._xds.in_force(resource)


def _canonical(address: str) -> str:
    try:
        return str(ipaddress.IPv4Address(address))
    except ValueError:
        raise InvalidInput(f"{address[:64]!r} is not an IPv4 address", field="address") from None

"""Policies in force: what of them is in the kernel's sets, and every change as one transaction."""

from __future__ import annotations

import errno
import itertools
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from cube.model.egress import WEB_PORTS
from cube.model.errors import HostError
from cube.netagent import cutting, ruleset
from cube.netagent.compiled import CompiledPolicy
from cube.netagent.conntrack import Flow, Unwanted
from cube.netagent.elements import SETS, Elements, Key, generation_of, policy_elements, replace, same_policy
from cube.netagent.learned import LearnedAddresses
from cube.netagent.nfelements import Element, ElementSocket, Transaction
from cube.netagent.words import DIVERTED_FLOW, LAST_GENERATION, Target

#: How often a change is tried that met the end of what was learned, which the kernel forgets by itself.
_ATTEMPTS: Final = 3
_TCP: Final = 6
_UDP: Final = 17


@dataclass(slots=True)
class _InForce:
    """What is known of one sandbox."""

    #: ``None`` for what an earlier run has left.
    policy: CompiledPolicy | None = None
    elements: Elements = field(default_factory=dict)
    learned: LearnedAddresses = field(default_factory=LearnedAddresses)


class Policies:
    """The policies of one instance's sandboxes, by their address. Everything blocks; use from one thread at a time.

    Raises ``HostError`` when the kernel refuses a change; then nothing of it is in force.
    """

    def __init__(self, table: str, cut: Callable[[IPv4Address, Unwanted], None] | None = None) -> None:
        """``cut`` sees to it that connections are forgotten; without it that is done at once, which takes long."""
        self._table = table
        self._cut = cut or (lambda address, unwanted: cutting.cut({address: unwanted}))
        self._socket: ElementSocket | None = None
        self._in_force: dict[IPv4Address, _InForce] = {}
        self._generations = itertools.cycle(range(1, LAST_GENERATION + 1))
        # Connections of an earlier run must not look as if a policy of this one had let them through.
        for _ in range(secrets.randbelow(4096)):
            next(self._generations)

    def open(self) -> None:
        """Take stock of what an earlier run has left in the table, which must be there."""
        self.close()
        self._socket = ElementSocket()
        found = self._stock()
        self._in_force = {
            address: _InForce(None, found.elements.get(address, {}), LearnedAddresses(found.learned.get(address)))
            for address in found.elements.keys() | found.learned.keys()
        }

    def close(self) -> None:
        """Let go of the socket; the policies stay in force."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def rebuild(self) -> None:
        """Put everything in force again after the table was lost and made anew."""
        for address, state in list(self._in_force.items()):
            self._resync(address, state)
            if state.policy is None:
                del self._in_force[address]
            else:
                self._put(address, state, state.policy)

    def addresses(self) -> set[IPv4Address]:
        """Addresses that have a policy."""
        return set(self._in_force)

    def set(self, address: IPv4Address, policy: CompiledPolicy) -> None:
        """Put a policy in force in place of an earlier one, at once and as a whole.

        What it does not allow any more is cut: the next packet of such a connection is refused, and the connection is
        forgotten. Names that it still speaks of need not be asked for again.
        """
        state = self._in_force.get(address) or _InForce()
        former = state.elements
        self._put(address, state, policy)
        self._in_force[address] = state
        if former and former is not state.elements:
            self._cut(address, lambda flow: not _goes_on(flow, state))

    def clear(self, address: IPv4Address) -> None:
        """Take the policy away: the address is closed. Without one nothing happens."""
        state = self._in_force.get(address)
        if state is None:
            return

        def change() -> Transaction:
            transaction = Transaction(self._table)
            replace(transaction, state.elements, {})
            transaction.delete(state.learned.elements(address))
            return transaction

        self._commit(address, state, change)
        del self._in_force[address]

    def learn(self, address: IPv4Address, name: str, found: Iterable[IPv4Address], seconds: float) -> None:
        """Let a name's addresses be reached as the policy says of it, for so long; nothing when it says nothing."""
        state = self._in_force.get(address)
        if state is None or state.policy is None:
            return
        policy, addresses = state.policy, tuple(found)
        state.learned.heard(name, addresses, time.monotonic() + seconds)
        self._commit(
            address,
            state,
            lambda: self._relearn(Transaction(self._table), address, state, policy, only=addresses, same=True),
        )
        state.learned.told_all()

    # -- inside --------------------------------------------------------------------------------------------------

    def _put(self, address: IPv4Address, state: _InForce, policy: CompiledPolicy) -> None:
        generation = generation_of(state.elements) or next(self._generations)
        fresh = policy_elements(address, policy, generation)
        same = same_policy(fresh, state.elements)
        if same:
            fresh = dict(state.elements)
        elif state.elements:
            fresh = policy_elements(address, policy, next(self._generations))

        def change() -> Transaction:
            transaction = Transaction(self._table)
            replace(transaction, state.elements, fresh)
            return self._relearn(transaction, address, state, policy, same=same)

        self._commit(address, state, change)
        state.learned.told_all()
        state.policy = policy
        if fresh != state.elements:
            state.elements = fresh

    def _relearn(
        self,
        transaction: Transaction,
        address: IPv4Address,
        state: _InForce,
        policy: CompiledPolicy,
        *,
        only: Collection[IPv4Address] | None = None,
        same: bool,
    ) -> Transaction:
        gone, new = state.learned.changes(address, policy, time.monotonic(), only=only, same=same)
        transaction.delete(gone)
        transaction.add(new)
        return transaction

    def _commit(self, address: IPv4Address, state: _InForce, change: Callable[[], Transaction]) -> None:
        """Carry out what ``change`` makes of what is known. When the kernel knows otherwise, learn from it first."""
        for attempt in range(_ATTEMPTS):
            try:
                self._open_socket.commit(change())
            except OSError as error:
                last = attempt == _ATTEMPTS - 1
                if last or error.errno not in (errno.ENOENT, errno.EEXIST):
                    raise HostError(f"the kernel refused the network policy of {address}: {error.strerror}") from error
                self._resync(address, state)
            else:
                return

    @property
    def _open_socket(self) -> ElementSocket:
        if self._socket is None:
            raise HostError("network policies cannot be changed: the network is not up")
        return self._socket

    def _resync(self, address: IPv4Address, state: _InForce) -> None:
        found = self._stock()
        state.elements = found.elements.get(address, {})
        state.learned.resync(found.learned.get(address))

    def _stock(self) -> _Stock:
        socket, stock = self._open_socket, _Stock()
        for name in SETS:
            for element in socket.elements(self._table, name):
                stock.elements.setdefault(IPv4Address(element.key[:4]), {})[name, element.key] = element
        for element in socket.elements(self._table, ruleset.LEARNED):
            stock.learned.setdefault(IPv4Address(element.key[:4]), []).append(element)
        return stock


@dataclass(slots=True)
class _Stock:
    elements: dict[IPv4Address, dict[Key, Element]] = field(default_factory=dict)
    learned: dict[IPv4Address, list[Element]] = field(default_factory=dict)


def _goes_on(flow: Flow, state: _InForce) -> bool:
    if state.policy is None:
        return False
    target = state.learned.target(flow.destination) or state.policy.target(flow.destination)
    judged = flow.protocol in (_TCP, _UDP) and flow.port in (*WEB_PORTS, *state.policy.ports)
    diverted = bool(flow.mark & DIVERTED_FLOW)
    if target is Target.REFUSE or (target is Target.GATEWAY_ONLY and not judged):
        return False
    if target in (Target.GATEWAY, Target.GATEWAY_ONLY) and judged:
        return diverted and flow.protocol == _TCP
    return not diverted

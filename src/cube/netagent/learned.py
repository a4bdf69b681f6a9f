"""Addresses that one sandbox has learned from the answers of its gateway's resolver. No kernel, no clock of its own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from ipaddress import IPv4Address
from typing import Final

from cube.netagent.compiled import CompiledPolicy, combined
from cube.netagent.elements import learned_element
from cube.netagent.nfelements import Element, mark_value
from cube.netagent.words import Target

#: Addresses of one sandbox; the ones heard of longest ago go first when there are more.
MOST_ADDRESSES: Final = 4096
#: Seconds by which the end of an address may be off before the kernel is told again.
_SLACK: Final = 1.0
#: Seconds between looking for what is over.
_TIDY_INTERVAL: Final = 5.0


@dataclass(slots=True)
class _Address:
    #: Until when each name's answer is good, by the monotonic clock.
    names: dict[str, float] = field(default_factory=dict)
    #: What the kernel was told, and until when; ``None`` when nothing.
    told: tuple[Target, float] | None = None
    #: What it is being told.
    telling: tuple[Target, float] | None = None


class LearnedAddresses:
    """What was heard, and what the kernel was told of it."""

    def __init__(self, there: Sequence[Element] | None = None) -> None:
        """``there`` is what the kernel has of an earlier run."""
        self._addresses: dict[IPv4Address, _Address] = {}
        self._tidied = time.monotonic()
        self.resync(there)

    def resync(self, there: Sequence[Element] | None) -> None:
        """Believe what the kernel has, and nothing else."""
        now = time.monotonic()
        told = {IPv4Address(element.key[4:8]): (_target(element), now + element.seconds) for element in there or ()}
        for one, address in self._addresses.items():
            address.told = address.telling = told.get(one)
        for one, what in told.items():
            self._addresses.setdefault(one, _Address(told=what, telling=what))

    def heard(self, name: str, found: Iterable[IPv4Address], until: float) -> None:
        """A name has these addresses until then."""
        for one in found:
            address = self._addresses.pop(one, None) or _Address()
            address.names[name] = max(until, address.names.get(name, until))
            self._addresses[one] = address

    def changes(
        self,
        sandbox: IPv4Address,
        policy: CompiledPolicy,
        now: float,
        *,
        only: Collection[IPv4Address] | None = None,
        same: bool = False,
    ) -> tuple[list[Element], list[Element]]:
        """What the kernel must delete and add for the policy to hold for what was heard; then :meth:`told_all`.

        Where the policy is the ``same`` as before, what the kernel has of an earlier run stays, whose names are not
        known; and ``only`` the addresses just heard of need to be looked at.
        """
        self._tidy(now)
        gone: list[Element] = []
        new: list[Element] = []
        old = list(itertools.islice(self._addresses, max(0, len(self._addresses) - MOST_ADDRESSES)))
        for one in (*old, *(self._addresses if only is None else only)):
            address = self._addresses[one]
            wanted = None if one in old else _wanted(one, address, policy, now)
            if same and not address.names and one not in old:
                wanted = address.told
            address.telling = address.told if _is_told(address.told, wanted) else wanted
            if address.telling == address.told:
                continue
            if address.told is not None and address.told[1] > now:
                gone.append(learned_element(sandbox, one, address.told[0], 0))
            if wanted is not None:
                new.append(learned_element(sandbox, one, wanted[0], wanted[1] - now))
        for one in old:
            self._addresses[one].names.clear()
        return gone, new

    def told_all(self) -> None:
        """The kernel has taken the changes."""
        for address in self._addresses.values():
            address.told = address.telling

    def elements(self, sandbox: IPv4Address) -> Iterator[Element]:
        """Everything that the kernel was told and has not forgotten by itself."""
        now = time.monotonic()
        for one, address in self._addresses.items():
            if address.told is not None and address.told[1] > now:
                yield learned_element(sandbox, one, address.told[0], 0)

    def target(self, one: IPv4Address) -> Target | None:
        """Where an address leads by what was learned; ``None`` when nothing was, or is good no more."""
        address = self._addresses.get(one)
        if address is None or address.told is None or address.told[1] <= time.monotonic():
            return None
        return address.told[0]

    def _tidy(self, now: float) -> None:
        """Forget what is over, from time to time."""
        if now < self._tidied + _TIDY_INTERVAL:
            return
        self._tidied = now
        for address in self._addresses.values():
            if any(until <= now for until in address.names.values()):
                address.names = {name: until for name, until in address.names.items() if until > now}
            if address.told is not None and address.told[1] <= now:
                address.told = address.telling = None
        self._addresses = {one: address for one, address in self._addresses.items() if address.told or address.names}


def _wanted(one: IPv4Address, address: _Address, policy: CompiledPolicy, now: float) -> tuple[Target, float] | None:
    """What the kernel shall know of an address; ``None`` when its networks say the same."""
    good = {name: until for name, until in address.names.items() if until > now}
    targets = [policy.target_of_name(name, one) for name in good]
    target = reduce(combined, targets, policy.target(one))
    return None if target is policy.target(one) else (target, max(good.values()))


def _is_told(told: tuple[Target, float] | None, wanted: tuple[Target, float] | None) -> bool:
    if told is None or wanted is None:
        return told == wanted
    return told[0] is wanted[0] and abs(told[1] - wanted[1]) < _SLACK


def _target(element: Element) -> Target:
    return Target(mark_value(element.value))

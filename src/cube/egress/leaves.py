"""Certificates minted when they are asked for, the most recently used of which are kept.

Who asks is not known here, the name alone is. A name that a rule says in full is always minted: there are no more of
those than rules. Names that only fit a wildcard could be made up without end, so each wildcard has a budget of its own,
and a sandbox that uses up that of its rules takes nothing from sandboxes with others.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cube.egress.ca import Authority

#: Envoy needs about 30 KB for each.
MOST_LEAVES = 4096
#: A leaf is used for six of the seven days that it is valid.
_USE_SECONDS = 6 * 24 * 3600.0
#: Leaves that may be minted in one second, and how many may be saved up: for all wildcards, and for each of them.
#: Signing takes 0.2 ms.
_RATE, _BURST = 200.0, 1000.0
_PATTERN_RATE, _PATTERN_BURST = 20.0, 200.0
#: Budgets that are remembered; one that was not used for longest is full again by the time it is forgotten.
_MOST_BUDGETS = 4096


@dataclass(frozen=True, slots=True)
class Leaf:
    """A server certificate in PEM form, and when it was minted."""

    name: str
    certificate: bytes
    minted: float
    #: What of the rules it was minted for.
    pattern: str


class _Budget:
    """A token bucket."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._refilled = burst, now

    def has(self, now: float) -> bool:
        self._tokens = min(self._burst, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
        return self._tokens >= 1

    def take(self) -> None:
        self._tokens -= 1


class Leaves:
    """The leaves there are. Says which ones are to be forgotten; what forgets them is the caller's."""

    def __init__(
        self, authority: Authority, *, most: int = MOST_LEAVES, clock: Callable[[], float] = time.time
    ) -> None:
        self._authority = authority
        self._most = most
        self._clock = clock
        self._leaves: OrderedDict[str, Leaf] = OrderedDict()
        self._all = _Budget(_RATE, _BURST, clock())
        self._budgets: OrderedDict[str, _Budget] = OrderedDict()

    def __len__(self) -> int:
        return len(self._leaves)

    def get(self, name: str, pattern: str) -> Leaf | None:
        """The leaf of a name, minted if need be; ``None`` when more are asked for than the pattern of the rules may
        have minted in a second."""
        leaf, now = self._leaves.get(name), self._clock()
        if leaf is None or now - leaf.minted > _USE_SECONDS:
            if pattern != name and not self._may_mint(pattern, now):
                return None
            leaf = self._leaves[name] = Leaf(name, self._authority.mint(name), now, pattern)
        self._leaves.move_to_end(name)
        return leaf

    def forget(self) -> list[str]:
        """Drop what is too old or too much; returns the names, which have to be taken from Envoy as well."""
        now = self._clock()
        gone = [leaf.name for leaf in self._leaves.values() if now - leaf.minted > _USE_SECONDS]
        surplus = len(self._leaves) - len(gone) - self._most
        if surplus > 0:
            gone += list(self._expendable(set(gone)))[:surplus]
        for name in gone:
            del self._leaves[name]
        return gone

    def _expendable(self, gone: set[str]) -> Iterator[str]:
        """Made-up names first; of each kind those that were not used for longest."""
        kept = [leaf for leaf in self._leaves.values() if leaf.name not in gone]
        yield from (leaf.name for leaf in kept if leaf.pattern != leaf.name)
        yield from (leaf.name for leaf in kept if leaf.pattern == leaf.name)

    def _may_mint(self, pattern: str, now: float) -> bool:
        budget = self._budgets.setdefault(pattern, _Budget(_PATTERN_RATE, _PATTERN_BURST, now))
        self._budgets.move_to_end(pattern)
        while len(self._budgets) > _MOST_BUDGETS:
            self._budgets.popitem(last=False)
        if not (budget.has(now) and self._all.has(now)):
            return False
        budget.take()
        self._all.take()
        return True

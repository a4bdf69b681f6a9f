"""Certificates minted when they are asked for, the most recently used of which are kept."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cube.egress.ca import Authority

#: Envoy needs about 30 KB for each.
MOST_LEAVES = 4096
#: A leaf is used for six of the seven days that it is valid.
_USE_SECONDS = 6 * 24 * 3600.0
#: Leaves that may be minted in one second, and how many may be saved up. Signing takes 0.2 ms.
_RATE, _BURST = 200.0, 1000.0


@dataclass(frozen=True, slots=True)
class Leaf:
    """A server certificate in PEM form, and when it was minted."""

    name: str
    certificate: bytes
    minted: float


class Leaves:
    """The leaves there are. Says which ones are to be forgotten; what forgets them is the caller's."""

    def __init__(
        self, authority: Authority, *, most: int = MOST_LEAVES, clock: Callable[[], float] = time.time
    ) -> None:
        self._authority = authority
        self._most = most
        self._clock = clock
        self._leaves: OrderedDict[str, Leaf] = OrderedDict()
        self._tokens = _BURST
        self._refilled = clock()

    def __len__(self) -> int:
        return len(self._leaves)

    def get(self, name: str) -> Leaf | None:
        """The leaf of a name, minted if need be; ``None`` when more are asked for than can be minted in a second."""
        leaf = self._leaves.get(name)
        if leaf is None or self._clock() - leaf.minted > _USE_SECONDS:
            if not self._may_mint():
                return None
            leaf = self._leaves[name] = Leaf(name, self._authority.mint(name), self._clock())
        self._leaves.move_to_end(name)
        return leaf

    def forget(self) -> list[str]:
        """Drop what is too old or too much; returns the names, which have to be taken from Envoy as well."""
        now = self._clock()
        gone = [leaf.name for leaf in self._leaves.values() if now - leaf.minted > _USE_SECONDS]
        surplus = len(self._leaves) - len(gone) - self._most
        kept = [name for name in self._leaves if name not in set(gone)] if surplus > 0 else []
        gone += kept[: max(surplus, 0)]
        for name in gone:
            del self._leaves[name]
        return gone

    def _may_mint(self) -> bool:
        now = self._clock()
        self._tokens = min(_BURST, self._tokens + (now - self._refilled) * _RATE)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

"""Connections that a changed policy does not allow any more are forgotten, so that answers do not come in either.

Their next packet out is refused as soon as the policy is in force. Forgetting them takes a listing of the machine's
connections, tens of milliseconds, which no other sandbox's policy has to wait for: it has a thread of its own, and one
listing serves all that have asked by then.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import IPv4Address

from cube.netagent import conntrack
from cube.netagent.conntrack import Unwanted

_log = logging.getLogger(__name__)


class Cutter:
    """Forgets connections, many addresses at a time. :meth:`ask` may be called on any thread."""

    def __init__(self, instance: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{instance}-cut")
        self._lock = threading.Lock()
        self._asked: dict[IPv4Address, Unwanted] = {}
        self._last: Future[None] | None = None

    def ask(self, source: IPv4Address, unwanted: Unwanted) -> None:
        """Have connections forgotten that an address began; soon, see :meth:`settled`."""
        with self._lock:
            self._asked[source] = unwanted
            self._last = self._thread.submit(self._cut)

    async def settled(self) -> None:
        """Wait until everything is forgotten that was asked for before."""
        last = self._last
        if last is not None:
            await asyncio.shield(asyncio.wrap_future(last))

    def close(self) -> None:
        """Finish, and stop."""
        self._thread.shutdown()

    def _cut(self) -> None:
        with self._lock:
            asked, self._asked = self._asked, {}
        cut(asked)


def cut(unwanted: dict[IPv4Address, Unwanted]) -> None:
    """Forget them now. Blocks."""
    try:
        conntrack.forget_flows(unwanted)
    except OSError as error:
        # Their next packet out is refused all the same.
        _log.warning("cannot forget tracked connections of %s: %s", ", ".join(map(str, unwanted)), error)

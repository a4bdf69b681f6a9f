"""The seam between the master and a node: what the master may ask of the agent that runs sandboxes there.

``cube up`` calls the agent directly; in a cluster the same protocol stands in front of an RPC client.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from cube.cubelet.runtime.base import Capabilities
from cube.model.resources import ResourceUsage
from cube.model.sandbox import SandboxSpec
from cube.model.template import Template


class NodeAgent(Protocol):
    """One node. The master never overlaps two calls for one sandbox, except that it may cancel a call and then destroy.

    Cancelling a call is always allowed; what it had begun is removed by the ``destroy`` that follows.
    """

    @property
    def runtime(self) -> str:
        """Name of the runtime that isolates the sandboxes, e.g. ``container``."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What that runtime can do on that machine."""
        ...

    async def create(self, spec: SandboxSpec) -> None:
        """Start a sandbox; returns when it answers.

        Raises ``LimitExceeded`` or ``Unavailable`` (the node is full or busy), ``StorageFull``, ``HostError``.
        """
        ...

    async def destroy(self, sandbox_id: str) -> None:
        """End a sandbox and remove everything that belonged to it; succeeds when there is nothing."""
        ...

    async def pause(self, sandbox_id: str) -> None:
        """Freeze a running sandbox. Raises ``SandboxNotFound``, ``Unsupported``, ``HostError``."""
        ...

    async def resume(self, sandbox_id: str) -> None:
        """Thaw a paused sandbox; returns when it answers. Raises like :meth:`pause`."""
        ...

    async def stats(self, sandbox_id: str) -> ResourceUsage:
        """What a sandbox uses now. Raises ``SandboxNotFound``, or ``SandboxNotRunning`` where a pause ends it."""
        ...

    async def recover(self, specs: Sequence[tuple[SandboxSpec, bool]]) -> set[str]:
        """Take over, after a restart, what an earlier run left running, and end everything that is not listed.

        The flag says whether the sandbox shall be paused; it is brought into that condition, whichever it was in when
        the earlier run stopped. Returns the ids that are alive. Called once, before anything else.
        """
        ...

    def on_death(self, callback: Callable[[str], None]) -> None:
        """Have ``callback(sandbox_id)`` called on the event loop whenever a sandbox ends by itself.

        Only for sandboxes whose ``create`` has returned or that ``recover`` returned.
        """
        ...

    def templates(self) -> Sequence[Template]:
        """The templates that can be cloned on this node now."""
        ...

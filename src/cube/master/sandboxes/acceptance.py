"""What a request for a sandbox must be like, and what becomes of one that is accepted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cube.cubelet.agent import NodeAgent
from cube.master.sandboxes.clock import Clock
from cube.master.sandboxes.lifecycle import WITHOUT_END
from cube.master.sandboxes.origins import Origins
from cube.master.sandboxes.registry import Entry, new_entry
from cube.master.sandboxes.requests import CreateSandbox
from cube.master.volumes.service import VolumeService
from cube.model.errors import Conflict, InvalidInput, Unsupported
from cube.model.mounts import VolumeMount
from cube.model.sandbox import OnTimeout
from cube.settings import Settings


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Checks requests against what the node can do and the settings allow."""

    node: NodeAgent
    settings: Settings
    origins: Origins
    volumes: VolumeService
    clock: Clock

    def entry(self, request: CreateSandbox) -> Entry:
        """The entry of a sandbox that may be created.

        Raises ``TemplateNotFound``, ``InvalidInput``, ``Unsupported``, ``Conflict`` (no such node).
        """
        self.check_timeout(request.timeout)
        self._check_nodes(request.nodes)
        if request.on_timeout is OnTimeout.PAUSE:
            self.require_pause()
        origin, volumes = self.origins.find(request.template), self._volumes_of(request)
        entry = new_entry(request, origin, volumes, runtime=self.node.runtime, now=self.clock.now())
        offered = self.node.offer(entry.spec)
        return entry if offered is None else entry.renamed(offered)

    def check_timeout(self, seconds: int) -> None:
        """Raises ``InvalidInput``."""
        longest = self.settings.max_timeout
        if seconds != WITHOUT_END and not 0 <= seconds <= longest:
            raise InvalidInput(f"timeout must be 0 to {longest} seconds, or -1 for no end", field="timeout")

    def require_pause(self) -> None:
        """Raises ``Unsupported``."""
        if not self.node.capabilities.pause:
            raise Unsupported(f"the runtime {self.node.runtime!r} cannot pause sandboxes")

    def _volumes_of(self, request: CreateSandbox) -> tuple[VolumeMount, ...]:
        if request.volume_mounts and not self.node.capabilities.volumes:
            raise Unsupported(f"the runtime {self.node.runtime!r} cannot mount volumes")
        return self.volumes.resolve(request.volume_mounts)

    def _check_nodes(self, nodes: Collection[str]) -> None:
        own = {self.settings.instance, *self.settings.public_addresses, self.settings.public_address}
        if nodes and own.isdisjoint(nodes):
            raise Conflict(f"distributionScope: there is no such node, only {self.settings.instance!r}")

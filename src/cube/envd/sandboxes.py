"""What envd and the code interpreter need to know of the sandboxes they serve; the cubelet provides it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from cube.envd.guest import Guest
from cube.model.resources import Resources, ResourceUsage
from cube.model.template import ImageConfig


@dataclass(slots=True)
class EnvdSandbox:
    """One running sandbox. ``state`` is envd's own drawer: per-sandbox tables that live exactly as long as it does."""

    sandbox_id: str
    guest: Guest
    access_token: str | None = field(repr=False)
    default_user: str
    default_workdir: str
    env_vars: dict[str, str] = field(repr=False)
    image: ImageConfig
    resources: Resources
    code_interpreter: bool
    #: Keyed by the owning module's name; values with an async ``close()`` are closed when the sandbox stops.
    state: dict[str, object] = field(default_factory=dict, repr=False)


class EnvdSandboxes(Protocol):
    """Lookup of sandboxes by id."""

    async def get(self, sandbox_id: str) -> EnvdSandbox:
        """The running sandbox; raises ``SandboxNotFound`` or ``SandboxNotRunning``. May wait for one that is waking
        up."""
        ...

    def running(self) -> Iterable[EnvdSandbox]:
        """All that run now; used to find the owner of a signed URL that carries no routing header."""
        ...

    async def usage(self, sandbox_id: str) -> ResourceUsage:
        """What it uses now; raises like :meth:`get`."""
        ...

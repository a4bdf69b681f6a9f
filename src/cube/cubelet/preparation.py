"""What is run beside new sandboxes so that their first request is fast, such as loading an interpreter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cube.cubelet.resident import Resident
from cube.envd.sandboxes import EnvdSandbox
from cube.model.errors import CubeError

log = structlog.get_logger(__name__)

#: Preparations at the same time: they load whole interpreters, and requests come first.
_AT_ONCE = 2

Prepare = Callable[[EnvdSandbox], Awaitable[None]]


class Preparation:
    """Prepares sandboxes, a few at a time. A failure is logged and harms nothing."""

    def __init__(self, prepare: Prepare | None) -> None:
        """Without ``prepare`` there is nothing to do."""
        self._prepare = prepare
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def worthwhile(self, resident: Resident) -> bool:
        """Whether there is anything to prepare in it."""
        return self._prepare is not None and resident.spec.template.code_interpreter

    async def of(self, resident: Resident) -> None:
        """Prepare one, which is noted in it."""
        if not resident.spec.template.code_interpreter:
            resident.prepared = True
        elif self._prepare is not None:
            await self._prepared(self._prepare, resident)

    async def _prepared(self, prepare: Prepare, resident: Resident) -> None:
        try:
            async with self._turns:
                if resident.view is not None:
                    await prepare(resident.view)
            resident.prepared = True
        except CubeError as error:
            log.info("sandbox.prepare_failed", sandbox=resident.spec.sandbox_id, reason=error.message)

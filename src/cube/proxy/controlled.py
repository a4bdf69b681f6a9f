"""An Envoy together with the control plane that tells it what to do."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from cube.model.errors import HostError
from cube.proxy.delta import Accepted, Catalogue, Rejected
from cube.proxy.envoy import EnvoyProcess

if TYPE_CHECKING:
    from cube.proxy.xds import XdsServer

_log = logging.getLogger(__name__)
_CONFIGURED_SECONDS = 20.0

Job = Callable[[], Coroutine[object, object, None]]
Receipt = Accepted | Rejected


@asynccontextmanager
async def controlled(
    envoy: EnvoyProcess,
    discovery: socket.socket,
    catalogue: Catalogue,
    task: str,
    *jobs: Job,
    on_receipt: Callable[[Receipt], None] = lambda _: None,
) -> AsyncIterator[XdsServer]:
    """Serve the catalogue on ``discovery``, start Envoy, wait until it listens, and look after it; leaving stops it.

    ``task`` is what it could not do should it fail, for the error; ``jobs`` run beside the control plane.
    Raises ``HostError`` with the reason, for example that a port is taken.
    """
    from cube.proxy import resources
    from cube.proxy.xds import XdsServer

    configured: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def received(receipt: Receipt) -> None:
        on_receipt(receipt)
        if isinstance(receipt, Rejected):
            _refused(configured, task, receipt.reason)
        elif receipt.response.type_url == resources.LISTENER and not configured.done():
            configured.set_result(None)

    xds = XdsServer(catalogue, received)
    async with AsyncExitStack() as undo:
        await undo.enter_async_context(background(partial(xds.serve, discovery), *jobs))
        undo.push_async_callback(envoy.stop)
        await envoy.start()
        await _until(configured)
        await undo.enter_async_context(background(envoy.supervise))
        yield xds


def _refused(configured: asyncio.Future[None], task: str, reason: str) -> None:
    if configured.done():
        _log.error("a proxy refused a change of its configuration and stays with what it had: %s", reason)
    else:
        configured.set_exception(HostError(f"the proxy cannot {task}: {reason}"))


async def _until(configured: asyncio.Future[None]) -> None:
    try:
        await asyncio.wait_for(configured, _CONFIGURED_SECONDS)
    except TimeoutError:
        raise HostError("the proxy did not fetch its configuration in time: see its envoy.log in run_dir") from None


@asynccontextmanager
async def background(*jobs: Job) -> AsyncIterator[None]:
    """Run jobs beside the body; when one of them fails the others end, and that is logged."""
    task = asyncio.create_task(_together(jobs), name="cube-proxy")
    task.add_done_callback(_report)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _together(jobs: Iterable[Job]) -> None:
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(job())


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("a proxy is no longer looked after; restart the service", exc_info=error)

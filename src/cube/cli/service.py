"""The whole service in one process: puts the parts together, runs them, and can take everything down."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from cube.api.app import create_api
from cube.api.authority import authority
from cube.cli import logs
from cube.cli.http_server import http_server, stop_signal
from cube.cli.network_doors import network_doors, only_agent
from cube.cubelet.memory import MemoryGauge
from cube.cubelet.node import Cubelet
from cube.cubelet.runtime.choice import all_runtimes, choose, find_out
from cube.cubelet.stock import Bounds
from cube.cubelet.storage.images import ImageStore
from cube.cubelet.volumes.store import VolumeStore
from cube.egress.admin_api import create_admin_api
from cube.egress.gateway import CubeEgress
from cube.egress.opening import open_gateway
from cube.egress.remains import remove_remains
from cube.envd.app import create_envd_app
from cube.envd.interpreter import create_interpreter_app, prewarm
from cube.envd.sandboxes import EnvdSandbox
from cube.envd.traffic import TrafficGate, admit
from cube.helper.process import Helper
from cube.master.sandboxes.service import SandboxService, sandbox_service
from cube.model.errors import CubeError, SandboxNotFound, SandboxNotRunning
from cube.model.template import Template
from cube.netagent.agent import NetworkAgent
from cube.netagent.networks.service import Networks
from cube.proxy import sockets
from cube.proxy.inbound import CubeProxy
from cube.proxy.routes import Gone, Route
from cube.settings import Settings

log = structlog.get_logger(__name__)

_SERVICE_HEADER = b"x-cube-service"


async def serve(settings: Settings) -> bool:
    """Run the service until SIGTERM or SIGINT; True for SIGINT, which asks to end the sandboxes too."""
    logs.configure(settings.log_level)
    _allow_many_descriptors()
    # Requests are served by one thread; what others do in the background must not make it wait for 5 ms, the default.
    sys.setswitchinterval(0.0001)
    ended = stop_signal()
    async with running(settings):
        _spare_the_collector()
        log.info("service.started", url=settings.public_url)
        received = await ended
    log.info("service.stopped", signal=received.name)
    return received is signal.SIGINT


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[None]:
    """The service, started; leaving stops it and lets its sandboxes live."""
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    async with AsyncExitStack() as stack:
        images = ImageStore(settings)
        await asyncio.to_thread(images.load)
        gateway = await asyncio.to_thread(open_gateway, settings)
        stack.enter_context(only_agent(settings))
        helper = Helper()
        stack.callback(helper.close)
        network = NetworkAgent(settings, gateway, helper=helper)
        stack.push_async_callback(network.close)
        await network.start()
        runtime = await choose(settings, images, network, helper)
        stack.push_async_callback(runtime.close)
        if runtime.capabilities.isolation == "container":
            helper.start()
        await runtime.start()
        networks = Networks(settings, network)
        stack.push_async_callback(networks.close)
        await networks.start()
        await stack.enter_async_context(_beside(find_out(settings)))
        volumes = VolumeStore(settings)
        await asyncio.to_thread(volumes.open)
        gauge = MemoryGauge(settings.memory_reserve)
        slow = runtime.capabilities.isolation != "container"
        stock = Bounds(settings.warm_pool, settings.warm_pool_max, gauge, every_template=slow)
        templates = _Templates(settings, images)
        node = Cubelet(runtime, templates, volumes=volumes, prepare=prewarm, stock=stock, network=network)
        cubelet = await stack.enter_async_context(node)
        service = await stack.enter_async_context(sandbox_service(cubelet, settings))
        # It knows the rules of all sandboxes that there are by now. Until it serves they are closed.
        gateway.use_secrets(service.secrets)
        stack.push_async_callback(gateway.close)
        await gateway.start()
        await _open_doors(stack, settings, service, cubelet)
        await _open_admin(stack, settings, gateway)
        await stack.enter_async_context(network_doors(settings, networks))
        yield


async def _open_admin(stack: AsyncExitStack, settings: Settings, gateway: CubeEgress) -> None:
    """The outbound proxy's own API, for root alone."""
    listener = stack.enter_context(sockets.listening(settings.egress_admin_socket, os.geteuid()))
    await stack.enter_async_context(http_server(create_admin_api(gateway), listener))


async def _open_doors(stack: AsyncExitStack, settings: Settings, service: SandboxService, cubelet: Cubelet) -> None:
    """The two sockets behind the proxy, then the proxy itself."""
    sockets.prepare_directory(settings.api_socket.parent, settings.proxy_uid)
    sandboxes = _Remembered(service, cubelet)
    doors = {
        settings.api_socket: create_api(service, settings, await stack.enter_async_context(authority(settings))),
        settings.envd_socket: _ByService(
            create_envd_app(sandboxes), _gated(create_interpreter_app(sandboxes), service)
        ),
    }
    for path, app in doors.items():
        listener = stack.enter_context(sockets.listening(path, settings.proxy_uid))
        await stack.enter_async_context(http_server(app, listener))
    directory = _Directory(service, cubelet)
    proxy = CubeProxy(settings, directory)
    directory.proxy = proxy
    cubelet.on_unreachable(proxy.removed)
    stack.push_async_callback(proxy.close)
    await proxy.start()


def _gated(app: Any, service: SandboxService) -> TrafficGate:
    """Port 49999 behind the traffic access token, which the proxy asks for on the ports that it routes itself."""

    def token_of(sandbox_id: str) -> str | None:
        with contextlib.suppress(SandboxNotFound):
            return service.ingress(sandbox_id).traffic_access_token
        return None

    return TrafficGate(app, token_of)


class _ByService:
    """envd and the code interpreter share a socket; the proxy says in a header which of them is meant."""

    def __init__(self, envd: Any, interpreter: Any) -> None:
        self._envd = envd
        self._interpreter = interpreter

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        interpreter = scope["type"] == "http" and (_SERVICE_HEADER, b"interpreter") in scope["headers"]
        await (self._interpreter if interpreter else self._envd)(scope, receive, send)


class _Templates:
    """The templates of this node, read again when `cube template` has changed them."""

    def __init__(self, settings: Settings, images: ImageStore) -> None:
        self._directory = settings.templates_dir
        self._images = images
        self._seen = 0

    def __call__(self) -> list[Template]:
        changed = os.stat(self._directory).st_mtime_ns
        if changed != self._seen:
            self._images.load()
            self._seen = changed
        return self._images.templates()


class _Remembered:
    """The cubelet's sandboxes, with the master's memory of those that have ended: clients are told the difference."""

    def __init__(self, service: SandboxService, cubelet: Cubelet) -> None:
        self._service = service
        self._cubelet = cubelet
        self.running = cubelet.running
        self.usage = cubelet.usage

    async def get(self, sandbox_id: str) -> EnvdSandbox:
        """See :class:`cube.envd.sandboxes.EnvdSandboxes`."""
        try:
            return await self._cubelet.get(sandbox_id)
        except SandboxNotFound:
            if self._service.knows(sandbox_id):
                raise SandboxNotRunning(sandbox_id, "gone") from None
            raise
        except SandboxNotRunning:
            await self._service.wake(sandbox_id)
            return await self._cubelet.get(sandbox_id)


class _Directory:
    """Tells the proxy where a sandbox is; asked once per sandbox, for its first request to a port of its own."""

    proxy: CubeProxy

    def __init__(self, service: SandboxService, cubelet: Cubelet) -> None:
        self._service = service
        self._cubelet = cubelet

    async def lookup(self, sandbox_id: str, token: str = "") -> Route | Gone | None:
        """See :class:`cube.proxy.routes.Directory`."""
        if not self._service.knows(sandbox_id):
            return None
        try:
            ingress = self._service.ingress(sandbox_id)
        except SandboxNotFound:
            return Gone(sandbox_id)
        admit(ingress.traffic_access_token, token)
        address = self._cubelet.address(sandbox_id) or await self._woken(sandbox_id)
        if address is None:
            return Gone(sandbox_id)
        route = Route(sandbox_id, address, ingress.traffic_access_token, ingress.mask_request_host)
        self.proxy.added(route)
        return route

    async def _woken(self, sandbox_id: str) -> str | None:
        """The address of a sandbox that its client wants to be woken up by traffic."""
        with contextlib.suppress(CubeError):
            await self._service.wake(sandbox_id)
        return self._cubelet.address(sandbox_id)


class _Nobody:
    """The directory of a proxy that is not started."""

    async def lookup(self, sandbox_id: str, token: str = "") -> Route | Gone | None:
        """Nothing is known."""
        return None


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Something is done beside the block, and given up at its end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _spare_the_collector() -> None:
    """What is there now stays; looking through it again and again took a tenth of the time of a create."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _allow_many_descriptors() -> None:
    """Every sandbox takes a few; where they run out, those that arrive with a message are lost."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def tear_down(settings: Settings) -> int:
    """End every sandbox of the instance and remove what it has on this machine, the templates and records apart.

    For a service that is not running, however it ended. Returns how many sandboxes there were.
    """
    runtimes = all_runtimes(settings, ImageStore(settings))
    found = set().union(*[await runtime.leftovers() for runtime in runtimes])
    await CubeProxy(settings, _Nobody()).remove()
    await remove_remains(settings)
    for runtime in runtimes:
        await runtime.remove()
    _remove_run_dir(settings.run_dir)
    return len(found)


def _remove_run_dir(directory: Path) -> None:
    """Only what is ours: the setting may name a directory that others use too."""
    for name in ("sandboxes", "stage", "images", "proxy", "egress", "vm", "network"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in ("cube-init", "cube.pid", "egress-admin.sock"):
        (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()

"""CubeProxy: the public port, behind which API, envd and sandboxes are told apart."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cube.model.errors import HostError, InvalidInput
from cube.proxy import certificates, clusters, lookup, sockets
from cube.proxy.bootstrap import bootstrap
from cube.proxy.controlled import background, controlled
from cube.proxy.delta import Catalogue
from cube.proxy.envoy import EnvoyOptions, EnvoyProcess
from cube.proxy.listener import public_listener
from cube.proxy.routes import Directory, Route
from cube.proxy.table import RouteTable
from cube.proxy.vocabulary import Json
from cube.settings import Settings

if TYPE_CHECKING:
    from cube.proxy.xds import XdsServer

_log = logging.getLogger(__name__)
#: How often the certificate is looked at.
_RENEWAL_SECONDS = 3600.0
_UNPRIVILEGED_PORTS = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


class CubeProxy:
    """The inbound proxy of one instance.

    The routing table starts empty: after :meth:`start`, call :meth:`added` for every sandbox that runs. Until then,
    and for sandboxes that it does not know, ``directory`` is asked. Call :meth:`removed` before a sandbox's address
    is given to another one. Open connections end with the sandbox: its processes die, the kernel closes their
    sockets, and Envoy resets the client's side.
    """

    def __init__(
        self, settings: Settings, directory: Directory, *, concurrency: int = 2, binary: Path | None = None
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._network = ipaddress.IPv4Network(settings.network_cidr)
        self._home = settings.run_dir / "proxy"
        self._table = RouteTable(self._home / "routes")
        self._envoy = EnvoyProcess(self._envoy_options(concurrency), binary)
        self._undo = AsyncExitStack()

    @property
    def envoy_pid(self) -> int | None:
        """Process id of Envoy while it runs."""
        return self._envoy.pid

    def added(self, route: Route) -> None:
        """Make a sandbox reachable, from the next request on.

        Raises ``InvalidInput`` for an address outside the sandbox network: the proxy must not dial anything else.
        """
        if ipaddress.IPv4Address(route.address) not in self._network:
            raise InvalidInput(f"{route.address} is not an address of the sandbox network", field="address")
        self._table.add(route)

    def removed(self, sandbox_id: str) -> None:
        """New requests no longer get to the sandbox; without a route this does nothing."""
        self._table.remove(sandbox_id)

    async def start(self) -> None:
        """Serve the public port. Raises ``HostError`` with the reason, for example that the port is taken."""
        sockets.prepare_directory(self._home, self._settings.proxy_uid)
        sockets.make_readable(self._home / "routes", self._settings.proxy_uid)
        self._undo.callback(sockets.remove_directory, self._home)
        self._table.clear()
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop Envoy and remove what :meth:`start` made; may be called twice."""
        await self._undo.aclose()

    async def remove(self) -> None:
        """Remove what a killed run of the service left: its Envoy, sockets and files. Instead of :meth:`start`."""
        await self._envoy.end_former()
        for socket in (self._settings.api_socket, self._settings.envd_socket, self._settings.xds_socket):
            socket.unlink(missing_ok=True)
        (self._home / "lookup.sock").unlink(missing_ok=True)
        sockets.remove_directory(self._home)

    async def _start(self) -> None:
        catalogue = await asyncio.to_thread(self._catalogue)
        listen = partial(sockets.listening, uid=self._settings.proxy_uid)
        discovery = self._undo.enter_context(listen(self._settings.xds_socket))
        questions = self._undo.enter_context(listen(self._home / "lookup.sock"))
        answers = partial(lookup.serve, questions, self._directory)
        task = f"serve {self._settings.host}:{self._settings.port}"
        running = controlled(self._envoy, discovery, catalogue, task, answers)
        xds = await self._undo.enter_async_context(running)
        await self._undo.enter_async_context(background(partial(self._renew, xds)))

    def _catalogue(self) -> Catalogue:
        """Imports protobuf and its messages, which takes 0.1 s: for a thread."""
        from cube.proxy import resources

        socket_clusters = {
            "api": self._settings.api_socket,
            "envd": self._settings.envd_socket,
            "lookup": self._home / "lookup.sock",
        }
        catalogue = Catalogue(resources.cluster(clusters.service(*item)) for item in socket_clusters.items())
        catalogue.put(resources.cluster(clusters.sandboxes()))
        catalogue.put(resources.listener(self._listener()))
        return catalogue

    def _listener(self) -> Json:
        settings = self._settings
        tls = certificates.of(settings)
        return public_listener(settings.host, settings.port, settings.public_name, self._home / "routes", tls)

    async def _renew(self, xds: XdsServer) -> None:
        """Serve the certificate that is there, should it be another than before: renewed by the operator, or by us."""
        from cube.proxy import resources

        while True:
            await asyncio.sleep(_RENEWAL_SECONDS)
            try:
                found = resources.listener(await asyncio.to_thread(self._listener))
            except HostError as error:
                _log.error("the certificate is not renewed: %s", error)
            else:
                xds.put(found)

    def _envoy_options(self, concurrency: int) -> EnvoyOptions:
        admin_socket = self._home / "admin" / "admin.sock"
        return EnvoyOptions(
            directory=self._home,
            uid=self._settings.proxy_uid,
            bootstrap=bootstrap(self._settings.instance, admin_socket, self._settings.xds_socket),
            concurrency=concurrency,
            capabilities=("net_bind_service",) if self._needs_privileged_port() else (),
        )

    def _needs_privileged_port(self) -> bool:
        return self._settings.port < int(_UNPRIVILEGED_PORTS.read_text(encoding="ascii"))

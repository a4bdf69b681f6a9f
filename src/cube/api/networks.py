"""``PUT /sandboxes/{id}/network``, and what bodies say about networks as the values of the model."""

from __future__ import annotations

from fastapi import APIRouter, Response

from cube.api.openapi import failures
from cube.api.schemas.network import DnsConfig, NetworkLimits, NetworkPolicy, NetworkUpdate
from cube.master.sandboxes.service import SandboxService
from cube.model.errors import Unsupported
from cube.model.network import NetworkConfig
from cube.model.network_wire import WireNetwork, parse_network


class NetworkRoutes:
    """The route, over a service."""

    def __init__(self, service: SandboxService) -> None:
        self._service = service

    def router(self) -> APIRouter:
        """The route as FastAPI takes it."""
        router = APIRouter(tags=["network"])
        router.add_api_route(
            "/sandboxes/{sandbox_id}/network",
            self.update,
            methods=["PUT"],
            status_code=204,
            responses=failures(404, 409, 413, 501),
        )
        return router

    async def update(self, sandbox_id: str, body: NetworkUpdate) -> Response:
        """Replace what a running or paused sandbox may reach; what is left out of the body is as if never said.

        In force at once: connections that are not allowed any more end.
        """
        await self._service.update_network(sandbox_id, network_config(body))
        return Response(status_code=204)


def network_config(body: NetworkPolicy, *, access: bool | None = None, dns: DnsConfig | None = None) -> NetworkConfig:
    """The policy of a body. ``access`` and ``dns`` are what is said beside it.

    Raises ``InvalidInput``, ``Unsupported``.
    """
    if body.egress_proxy:
        raise Unsupported("network.egressProxy is not supported by this server: leave it out")
    servers = dns.servers if dns is not None and body.dns_servers is None else body.dns_servers
    wire = WireNetwork(
        allow_internet_access=body.allow_internet_access if access is None else access,
        allow_out=body.allow_out,
        deny_out=body.deny_out,
        rules=body.rules,
        dns_servers=servers,
        dns=body.dns,
        limits=_limits(body.limits),
    )
    return parse_network(wire)


def _limits(limits: NetworkLimits | None) -> dict[str, int | None]:
    return {} if limits is None else limits.model_dump()

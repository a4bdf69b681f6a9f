"""The network agent as an ASGI application: Connect RPC, the same as plain HTTP, health, and what is in force.

Who may open its socket may do everything: it is root's alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from cube.envd.asgi import Receive, Scope, Send, respond_json
from cube.envd.codecs import strict_codecs
from cube.envd.errors import connect_error
from cube.model.errors import CubeError
from cube.model.network_wire import shown
from cube.netagent.agent import Attachment
from cube.netagent.networks import wire
from cube.netagent.networks.proto.network import network_pb as pb
from cube.netagent.networks.proto.network.network_connect import NetworkAgent, NetworkAgentASGIApplication
from cube.netagent.networks.service import Networks

_LONGEST_MESSAGE: Final = 4 << 20
_SERVICE: Final = "/cube.network.v1.NetworkAgent/"
#: Paths of plain HTTP, and the method that each is.
_TWINS: Final = {
    "/v1/network/ensure": "EnsureNetwork",
    "/v1/network/release": "ReleaseNetwork",
    "/v1/network/reconcile": "ReconcileNetwork",
    "/v1/network/get": "GetNetwork",
    "/v1/network/list": "ListNetworks",
    "/v1/network/update": "UpdateNetwork",
}
_JSON: Final = (b"content-type", b"application/json")
T = TypeVar("T")


class NetworkService(NetworkAgent):
    """The methods of ``network.proto``."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    async def ensure_network(self, request: pb.EnsureNetworkRequest, ctx: Any) -> pb.EnsureNetworkResponse:
        """The link of a sandbox, made if there is none."""

        async def ensure() -> pb.EnsureNetworkResponse:
            found = await self._networks.ensure(wire.wanted(request))
            return pb.EnsureNetworkResponse(network=wire.network(found))

        return await _answered(ensure)

    async def release_network(self, request: pb.ReleaseNetworkRequest, ctx: Any) -> pb.ReleaseNetworkResponse:
        """Close a link and take it back."""

        async def release() -> pb.ReleaseNetworkResponse:
            await self._networks.release(request.sandbox_id)
            return pb.ReleaseNetworkResponse(released=True)

        return await _answered(release)

    async def reconcile_network(self, request: pb.ReconcileNetworkRequest, ctx: Any) -> pb.ReconcileNetworkResponse:
        """Make again what is missing."""

        async def reconcile() -> pb.ReconcileNetworkResponse:
            found = await self._networks.reconcile()
            return pb.ReconcileNetworkResponse(renewed=list(found.renewed), quarantined=list(found.quarantined))

        return await _answered(reconcile)

    async def get_network(self, request: pb.GetNetworkRequest, ctx: Any) -> pb.GetNetworkResponse:
        """One network, of the node's own sandboxes too."""

        async def get() -> pb.GetNetworkResponse:
            own = [one for one in self._networks.of_the_node() if one.sandbox_id == request.sandbox_id]
            found = wire.attachment(own[0]) if own else wire.network(self._networks.get(request.sandbox_id))
            return pb.GetNetworkResponse(network=found)

        return await _answered(get)

    async def list_networks(self, request: pb.ListNetworksRequest, ctx: Any) -> pb.ListNetworksResponse:
        """All networks, of the node's own sandboxes too."""
        found = [wire.network(one) for one in self._networks.all()]
        found += [wire.attachment(one) for one in self._networks.of_the_node()]
        return pb.ListNetworksResponse(networks=found)

    async def update_network(self, request: pb.UpdateNetworkRequest, ctx: Any) -> pb.UpdateNetworkResponse:
        """Replace the policy of a sandbox."""

        async def update() -> pb.UpdateNetworkResponse:
            found = await self._networks.update(request.sandbox_id, wire.parsed(request.cube_network_config))
            return pb.UpdateNetworkResponse(network=wire.network(found))

        return await _answered(update)

    async def health(self, request: pb.HealthRequest, ctx: Any) -> pb.HealthResponse:
        """How the agent is."""
        reason = await self._networks.unready()
        return pb.HealthResponse(
            ready=not reason,
            reason=reason,
            networks=len(self._networks.attachments()),
            quarantined=sum(one.quarantined for one in self._networks.all()),
            pool={kind.value: ready for kind, ready in self._networks.ready_links().items()},
            tap_files={tier.value: count for tier, count in self._networks.tiers().items()},
        )


class NetworkApp:
    """Everything on one socket."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._service = NetworkService(networks)
        self._rpc = NetworkAgentASGIApplication(
            self._service, read_max_bytes=_LONGEST_MESSAGE, compressions=(), codecs=strict_codecs()
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path in _TWINS:
            await self._twin(scope, receive, send)
        elif path.startswith(_SERVICE):
            await self._rpc(scope, receive, send)
        elif path in ("/healthz", "/readyz", "/v1/policies/dump"):
            await self._look(path, send)
        else:
            await respond_json(send, 404, {"code": "not_found", "message": "no such resource"})

    async def looks(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An application for whoever may look and not change anything: health alone."""
        if scope["type"] != "http":
            return
        if scope["path"] in ("/healthz", "/readyz"):
            await self._look(scope["path"], send)
        else:
            await respond_json(send, 404, {"code": "not_found", "message": "there are /healthz and /readyz"})

    async def _twin(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A method of the service under its plain path, its JSON taken for what it is."""
        if scope["method"] != "POST":
            await respond_json(send, 405, {"code": "unimplemented", "message": "POST, please"})
            return
        path = _SERVICE + _TWINS[scope["path"]]
        await self._rpc({**scope, "path": path, "raw_path": path.encode(), "headers": [_JSON]}, receive, send)

    async def _look(self, path: str, send: Send) -> None:
        if path == "/v1/policies/dump":
            document = await asyncio.to_thread(_dump, self._networks.attachments())
            await respond_json(send, 200, {"policies": document})
            return
        reason = await self._networks.unready() if path == "/readyz" else ""
        await respond_json(send, 503 if reason else 200, {"status": reason or "ok"})


async def _answered(work: Callable[[], Awaitable[T]]) -> T:
    try:
        return await work()
    except CubeError as error:
        raise connect_error(error) from error


def _dump(attachments: list[Attachment]) -> list[dict[str, Any]]:
    """What is in force, and what was asked for; secrets are masked."""
    return [
        {
            "sandbox_id": one.sandbox_id,
            "address": str(one.address),
            "interface": one.link.interface,
            "policy": shown(one.network),
            "word": int(one.policy.word),
            "networks": {str(network): target.name for network, target in one.policy.networks.items()},
            "allowed_names": list(one.policy.allowed_names),
            "judged_names": list(one.policy.judged_names),
            "ports": list(one.policy.ports),
            "connections": one.policy.connections,
            "bytes_per_second": one.policy.bytes_per_second,
        }
        for one in attachments
    ]

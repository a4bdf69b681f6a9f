"""``/admin/v1/``: the outbound proxy's policies, for root of this machine.

It is served on a unix socket that root alone may open. What is changed here counts until the sandbox's rules are set
again or the service is started anew: what lasts goes through ``PUT /sandboxes/{id}/network``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cube.build_info import build
from cube.egress.admin_wire import parse_identified, parse_policy, policy_to_wire, with_rule
from cube.egress.compile import Policy
from cube.model.egress import EgressStatus
from cube.model.egress_wire import MOST_RULES
from cube.model.errors import CubeError, InvalidInput, NotFound

if TYPE_CHECKING:
    from cube.egress.gateway import CubeEgress

#: Longest body.
MOST_BYTES = 1024 * 1024
_Handler = Callable[[Request], Awaitable[Response]]


def create_admin_api(gateway: CubeEgress) -> Starlette:
    """The API over a gateway, as an ASGI application."""
    routes = _Routes(gateway)
    one = "/admin/v1/policies/{address}"
    table: list[tuple[str, str, _Handler]] = [
        ("GET", "/admin/v1/health", routes.health),
        ("GET", "/admin/v1/policies", routes.policies),
        ("GET", "/admin/v1/dump", routes.dump),
        *(("GET", one, routes.get), ("PUT", one, routes.put)),
        *(("PATCH", one, routes.patch), ("DELETE", one, routes.delete)),
    ]
    return Starlette(
        routes=[Route(path, handler, methods=[method]) for method, path, handler in table],
        exception_handlers={CubeError: _refused, HTTPException: _refused},
    )


class _Routes:
    def __init__(self, gateway: CubeEgress) -> None:
        self._gateway = gateway

    async def health(self, _: Request) -> Response:
        status = self._gateway.status()
        word = "ready" if status.ready else "pending"
        return _json({"status": word, **asdict(build()), "policies": status.policies, "pending": list(status.pending)})

    async def policies(self, _: Request) -> Response:
        status = self._gateway.status()
        return _json({"policies": [_summary(one, status) for one in self._gateway.policies()]})

    async def dump(self, _: Request) -> Response:
        return _json({"policies": {one.address: policy_to_wire(one) for one in self._gateway.policies()}})

    async def get(self, request: Request) -> Response:
        return _json(policy_to_wire(self._policy(request)))

    async def put(self, request: Request) -> Response:
        policy = parse_policy(await _body(request), _address(request))
        return await self._set(policy)

    async def patch(self, request: Request) -> Response:
        policy = with_rule(self._policy(request), parse_identified(await _body(request), "rule"))
        return await self._set(policy)

    async def delete(self, request: Request) -> Response:
        await self._gateway.remove(self._policy(request).address)
        return Response(status_code=204)

    async def _set(self, policy: Policy) -> Response:
        if len(policy.rules) > MOST_RULES:
            raise InvalidInput(f"rules exceeds maximum entries: got {len(policy.rules)}, max {MOST_RULES}")
        await self._gateway.put(policy.address, policy.policy_id, policy.rules)
        return _json({"policy_id": policy.policy_id, "in_force": self._gateway.is_in_force(policy.address)})

    def _policy(self, request: Request) -> Policy:
        address = _address(request)
        found = self._gateway.policy(address)
        if found is None:
            raise NotFound(f"there is no policy for {address}")
        return found


def _summary(policy: Policy, status: EgressStatus) -> dict[str, Any]:
    return {
        "ip": policy.address,
        "policy_id": policy.policy_id,
        "rules": len(policy.rules),
        "in_force": policy.address not in status.pending,
    }


def _address(request: Request) -> str:
    text = request.path_params["address"]
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise InvalidInput(f"{text[:64]!r} is not an IPv4 address", field="ip") from None


async def _body(request: Request) -> Any:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MOST_BYTES:
            raise HTTPException(413, f"a body has at most {MOST_BYTES} bytes")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


def _refused(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _json({"code": error.status_code, "message": error.detail}, error.status_code)
    message = error.message if isinstance(error, CubeError) else str(error)
    code = error.code if isinstance(error, CubeError) else 500
    field = {"field": error.field} if isinstance(error, InvalidInput) and error.field else {}
    return _json({"code": code, "message": message, **field}, code)

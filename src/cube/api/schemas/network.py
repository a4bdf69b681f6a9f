"""What clients say about the network of a sandbox."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, ConfigDict, Field

from cube.api.schemas.base import RequestBody, ResponseBody, wire_name
from cube.api.schemas.limits import WHOLE
from cube.proxy.routes import HOST_MASK


def _both(name: str, *more: str) -> AliasChoices:
    """A field under E2B's name and under its Python name, in which CubeSandbox's clients send it."""
    return AliasChoices(wire_name(name), name, *more)


class NetworkLimits(RequestBody):
    """How much a sandbox may send and receive."""

    connections: Annotated[
        int | None, Field(description="Connections at a time: 16, 64, 256, 1024, 4096 or 16384."), WHOLE
    ] = None
    bytes_per_second: Annotated[
        int | None,
        Field(validation_alias=_both("bytes_per_second"), description="In each direction."),
        WHOLE,
    ] = None


class NetworkPolicy(RequestBody):
    """What a sandbox may reach. What is allowed passes, then what is denied is refused, then the rest passes."""

    allow_internet_access: Annotated[
        bool | None,
        Field(
            validation_alias=_both("allow_internet_access"),
            description="`false` is as good as `0.0.0.0/0` in `denyOut`, and closes the resolver for names too.",
        ),
    ] = None
    allow_out: Annotated[
        list[str] | None,
        Field(
            validation_alias=_both("allow_out"),
            description="IPv4 addresses, networks, domains, and `*.domain` for all below a domain. Domains need "
            "everything else to be denied.",
        ),
    ] = None
    deny_out: Annotated[
        list[str] | None,
        Field(validation_alias=_both("deny_out"), description="IPv4 addresses and networks."),
    ] = None
    rules: Annotated[
        dict[str, Any] | list[Any] | None,
        Field(
            description="Egress rules `[{name, match, action}]`, of which the first that fits decides, or E2B's form "
            "`{host: [{transform: {headers: {name: value}}}]}`."
        ),
    ] = None
    dns_servers: Annotated[
        list[str] | None,
        Field(validation_alias=_both("dns_servers"), description="IPv4 addresses that names are asked of."),
    ] = None
    dns: Annotated[
        str | None, Field(description="`open` answers every name, `strict` those that the policy speaks of.")
    ] = None
    limits: NetworkLimits | None = None
    egress_proxy: Annotated[
        dict[str, Any] | None,
        Field(validation_alias=_both("egress_proxy"), description="Not supported by this server."),
    ] = None


class Network(NetworkPolicy):
    """What a sandbox may reach and who may reach it."""

    allow_public_traffic: Annotated[
        bool | None,
        Field(
            validation_alias=_both("allow_public_traffic"),
            description="`false` asks for `trafficAccessToken` on every port but the agent's.",
        ),
    ] = None
    mask_request_host: Annotated[
        str | None,
        Field(
            validation_alias=_both("mask_request_host"),
            max_length=255,
            pattern=f"^{HOST_MASK.pattern}$",
            description="Host header that services in the sandbox see; `${PORT}` stands for the port.",
        ),
    ] = None
    https_ports: Annotated[
        list[Annotated[int, WHOLE]] | None,
        Field(validation_alias=_both("https_ports"), description="Not supported by this server."),
    ] = None


class NetworkUpdate(NetworkPolicy):
    """What a running sandbox may reach from now on, in place of all that was said before."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{}, {"denyOut": ["0.0.0.0/0"], "allowOut": ["api.example.com", "203.0.113.0/24"]}]
        }
    )


class DnsConfig(RequestBody):
    """CubeSandbox's form of `network.dnsServers`."""

    servers: list[str] | None = None


class SandboxNetwork(ResponseBody):
    """What holds for the network of a sandbox. Secrets are masked."""

    allow_public_traffic: bool
    mask_request_host: str | None = None
    allow_out: list[str] | None = None
    deny_out: list[str] | None = None
    rules: list[dict[str, Any]] | dict[str, Any] | None = None
    dns_servers: list[str] | None = None
    dns: str | None = None
    limits: dict[str, int] | None = None

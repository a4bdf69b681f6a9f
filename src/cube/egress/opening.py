"""The outbound proxy as the settings want it."""

from __future__ import annotations

from cube.egress.ca import open_authority
from cube.egress.envoy.clusters import World, refused_ranges
from cube.egress.gateway import CubeEgress
from cube.model.errors import HostError
from cube.settings import Settings


def open_gateway(settings: Settings) -> CubeEgress:
    """The outbound proxy of an instance, not started yet. Its authority is made when there is none.

    Raises ``HostError`` when the authority cannot be used, or when there is nothing to check servers against.
    """
    if not settings.egress_trust.is_file():
        raise HostError(
            f"there is no {settings.egress_trust} to check servers' certificates against: "
            "install the package ca-certificates, or set CUBE_EGRESS_TRUST"
        )
    return CubeEgress(settings, open_authority(settings.ca_dir), _world(settings))


def _world(settings: Settings) -> World:
    return World(
        trust=settings.egress_trust,
        resolvers=_listed(settings.dns_servers),
        refused=(*refused_ranges(_listed(settings.egress_private)), settings.network_cidr),
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())

"""How the outbound Envoy is run."""

from __future__ import annotations

from cube.egress.envoy.clusters import World, world_clusters
from cube.proxy.bootstrap import bootstrap
from cube.proxy.envoy import EnvoyOptions
from cube.settings import Settings

_FLUSH_MILLISECONDS = 200


def envoy_options(settings: Settings, world: World, concurrency: int = 2) -> EnvoyOptions:
    """How the outbound Envoy of an instance is run.

    It logs warnings and what is worse, whatever the service's level: at `debug` it prints headers, and with them what
    is injected.
    """
    home = settings.run_dir / "egress"
    admin_socket = home / "admin" / "admin.sock"
    node = f"{settings.instance}-egress"
    return EnvoyOptions(
        directory=home,
        uid=settings.egress_uid,
        bootstrap=bootstrap(node, admin_socket, home / "xds.sock", clusters=world_clusters(world)),
        concurrency=concurrency,
        # To be handed connections whose destination is somewhere else.
        capabilities=("net_raw",),
        # `misc` repeats for every refused range that its message is not settled yet.
        arguments=("--file-flush-interval-msec", str(_FLUSH_MILLISECONDS), "--component-log-level", "misc:error"),
    )

"""What the outbound proxy has in ``run_dir/egress``, and how it is taken away, also after a crash of the service."""

from __future__ import annotations

import shutil
from pathlib import Path

from cube.egress.audit.log import AuditLog
from cube.egress.audit.spool import Spool
from cube.egress.audit.writer import AuditWriter
from cube.proxy import sockets
from cube.proxy.envoy import EnvoyOptions, EnvoyProcess
from cube.settings import Settings


def spool_in(home: Path) -> Spool:
    """Where Envoy notes requests."""
    return Spool(home / "audit", home / "spool.state")


def remove_directory(home: Path) -> None:
    """Remove what is the proxy's own there."""
    shutil.rmtree(home / "audit", ignore_errors=True)
    (home / "spool.state").unlink(missing_ok=True)
    (home / "xds.sock").unlink(missing_ok=True)
    sockets.remove_directory(home)


async def remove_remains(settings: Settings) -> None:
    """Remove what a killed run of the service left, its Envoy and files, once the last requests are written down."""
    home = settings.run_dir / "egress"
    await EnvoyProcess(EnvoyOptions(home, settings.egress_uid, {}, 1)).end_former()
    spool = spool_in(home)
    if spool.path.exists():
        await AuditWriter(spool, AuditLog(settings.egress_log), _unknown, _nobody).catch_up()
    remove_directory(home)


def _unknown(_: str) -> None:
    return None


async def _nobody() -> None:
    """Envoy is gone: there is nobody to open the file again."""

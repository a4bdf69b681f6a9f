"""Other ways of starting the image that cube's sandboxes are cloned from.

Each round gets a writable overlay on the mounted image, as a container engine would make it, and where the rival knows
such things the limits and the system call filter of a sandbox. The rival is spared what cube's figure includes besides:
the user namespace with an id-mapped image, the network link, the disk quota, the record in the database, and the HTTP
interface.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from cube.bench.load import Round, RoundFailed
from cube.bench.rivals.bwrap import Bwrap
from cube.bench.rivals.ground import CannotRun, Rival
from cube.bench.rivals.oci import OciRuntime
from cube.bench.rivals.podman import Podman

__all__ = ["NAMES", "CannotRun", "contestant"]

_MAKERS: dict[str, Callable[[Path, Path], Rival]] = {
    "runc": lambda image, workspace: OciRuntime("runc", image, workspace),
    "crun": lambda image, workspace: OciRuntime("crun", image, workspace),
    # On the kernels of today gVisor's own network stack fails; without any network it has less to set up than cube.
    "runsc": lambda image, workspace: OciRuntime("runsc", image, workspace, "--network=none", "--platform=systrap"),
    "podman": Podman,
    "bwrap": Bwrap,
}
NAMES = tuple(_MAKERS)


async def contestant(name: str, image: Path, workspace: Path) -> Round:
    """A round of the rival ``name``, which has been tried once.

    Raises :class:`CannotRun` with the reason when it cannot run on this machine, and ``KeyError`` for another name.
    """
    make = _MAKERS[name]
    try:
        once = (await asyncio.to_thread(make, image, workspace)).round()
        await once()
    except RoundFailed as failure:
        raise CannotRun(str(failure)) from failure
    return once

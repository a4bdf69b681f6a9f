"""The routing table that Envoy's workers read: a directory with one small file per running sandbox.

Why files and not a virtual host per sandbox (VHDS) or a cluster (on-demand CDS): adding one costs a few system calls
and nothing in Envoy, while Envoy rebuilds its whole host table for every virtual host that comes or goes; the route
is there before the client learns the id; nobody can make Envoy remember ids that do not exist; and the table serves
on when the control plane is down or Envoy was restarted. A worker reads it with an open, a read and a close on cached
pages, a few microseconds; nothing here waits for a disk.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from cube.model.ids import is_sandbox_id
from cube.proxy.routes import Route, encode

_READABLE = 0o640


class RouteTable:
    """Writer of the table. The directory belongs to root; the proxy's group may read it, nobody else."""

    def __init__(self, directory: Path) -> None:
        self._directory = os.fspath(directory)

    def add(self, route: Route) -> None:
        """Add or replace a route; a reader sees the old record or the new one, never a part of one."""
        draft = f"{self._directory}/.{route.sandbox_id}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _READABLE)
        try:
            os.fchmod(fd, _READABLE)
            os.write(fd, encode(route))
        finally:
            os.close(fd)
        os.rename(draft, f"{self._directory}/{route.sandbox_id}")

    def remove(self, sandbox_id: str) -> None:
        """Take a route out; without one this does nothing."""
        if is_sandbox_id(sandbox_id):
            self._unlink(sandbox_id)

    def clear(self) -> None:
        """Take all routes out, drafts of an interrupted run too."""
        for name in os.listdir(self._directory):
            self._unlink(name)

    def _unlink(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(f"{self._directory}/{name}")

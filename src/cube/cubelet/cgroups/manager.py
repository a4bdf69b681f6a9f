"""The cgroups of one instance: a parent in every hierarchy, and a child of it per sandbox."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cube.cubelet.cgroups import delegate
from cube.cubelet.cgroups.detect import CgroupHost, Hierarchy
from cube.cubelet.cgroups.files import children, make_directory, read, set_value
from cube.cubelet.cgroups.group import Cgroup
from cube.cubelet.cgroups.limits import ALLOWED_DEVICES
from cube.model.errors import HostError

if TYPE_CHECKING:  # a helper has no use for all that settings bring along
    from cube.settings import Settings

# A dot or an underscore could name a control file, which live beside the children.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


class CgroupManager:
    """Use from one thread at a time. ``prepare`` comes first."""

    def __init__(self, settings: Settings, host: CgroupHost, *, devices: Sequence[str] = ()) -> None:
        """``devices`` are character devices (major:minor) that are allowed besides the harmless ones."""
        self.instance = settings.instance
        self.host = host
        self._devices = devices

    def prepare(self) -> None:
        """Make the parents and hand them their controllers; may be repeated, also while sandboxes run.

        ``HostError`` says what the machine lacks or refuses.
        """
        if self.host.missing:
            raise HostError(
                f"the kernel has no cgroup controller for {', '.join(self.host.missing)}: boot it with "
                "cgroup_enable=memory, or mount the controllers below /sys/fs/cgroup"
            )
        for hierarchy in self.host.hierarchies:
            if hierarchy.version == 2:
                self._prepare_new(hierarchy)
            else:
                self._prepare_old(hierarchy)

    def group(self, name: str) -> Cgroup:
        """The cgroup of that name, whether it is there or not. ``ValueError`` for a bad name."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a cgroup")
        return Cgroup(self.host, self.instance, name)

    def create(self, name: str) -> Cgroup:
        """A new cgroup without limits. ``ValueError`` for a bad name, ``HostError`` when the kernel refuses."""
        group = self.group(name)
        group.make()
        return group

    def adopt(self, name: str) -> Cgroup:
        """The cgroup that an earlier run of the service made. ``NotFound`` when it is gone."""
        group = self.group(name)
        group.require()
        return group

    def names(self) -> set[str]:
        """Names of all cgroups of this instance, also of those that exist in some hierarchies only."""
        return set[str]().union(*(children(self._parent(found)) for found in self.host.hierarchies))

    async def destroy(self, name: str) -> None:
        """Kill what is in a cgroup and remove it, known or left over; succeeds when there is none."""
        group = self.group(name)
        await group.kill()
        await group.remove()

    async def close(self, *, remove: bool) -> None:
        """With ``remove``, end all sandboxes' processes and leave no cgroup; else nothing is to be done."""
        if not remove:
            return
        for name in self.names():
            await self.destroy(name)
        for hierarchy in self.host.hierarchies:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(self._parent(hierarchy))
            if hierarchy.controllers and hierarchy.version == 2:
                delegate.restore(hierarchy.base, hierarchy.controllers, self._leaf)

    @property
    def _leaf(self) -> str:
        """Where processes go that stand in the way, see :mod:`.delegate`."""
        return f"{self.instance}-host"

    def _parent(self, hierarchy: Hierarchy) -> Path:
        return hierarchy.base / self.instance

    def _prepare_new(self, hierarchy: Hierarchy) -> None:
        if hierarchy.controllers:
            delegate.enable(hierarchy.base, hierarchy.controllers, self._leaf)
        make_directory(self._parent(hierarchy))
        if hierarchy.controllers:
            delegate.enable(self._parent(hierarchy), hierarchy.controllers, self._leaf)

    def _prepare_old(self, hierarchy: Hierarchy) -> None:
        parent = self._parent(hierarchy)
        make_directory(parent)
        if "memory" in hierarchy.controllers:
            _count_children(parent / "memory.use_hierarchy")
        if "devices" in hierarchy.controllers:
            _close_devices(parent)
            for device in self._devices:
                set_value(parent / "devices.allow", f"c {device} rwm")


def _count_children(knob: Path) -> None:
    """Old kernels (before 5.11) count a child's memory against its parent only when told so."""
    if knob.exists() and read(knob).strip() == "0":
        set_value(knob, "1")


def _close_devices(parent: Path) -> None:
    """Deny all devices but the harmless ones; children inherit it. The kernel takes this only while there are none."""
    if not read(parent / "devices.list").startswith("a "):
        return
    set_value(parent / "devices.deny", "a")
    for device in ALLOWED_DEVICES:
        set_value(parent / "devices.allow", f"c {device} rwm")

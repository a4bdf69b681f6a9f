"""The part of making a seat that waits for a disk or for locks of the kernel: a hundred system calls, for a helper."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cube.cubelet.cgroups.detect import CgroupHost
from cube.cubelet.cgroups.group import Cgroup
from cube.cubelet.runtime.container import seat_files
from cube.cubelet.runtime.container.steps import CloneIntoCgroup, JoinCgroup, Step
from cube.cubelet.storage.volume import make_layer
from cube.model.resources import Resources


@dataclass(frozen=True, slots=True)
class SeatPlan:
    """What is to be made."""

    #: Where layers are, and the name of this one.
    layers: Path
    layer: str
    #: Host id of the sandbox's root, and the address of its gateway.
    id_base: int
    gateway: str
    cgroups: CgroupHost
    instance: str
    cgroup: str


@dataclass(frozen=True, slots=True)
class SeatWork:
    """What was made; :func:`entrances` to the cgroup come beside it."""

    #: Id of the layer's subvolume.
    subvolume: int
    #: What is in the cgroup's control files.
    limits: dict[str, str]


def lay_out(plan: SeatPlan) -> tuple[SeatWork, list[int]]:
    """Make a layer and a cgroup. The cgroup gets the usual limits: when the sandbox comes, only what it has otherwise
    is written.

    Raises ``FileExistsError`` when the layer is there, ``OSError`` and ``HostError``; what was made then is left.
    """
    usual = Resources()
    layer, subvolume = make_layer(plan.layers, plan.layer, owner=plan.id_base, disk_mb=usual.disk_mb)
    seat_files.write_place(layer.upper, plan.id_base, plan.gateway)
    cgroup = Cgroup(plan.cgroups, plan.instance, plan.cgroup)
    cgroup.make()
    cgroup.limit(usual)
    return SeatWork(subvolume, cgroup.written), entrances(cgroup)


def entrances(cgroup: Cgroup) -> list[int]:
    """Descriptors to be born in a cgroup by, if that is possible, and to join it by; the caller closes them."""
    with contextlib.ExitStack() as opened:
        born = cgroup.directory_fd()
        fds = [] if born is None else [born]
        for fd in fds:
            opened.callback(os.close, fd)
        fds += cgroup.procs_fds(born=True)
        opened.pop_all()
    return fds


def entering(cgroup: Cgroup, fds: Sequence[int], borrowed: contextlib.ExitStack) -> list[Step]:
    """The steps that put a process into a cgroup by its entrances, which live as long as ``borrowed``."""
    for fd in fds:
        borrowed.callback(os.close, fd)
    births = 1 if cgroup.can_be_born_in else 0
    return [*map(CloneIntoCgroup, fds[:births]), *map(JoinCgroup, fds[births:])]

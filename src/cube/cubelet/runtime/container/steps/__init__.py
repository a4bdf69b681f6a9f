"""Launch steps: what process 1 of a sandbox does, in order, before it serves (``docs/cube-init.md``).

Every step is a value. A :class:`Plan` holds them with the descriptors that they need; ``str(step)`` says in words what
it does, for the error when the kernel refuses it. The caller decides the order. One that gives up nothing too early:
``JoinCgroup``, ``EnterNet``, ``NewCgroupNamespace``, ``Hostname``, mounts, ``Pivot``, ``Sysctl``, ``ResourceLimit``,
``EnterUser``, ``CapabilitySet``, ``NoNewPrivs``, ``Seccomp``.

User and group ids are those of the host: the first id of the sandbox's range is its root.
"""

from __future__ import annotations

from cube.cubelet.runtime.container.steps.endings import Park, Serve
from cube.cubelet.runtime.container.steps.files import Directory, File, MakeNode, SymbolicLink
from cube.cubelet.runtime.container.steps.mounts import (
    AttachHost,
    Bind,
    Mask,
    Mount,
    MoveIn,
    Overlay,
    Pivot,
    ReadOnly,
    Staging,
)
from cube.cubelet.runtime.container.steps.places import (
    CloneIntoCgroup,
    EnterNet,
    Hostname,
    JoinCgroup,
    NewCgroupNamespace,
    NewNet,
    SharePids,
)
from cube.cubelet.runtime.container.steps.rights import (
    CapabilitySet,
    EnterUser,
    NoNewPrivs,
    OomScore,
    ResourceLimit,
    Seccomp,
    Sysctl,
)
from cube.cubelet.runtime.container.steps.step import Index, Step

__all__ = [
    "AttachHost",
    "Bind",
    "CapabilitySet",
    "CloneIntoCgroup",
    "Directory",
    "EnterNet",
    "EnterUser",
    "File",
    "Hostname",
    "Index",
    "JoinCgroup",
    "MakeNode",
    "Mask",
    "Mount",
    "MoveIn",
    "NewCgroupNamespace",
    "NewNet",
    "NoNewPrivs",
    "OomScore",
    "Overlay",
    "Park",
    "Pivot",
    "ReadOnly",
    "ResourceLimit",
    "Seccomp",
    "Serve",
    "SharePids",
    "Staging",
    "Step",
    "SymbolicLink",
    "Sysctl",
]

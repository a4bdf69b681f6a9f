"""Steps that put the process where it belongs: cgroups, network, names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cube.cubelet.runtime.container.steps.step import Index, Step
from cube.cubelet.runtime.guest.wire import Writer


@dataclass(frozen=True, slots=True)
class JoinCgroup(Step):
    """Join the cgroup of this open ``cgroup.procs``."""

    op: ClassVar[int] = 1
    procs: int

    def encode(self, body: Writer, index: Index) -> None:
        body.u32(index(self.procs))

    def __str__(self) -> str:
        return "joining its cgroup"


@dataclass(frozen=True, slots=True)
class CloneIntoCgroup(Step):
    """Be born in the cgroup of this open directory (version 2 only); must be the first step.

    Joining later takes the lock over all processes of the machine and waits for a grace period of the kernel: measured,
    10 ms where this takes none.
    """

    op: ClassVar[int] = 25
    directory: int

    def encode(self, body: Writer, index: Index) -> None:
        body.u32(index(self.directory))

    def __str__(self) -> str:
        return "being born in its cgroup"


@dataclass(frozen=True, slots=True)
class EnterNet(Step):
    """Enter this network namespace."""

    op: ClassVar[int] = 2
    namespace: int

    def encode(self, body: Writer, index: Index) -> None:
        body.u32(index(self.namespace))

    def __str__(self) -> str:
        return "entering its network namespace"


@dataclass(frozen=True, slots=True)
class NewNet(Step):
    """Leave for a new network namespace that has nothing but a loopback interface that is down."""

    op: ClassVar[int] = 29

    def encode(self, body: Writer, index: Index) -> None:
        pass

    def __str__(self) -> str:
        return "making an empty network namespace"


@dataclass(frozen=True, slots=True)
class SharePids(Step):
    """Stay in the host's process namespace, for a process whose forks outlive it: a namespace ends with its first."""

    op: ClassVar[int] = 30

    def encode(self, body: Writer, index: Index) -> None:
        pass

    def __str__(self) -> str:
        return "staying in the host's process namespace"


@dataclass(frozen=True, slots=True)
class NewCgroupNamespace(Step):
    """Make the cgroups that were joined the roots of what the sandbox sees."""

    op: ClassVar[int] = 3

    def encode(self, body: Writer, index: Index) -> None:
        pass

    def __str__(self) -> str:
        return "making a cgroup namespace"


@dataclass(frozen=True, slots=True)
class Hostname(Step):
    """Name the machine."""

    op: ClassVar[int] = 4
    name: str

    def encode(self, body: Writer, index: Index) -> None:
        body.text(self.name)

    def __str__(self) -> str:
        return f"setting the host name {self.name}"
